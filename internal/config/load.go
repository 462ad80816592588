package config

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

// A Purpose is what a process does. It decides which settings the process needs.
type Purpose int

const (
	// ForAPI needs database.url, redis.url and server_name.
	ForAPI Purpose = iota
	// ForAsynqmon needs redis.url, and database.url where auth is database.
	ForAsynqmon
	// ForDatabase needs database.url: migrations and the operator's tool.
	ForDatabase
	// ForScheduler needs database.url and redis.url.
	ForScheduler
	// ForWorker needs database.url, redis.url and server_name.
	ForWorker
)

const (
	variablePrefix = "LETHE_"
	fileVariable   = variablePrefix + "CONFIG"
)

// Load returns the settings for a process that serves all the purposes. Each source
// overrides the ones before it:
//
//   - the defaults;
//   - Synapse's own configuration, if homeserver.config_file names it;
//   - the YAML file that LETHE_CONFIG names, if it is set;
//   - the LETHE_* variables of the environment, which is a list of NAME=value, as
//     [os.Environ] returns. The variable of a secret with _FILE appended names a
//     file that holds the secret.
//
// Load checks every value, even one that is overridden or that no purpose needs.
// The error lists everything that is wrong, one line each, with the key and its
// place in the file or with the variable. It repeats no value. The Config is then
// the zero value.
func Load(environ []string, purposes ...Purpose) (Config, error) {
	config := Default()
	l := newLoader(&config)
	variables := letheVariables(environ)
	var own *file
	if path := variables[fileVariable]; path != "" {
		own = l.openFile(path)
	}
	// The other two sources name Synapse's file, but they override what is in it.
	if path := homeserverFile(variables, own); path != "" {
		l.loadHomeserverFile(path)
	}
	if own != nil {
		own.section("", own.root)
	}
	l.loadVariables(variables)
	if l.unset["journal.keep"] {
		config.JournalKeep = max(config.JournalKeep, config.StatusTTL)
	}
	l.checkNeeded(purposes)
	if slices.Contains(purposes, ForAsynqmon) && config.TokensAt() != AuthHomeserver && l.unset["database.url"] {
		l.refuse("database.url", fmt.Errorf("must be set, here or as %s, since access tokens are looked up there", variable("database.url")))
	}
	l.checkTogether(config)
	l.checkAuth(config, purposes)
	if len(l.errs) > 0 {
		return Config{}, fmt.Errorf("load configuration:\n%w", errors.Join(l.errs...))
	}
	return config, nil
}

// A loader applies settings and collects the errors.
type loader struct {
	config   *Config
	errs     []error
	settings map[string]setting // by path
	unset    map[string]bool    // paths that have neither a value nor an error yet

	// secretPath is why the file of mas.secret that Synapse's configuration names cannot
	// be read. It is an error only where the secret is needed, because other processes
	// may not be able to read it.
	secretPath error
}

// newLoader returns a loader that changes config.
func newLoader(config *Config) *loader {
	l := &loader{config: config, settings: map[string]setting{}, unset: map[string]bool{}}
	for _, s := range settings(config) {
		l.settings[s.path], l.unset[s.path] = s, true
	}
	return l
}

// checkNeeded refuses to go without a setting that one of the purposes needs.
func (l *loader) checkNeeded(purposes []Purpose) {
	for _, path := range slices.Sorted(maps.Keys(l.settings)) {
		needed := slices.ContainsFunc(purposes, func(p Purpose) bool { return slices.Contains(l.settings[path].neededBy, p) })
		if needed && l.unset[path] {
			l.refuse(path, fmt.Errorf("must be set, here or as %s", variable(path)))
		}
	}
}

// checkTogether refuses settings that contradict each other.
func (l *loader) checkTogether(config Config) {
	l.pair("api.tls_cert_file", config.API.TLS.CertFile, "api.tls_key_file", config.API.TLS.KeyFile)
	l.pair("asynqmon.tls_cert_file", config.Asynqmon.TLS.CertFile, "asynqmon.tls_key_file", config.Asynqmon.TLS.KeyFile)
	if config.JournalKeep < config.StatusTTL {
		l.refuse("journal.keep", errors.New("must be at least status_ttl, since a status may be read from the journal"))
	}
	for _, err := range config.Retention.Rules.Check() {
		l.refuse("retention", err)
	}
}

// set applies one setting. The origin says where the text is from.
func (l *loader) set(path, origin, text string) {
	l.unset[path] = text == ""
	s := l.settings[path]
	if s.mappings != nil {
		l.setMappings(s, origin, text)
		return
	}
	if err := s.set(text); err != nil {
		l.refuseValue(path, origin, err)
	}
}

