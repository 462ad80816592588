package config

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"strings"

	"go.yaml.in/yaml/v3"
)

// homeserverFile returns the path of Synapse's configuration, "" if it is not set.
func homeserverFile(variables map[string]string, own *file) string {
	const section, key = "homeserver", "config_file"
	if path, ok := variables[variable(section+"."+key)]; ok || own == nil {
		return path
	}
	value := lookUp(lookUp(own.root, section), key)
	if value == nil || value.Kind != yaml.ScalarNode || isNull(value) {
		return "" // the error is reported when the setting is applied
	}
	return value.Value
}

// lookUp returns the value of a key of a mapping, or nil. If the mapping has the
// key twice, the last value counts, as in PyYAML.
func lookUp(mapping *yaml.Node, key string) *yaml.Node {
	if mapping == nil || mapping.Kind != yaml.MappingNode {
		return nil
	}
	for i := len(mapping.Content) - 2; i >= 0; i -= 2 {
		if name := mapping.Content[i]; name.Kind == yaml.ScalarNode && name.Value == key {
			return resolve(mapping.Content[i+1])
		}
	}
	return nil
}

// loadHomeserverFile applies Synapse's configuration. It takes only the settings
// that Lethe has too, and its Redis. They have the same paths there, but for those of
// [MAS] and of the Redis.
func (l *loader) loadHomeserverFile(path string) {
	root, origin, err := openYAML(path, "homeserver.config_file")
	if err != nil {
		l.refuse(origin, err)
		for _, path := range []string{"server_name", "mas.url", "mas.secret"} {
			l.unset[path] = false // the file may have it
		}
		return
	}
	(&synapseFile{loader: l, path: path}).apply(root)
}

// A synapseFile is a configuration of Synapse that is being applied. A key that is
// null in it is not set.
type synapseFile struct {
	*loader
	path string
}

// apply applies the file's mapping.
func (f *synapseFile) apply(root *yaml.Node) {
	f.leaves(root, "", "server_name")
	section := f.section(root, "", "retention")
	f.leaves(section, "retention.", "enabled", "allowed_lifetime_min", "allowed_lifetime_max", "purge_jobs")
	policy := f.section(section, "retention.", "default_policy")
	f.leaves(policy, "retention.default_policy.", "min_lifetime", "max_lifetime")
	f.accounts(root)
	f.redis(f.section(root, "", "redis"))
	f.databases(f.section(root, "", "databases"))
}

// redis applies Synapse's Redis, if it is enabled.
func (f *synapseFile) redis(section *yaml.Node) {
	if section == nil || !f.redisEnabled(lookUp(section, "enabled")) {
		return
	}
	refused := false
	text := func(key, otherwise string) string {
		value := lookUp(section, key)
		if value == nil || isNull(value) {
			return otherwise
		}
		if value.Kind != yaml.ScalarNode {
			refused = true
			f.refuseValue("homeserver.redis_url", fmt.Sprintf("%s:%d: redis.%s", f.path, value.Line, key), errNoScalar)
			return otherwise
		}
		return value.Value
	}
	origin := fmt.Sprintf("%s:%d: redis", f.path, section.Line)
	if text("path", "") != "" {
		f.refuseValue("homeserver.redis_url", origin, errors.New("Lethe cannot use a Redis by its socket: set homeserver.redis_url"))
		return
	}
	address := url.URL{Scheme: "redis", Host: net.JoinHostPort(text("host", "localhost"), text("port", "6379")), Path: "/" + text("dbid", "0")}
	if boolOfYAML11(text("use_tls", "")) == "true" {
		address.Scheme = "rediss"
		if file := text("ca_file", ""); file != "" {
			address.RawQuery = url.Values{"ca_file": {file}}.Encode()
		}
	}
	password := text("password", "")
	if file := text("password_path", ""); password == "" && file != "" {
		content, err := os.ReadFile(file)
		if err != nil {
			f.refuseValue("homeserver.redis_url", origin, fmt.Errorf("read password_path: %w", err))
			return
		}
		password = strings.TrimSpace(string(content))
	}
	if password != "" {
		address.User = url.UserPassword("", password)
	}
	if !refused {
		f.set("homeserver.redis_url", origin, address.String())
	}
}

// redisEnabled reports whether Synapse uses Redis. It refuses what is no boolean: Synapse
// takes most of that for true, such as the text "false".
func (f *synapseFile) redisEnabled(value *yaml.Node) bool {
	if value == nil || isNull(value) {
		return false
	}
	said := ""
	if value.Kind == yaml.ScalarNode {
		said = boolOfYAML11(value.Value)
	}
	if said != "true" && (said != "false" || value.Style != 0) {
		f.refuse(fmt.Sprintf("%s:%d: redis.enabled", f.path, value.Line), errors.New("must be true or false, without quotes"))
	}
	return said == "true"
}

// databases refuses a Synapse whose tables are in several databases.
func (f *synapseFile) databases(section *yaml.Node) {
	if section != nil && len(section.Content) > 2 { // keys and values
		f.refuse(fmt.Sprintf("%s:%d: databases", f.path, section.Line),
			errors.New("Synapse has its tables in several databases, which Lethe does not support: it cannot delete from two databases in one transaction"))
	}
}

// section returns the mapping that a key of another mapping has, or nil.
func (f *synapseFile) section(mapping *yaml.Node, prefix, key string) *yaml.Node {
	value := lookUp(mapping, key)
	if value == nil || isNull(value) {
		return nil
	}
	if value.Kind != yaml.MappingNode {
		f.refuse(fmt.Sprintf("%s:%d: %s", f.path, value.Line, prefix+key), errNoMapping)
		return nil
	}
	return value
}

// leaves applies the named keys of a mapping. Their paths begin with the prefix.
func (f *synapseFile) leaves(mapping *yaml.Node, prefix string, names ...string) {
	for _, name := range names {
		value := lookUp(mapping, name)
		if value == nil || isNull(value) {
			continue
		}
		setting := prefix + name
		origin := func(line int) string { return fmt.Sprintf("%s:%d: %s", f.path, line, setting) }
		if mappings := f.settings[setting].mappings; mappings != nil {
			mappings(value, synapseKeys, func(line int, place string, err error) { f.refuse(origin(line)+place, err) })
			continue
		}
		if value.Kind != yaml.ScalarNode {
			f.refuseValue(setting, origin(value.Line), errNoScalar)
			continue
		}
		text := value.Value
		if name == "enabled" && value.Style == 0 { // quoted text is not a boolean
			text = boolOfYAML11(text)
		}
		f.set(setting, origin(value.Line), text)
	}
}

// boolOfYAML11 returns "true" or "false" for a boolean of YAML 1.1, which Synapse
// uses. It returns any other text unchanged.
func boolOfYAML11(text string) string {
	switch text {
	case "true", "True", "TRUE", "yes", "Yes", "YES", "on", "On", "ON":
		return "true"
	case "false", "False", "FALSE", "no", "No", "NO", "off", "Off", "OFF":
		return "false"
	}
	return text
}
