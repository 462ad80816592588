package config

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

// TokensAt returns where access tokens are checked: [AuthDatabase], [AuthHomeserver] or
// [AuthMAS]. It returns [AuthAuto] if only the homeserver knows whether it delegates its
// accounts. Then it is asked about tokens if it does, and else the database.
func (c *Config) TokensAt() string {
	switch {
	case c.Auth != AuthAuto:
		return c.Auth
	case c.MAS.URL != "":
		return AuthMAS
	case c.Homeserver.Delegates:
		return AuthHomeserver
	case c.Homeserver.URL != "":
		return AuthAuto
	}
	return AuthDatabase
}

// checkAuth refuses ways to check access tokens that cannot work.
func (l *loader) checkAuth(config Config, purposes []Purpose) {
	checks := slices.Contains(purposes, ForAPI) || slices.Contains(purposes, ForAsynqmon)
	const notThere = "must not be database, since %s: access tokens are not in the database then; leave auth out, or set it to mas or homeserver"
	switch at := config.TokensAt(); {
	case at == AuthDatabase && config.MAS.URL != "":
		l.refuse("auth", fmt.Errorf(notThere, "mas.url is set, here or in homeserver.config_file"))
	case at == AuthDatabase && config.Homeserver.Delegates:
		l.refuse("auth", fmt.Errorf(notThere, "homeserver.config_file delegates the accounts"))
	case config.Auth == AuthAuto && config.MAS.URL == "" && config.MAS.Secret != "":
		l.needFor("mas.url", "mas.secret is") // it would be ignored
	case at == AuthHomeserver && config.Auth == AuthHomeserver:
		l.needFor("homeserver.url", "auth is "+AuthHomeserver)
	case at == AuthHomeserver && checks && l.unset["homeserver.url"]:
		l.needFor("mas.url", "homeserver.config_file delegates the accounts, and homeserver.url is not set either")
	case at == AuthMAS && (checks || config.Auth == AuthMAS):
		l.needFor("mas.url", "auth is "+AuthMAS)
		if l.secretPath != nil && l.unset["mas.secret"] {
			l.errs = append(l.errs, l.secretPath)
		} else {
			l.needFor("mas.secret", "access tokens are checked at mas.url")
		}
		if checks && !l.refused("server_name") {
			l.needFor("server_name", "access tokens are checked at mas.url")
		}
	}
}

// needFor refuses to go without a setting, for a reason.
func (l *loader) needFor(path, reason string) {
	if l.unset[path] {
		l.refuse(path, fmt.Errorf("must be set, here or as %s, since %s", variable(path), reason))
	}
}

// refused reports whether an error says already what is wrong with a setting.
func (l *loader) refused(path string) bool {
	return slices.ContainsFunc(l.errs, func(err error) bool { return strings.HasPrefix(err.Error(), path+": ") })
}

// defaultEndpoint is where Synapse expects Matrix Authentication Service.
const defaultEndpoint = "http://localhost:8080/"

// accounts applies what the file says of Matrix Authentication Service. An older Synapse
// has its address and secret in forms that Lethe does not take: it is only known that
// the accounts are delegated.
func (f *synapseFile) accounts(root *yaml.Node) {
	experimental := lookUp(root, "experimental_features") // which may be anything
	if older := lookUp(experimental, "msc3861"); older != nil && older.Kind == yaml.MappingNode {
		f.config.Homeserver.Delegates = f.enabled(older, "experimental_features.msc3861.")
	}
	const prefix = "matrix_authentication_service."
	section := f.section(root, "", strings.TrimSuffix(prefix, "."))
	if !f.enabled(section, prefix) {
		return
	}
	f.config.Homeserver.Delegates = true
	f.set("mas.url", f.path+": "+prefix+"endpoint", defaultEndpoint)
	if endpoint, origin, ok := f.scalar(section, prefix, "endpoint"); ok {
		f.set("mas.url", origin, endpoint)
	}
	secret, origin, hasSecret := f.scalar(section, prefix, "secret")
	path, pathOrigin, hasPath := f.scalar(section, prefix, "secret_path")
	switch {
	case hasSecret && hasPath:
		f.refuseValue("mas.secret", pathOrigin, errors.New("secret is set too: only one of them may be"))
	case hasSecret:
		f.set("mas.secret", origin, secret)
	case hasPath:
		text, err := readSecret(path)
		if err != nil {
			f.secretPath = fmt.Errorf("%s: %w", pathOrigin, err)
			return
		}
		f.set("mas.secret", pathOrigin, strings.TrimSpace(text))
	}
}

// enabled returns the boolean "enabled" of a mapping, false if it is not there.
func (f *synapseFile) enabled(mapping *yaml.Node, prefix string) (is bool) {
	value := lookUp(mapping, "enabled")
	text, origin, ok := f.scalar(mapping, prefix, "enabled")
	if !ok {
		return false
	}
	if value.Style == 0 { // quoted text is not a boolean
		text = boolOfYAML11(text)
	}
	if err := boolean(&is).set(text); err != nil {
		f.refuse(origin, err)
	}
	return is
}

// scalar returns the text of a key of a mapping, and its origin. It is false if the key
// is not set, or if it has no text, which is refused.
func (f *synapseFile) scalar(mapping *yaml.Node, prefix, key string) (text, origin string, ok bool) {
	value := lookUp(mapping, key)
	if value == nil || isNull(value) {
		return "", "", false
	}
	origin = fmt.Sprintf("%s:%d: %s", f.path, value.Line, prefix+key)
	if value.Kind != yaml.ScalarNode {
		f.refuse(origin, errNoScalar)
		return "", "", false
	}
	return value.Value, origin, true
}
