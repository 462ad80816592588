package config

import (
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

// A setting is one row of the table: all that Lethe knows of one setting.
type setting struct {
	// path is the setting's name in the YAML file, such as "worker.time_slice".
	path string

	// value is what the setting may be, and the field that it changes.
	value

	// defaultText is the default, as the file would have it. Empty means that the
	// setting has no default, and its field is then the zero value.
	defaultText string

	// doc describes the setting to operators. It says neither the default nor the
	// bounds, which the row has.
	doc string

	// neededBy are the purposes that cannot do without the setting.
	neededBy []Purpose
}

// A value is how the text of a setting is checked and stored.
type value struct {
	// is describes a valid text, such as "a whole number from 1 to 1000".
	is string

	// allowed is the short form of is for the example file, such as "1 to 1000".
	// Empty if the example says it as well.
	allowed string

	// set checks a text, and changes the field only if the text is valid. Its error
	// never repeats the text.
	set func(text string) error

	// example is shown in the example file where there is no default, or where the
	// default is more than one line.
	example string

	// isSecret settings may be in a file that a variable names: see loadSecretFile.
	isSecret bool

	// list settings may also be a YAML list. set then gets the items with commas
	// between them.
	list bool

	// mappings replaces set for a setting that is a list of mappings. Like set, it
	// changes the field only if everything is valid.
	mappings func(list *yaml.Node, from keys, refuse refusal)
}

// row returns a setting.
func row(path, defaultText string, v value, doc string) setting {
	return setting{path: path, value: v, defaultText: defaultText, doc: doc}
}

// needed returns the setting, as one that these purposes need.
func (s setting) needed(by ...Purpose) setting {
	s.neededBy = by
	return s
}

// like returns the value with an example.
func (v value) like(example string) value {
	v.example = example
	return v
}

// secret returns the value, as one that is a secret.
func (v value) secret() value {
	v.isSecret = true
	return v
}

// A refusal takes what is wrong with one item of a list of mappings: its line, its
// place in the list as a piece of the error, and the reason. The reason never
// repeats what was written.
type refusal func(line int, place string, err error)

// variable returns the name of a setting's environment variable.
func variable(path string) string {
	return variablePrefix + strings.ToUpper(strings.ReplaceAll(path, ".", "_"))
}

// settings returns the table of all settings, whose values change c. The file, the
// environment, the defaults and the reference all go by this table. Its order is
// that of the example file.
func settings(c *Config) []setting {
	return slices.Concat(
		generalSettings(c), serverSettings(c), processSettings(c), consoleSettings(&c.Console), vacuumSettings(&c.Vacuum), retentionSettings(&c.Retention), logSettings(&c.Log),
	)
}

// sectionDocs describe sections of the YAML file, by path.
var sectionDocs = map[string]string{
	"asynqmon":            asynqmonDoc,
	"console":             consoleDoc,
	"retention":           retentionDoc,
	"retention.abandoned": abandonedDoc,
	"vacuum":              vacuumDoc,
}