// pair refuses one of two settings if the other is not set.
func (l *loader) pair(path, text, other, otherText string) {
	if text == "" && otherText != "" {
		path, other = other, path
	} else if text == "" || otherText != "" {
		return
	}
	l.refuse(other, fmt.Errorf("must be set, here or as %s, since %s is", variable(other), path))
}

// setMappings applies a setting that is a list of mappings, from a text of YAML.
func (l *loader) setMappings(s setting, origin, text string) {
	list, err := parseMappings(text)
	if err != nil {
		l.refuse(origin, err)
		return
	}
	s.mappings(list, ourKeys, func(_ int, place string, err error) { l.refuse(origin+place, err) })
}

// refuseValue refuses the value of a setting, which then does not count as missing.
func (l *loader) refuseValue(path, origin string, err error) {
	l.unset[path] = false
	l.refuse(origin, err)
}

// refuse records an error of what the origin says.
func (l *loader) refuse(origin string, err error) {
	l.errs = append(l.errs, fmt.Errorf("%s: %w", origin, err))
}

// loadVariables applies the variables, sorted by name so that the error is always
// the same.
func (l *loader) loadVariables(variables map[string]string) {
	paths, files := map[string]string{}, map[string]string{}
	for path, s := range l.settings {
		paths[variable(path)] = path
		if s.isSecret {
			files[variable(path)+secretSuffix] = path
		}
	}
	for _, name := range slices.Sorted(maps.Keys(variables)) {
		if path, ok := paths[name]; ok {
			l.set(path, name, variables[name])
		} else if path, ok := files[name]; ok {
			l.loadSecretFile(path, name, variables)
		} else if name != fileVariable && !foreign(name, variables[name]) {
			l.refuse(name, errors.New("no such setting"))
		}
	}
}

// letheVariables returns the variables of environ that begin with LETHE_.
func letheVariables(environ []string) map[string]string {
	variables := map[string]string{}
	for _, entry := range environ {
		if name, value, ok := strings.Cut(entry, "="); ok && strings.HasPrefix(name, variablePrefix) {
			variables[name] = value
		}
	}
	return variables
}

// serviceLink matches most of the variables that Kubernetes sets in every pod for
// a Service whose name begins with "lethe".
var serviceLink = regexp.MustCompile(`_SERVICE_HOST$|_SERVICE_PORT(_[A-Z0-9_]+)?$|_PORT_[0-9]+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?$`)

// clientVariables are those with which the command lethe asks an API. They may be in the
// shell, or in the pod, of a command that reads settings.
var clientVariables = []string{variablePrefix + "API_URL", variablePrefix + "TOKEN", variablePrefix + "TOKEN" + secretSuffix}

// foreign reports whether a LETHE_ variable belongs to Kubernetes, to the command lethe or
// to the tests, so that it is not a misspelt setting.
func foreign(name, value string) bool {
	// LETHE_API_PORT=tcp://10.0.0.1:8470 is set by Kubernetes too.
	// LETHE_API_PORT=8470 is a mistake of the operator.
	return strings.HasPrefix(name, variablePrefix+"TEST_") ||
		slices.Contains(clientVariables, name) ||
		serviceLink.MatchString(name) ||
		strings.HasSuffix(name, "_PORT") && strings.Contains(value, "://")
}

// maxFileSize is the size of the largest file that is read, in bytes.
const maxFileSize = 1 << 20

// readFile reads a file of settings.
func readFile(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }() // only read
	data, err := io.ReadAll(io.LimitReader(f, maxFileSize+1))
	if err == nil && len(data) > maxFileSize {
		err = errors.New("the file is larger than 1 MiB")
	}
	return data, err
}

// openYAML reads the mapping in a file. If that fails, it also returns the origin of the
// error: the setting that names the file, or the file.
func openYAML(path, namedBy string) (root *yaml.Node, origin string, err error) {
	data, err := readFile(path)
	if err != nil {
		return nil, namedBy, err
	}
	root, err = parseYAML(data)
	return root, path, err
}

// openFile reads Lethe's own file. If the file cannot be read or is not YAML,
// openFile returns nil, and no setting counts as missing: the file may have it.
func (l *loader) openFile(path string) *file {
	root, origin, err := openYAML(path, fileVariable)
	if errors.Is(err, errEmptyFile) {
		err = fmt.Errorf("%w; unset %s to go without one", err, fileVariable)
	}
	if err != nil {
		clear(l.unset)
		l.refuse(origin, err)
		return nil
	}
	return &file{loader: l, lines: map[string]int{}, path: path, root: root}
}
