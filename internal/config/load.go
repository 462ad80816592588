package config

import (
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"slices"
	"strings"
)

// A Purpose is what a process does, which decides what it must be told.
type Purpose int

const (
	// ForAPI needs database.url, redis.url and server_name.
	ForAPI Purpose = iota
	// ForAsynqmon needs database.url and redis.url.
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

// Load returns the settings for a process that serves all the purposes: the
// defaults, overridden by what Synapse's own configuration says of them, if
// homeserver.config_file names it, overridden by the YAML file that LETHE_CONFIG
// names, if it is set, overridden by LETHE_* variables, of which those of secrets
// may name a file instead. The environment is a list of NAME=value, as
// [os.Environ] returns. What is set is checked whether a purpose needs it or
// not, also where it is overridden.
//
// The error lists everything that is wrong, a line each, with the key and its
// place in the file or with the variable; it repeats no value. The Config is
// then the zero value.
func Load(environ []string, purposes ...Purpose) (Config, error) {
	config := Default()
	all := settings(&config)
	l := loader{settings: make(map[string]setting, len(all)), unset: make(map[string]bool, len(all))}
	for _, s := range all {
		l.settings[s.path], l.unset[s.path] = s, true
	}

	variables := ours(environ)
	var own *file
	if path := variables[fileVariable]; path != "" {
		own = l.openFile(path)
	}
	// It is set by the others, but they win over what is in it.
	if path := homeserverFile(variables, own); path != "" {
		l.loadHomeserverFile(path)
	}
	if own != nil {
		own.section("", own.root)
	}
	l.loadVariables(variables)
	for _, s := range all {
		if l.unset[s.path] && slices.ContainsFunc(purposes, func(p Purpose) bool { return slices.Contains(s.neededBy, p) }) {
			l.refuse(s.path, fmt.Errorf("must be set, here or as %s", variable(s.path)))
		}
	}
	if l.unset["homeserver.url"] && config.Auth == AuthHomeserver {
		l.refuse("homeserver.url", fmt.Errorf("must be set, here or as %s, since auth is %s",
			variable("homeserver.url"), AuthHomeserver))
	}
	l.pair("api.tls_cert_file", config.API.TLS.CertFile, "api.tls_key_file", config.API.TLS.KeyFile)
	l.pair("asynqmon.tls_cert_file", config.Asynqmon.TLS.CertFile, "asynqmon.tls_key_file", config.Asynqmon.TLS.KeyFile)
	for _, err := range config.Retention.Rules.Check() {
		l.refuse("retention", err)
	}
	if len(l.errs) > 0 {
		return Config{}, fmt.Errorf("load configuration:\n%w", errors.Join(l.errs...))
	}
	return config, nil
}

// A loader applies settings and gathers what is wrong with them.
type loader struct {
	errs     []error
	settings map[string]setting // by path
	unset    map[string]bool    // paths with neither a value nor an error yet
}

// set applies one setting; origin says where its text is from.
func (l *loader) set(path, origin, text string) {
	l.unset[path] = text == ""
	s := l.settings[path]
	if s.mappings != nil {
		l.setMappings(s, origin, text)
		return
	}
	if err := s.set(text); err != nil {
		l.unset[path] = false
		l.refuse(origin, err)
	}
}

// pair refuses one of two settings without the other.
func (l *loader) pair(path, text, other, otherText string) {
	if text == "" && otherText != "" {
		path, other = other, path
	} else if text == "" || otherText != "" {
		return
	}
	l.refuse(other, fmt.Errorf("must be set, here or as %s, since %s is", variable(other), path))
}

// setMappings applies a setting that is a list of mappings, from a text.
func (l *loader) setMappings(s setting, origin, text string) {
	list, err := parseMappings(text)
	if err != nil {
		l.refuse(origin, err)
		return
	}
	s.mappings(list, ourKeys, func(_ int, place string, err error) { l.refuse(origin+place, err) })
}

// refuse records that what origin says cannot be used.
func (l *loader) refuse(origin string, err error) {
	l.errs = append(l.errs, fmt.Errorf("%s: %w", origin, err))
}

// loadVariables applies the variables, in the order of their names so that the
// error is the same each time.
func (l *loader) loadVariables(variables map[string]string) {
	paths, files := map[string]string{}, map[string]string{}
	for path, s := range l.settings {
		paths[variable(path)] = path
		if s.secret {
			files[variable(path)+secretSuffix] = path
		}
	}
	names := make([]string, 0, len(variables))
	for name := range variables {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		if path, ok := paths[name]; ok {
			l.set(path, name, variables[name])
		} else if path, ok := files[name]; ok {
			l.loadSecretFile(path, name, variables)
		} else if name != fileVariable && !foreign(name, variables[name]) {
			l.refuse(name, errors.New("no such setting"))
		}
	}
}

// ours returns the variables of environ that begin with LETHE_.
func ours(environ []string) map[string]string {
	variables := map[string]string{}
	for _, entry := range environ {
		if name, value, ok := strings.Cut(entry, "="); ok && strings.HasPrefix(name, variablePrefix) {
			variables[name] = value
		}
	}
	return variables
}

// serviceLink matches most of the variables that Kubernetes gives every pod for
// a Service whose name begins with "lethe".
var serviceLink = regexp.MustCompile(`_SERVICE_HOST$|_SERVICE_PORT(_[A-Z0-9_]+)?$|_PORT_[0-9]+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?$`)

// foreign reports whether a LETHE_ variable is not a setting and not meant as
// one: a service link, or one for the tests.
func foreign(name, value string) bool {
	// The last kind of link is LETHE_API_PORT=tcp://10.0.0.1:8470, whereas
	// LETHE_API_PORT=8470 is an operator's mistake.
	return strings.HasPrefix(name, variablePrefix+"TEST_") ||
		serviceLink.MatchString(name) ||
		strings.HasSuffix(name, "_PORT") && strings.Contains(value, "://")
}

// mostBytes is how large a file may be.
const mostBytes = 1 << 20

// readFile reads a file that is not too large to be one of settings.
func readFile(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }() // only read
	data, err := io.ReadAll(io.LimitReader(f, mostBytes+1))
	if err == nil && len(data) > mostBytes {
		err = errors.New("the file is larger than 1 MiB")
	}
	return data, err
}

// openFile reads our own file. If it cannot be read or is no YAML, it is nil, and
// nothing counts as missing: that would only hide the one mistake.
func (l *loader) openFile(path string) *file {
	data, err := readFile(path)
	if err != nil {
		clear(l.unset)
		l.refuse(fileVariable, err)
		return nil
	}
	root, err := parseYAML(data)
	if errors.Is(err, errEmptyFile) {
		err = fmt.Errorf("%w; unset %s to go without one", err, fileVariable)
	}
	if err != nil {
		clear(l.unset)
		l.refuse(path, err)
		return nil
	}
	return &file{loader: l, lines: map[string]int{}, path: path, root: root}
}
