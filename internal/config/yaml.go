package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strings"

	"go.yaml.in/yaml/v3"
)

var (
	errEmptyFile = errors.New("the file is empty")
	errNoMapping = errors.New("must be a mapping: indented lines of key: value")
	errNoScalar  = errors.New("must be one value, not a list or a mapping")
)

// parseYAML returns the mapping that is the only document of a file.
//
// The loader walks the tree instead of decoding it into a Config, because the
// decoder's errors name Go types instead of keys, and quote values.
func parseYAML(data []byte) (*yaml.Node, error) {
	decoder := yaml.NewDecoder(bytes.NewReader(data))
	var document, second yaml.Node
	err := decoder.Decode(&document)
	if errors.Is(err, io.EOF) || (err == nil && isNull(document.Content[0])) {
		return nil, errEmptyFile
	}
	if err != nil {
		return nil, syntaxError(data, err)
	}
	if err := decoder.Decode(&second); err == nil {
		return nil, errors.New("the file holds more than one YAML document")
	} else if !errors.Is(err, io.EOF) {
		return nil, syntaxError(data, err)
	}
	root := resolve(document.Content[0])
	if root.Kind != yaml.MappingNode {
		return nil, errors.New("the file must be a mapping: lines of key: value")
	}
	return root, nil
}

// syntaxError explains two mistakes better than the parser does.
func syntaxError(data []byte, err error) error {
	line := 0
	for text := range bytes.Lines(data) {
		line++
		indent := text[:len(text)-len(bytes.TrimLeft(text, " \t"))]
		if bytes.ContainsRune(indent, '\t') && len(bytes.TrimSpace(text)) > 0 {
			return fmt.Errorf("line %d is indented with a tab: YAML takes only spaces", line)
		}
	}
	// This is the only message that quotes the file, and a password may begin
	// with *.
	if strings.Contains(err.Error(), "unknown anchor") {
		return errors.New("a value that begins with * must be quoted")
	}
	return err
}

// A file is a YAML file that is being applied.
type file struct {
	*loader
	lines map[string]int // where each path was first seen
	path  string
	root  *yaml.Node
}

// keyName matches keys that an error may repeat. Any other key may be a value in
// the wrong place.
var keyName = regexp.MustCompile(`^[A-Za-z0-9_-]{1,40}$`)

// section applies a mapping. The prefix of its keys is "", or such as "worker.".
func (f *file) section(prefix string, mapping *yaml.Node) {
	for i := 0; i+1 < len(mapping.Content); i += 2 {
		key, value := mapping.Content[i], resolve(mapping.Content[i+1])
		if key.Kind != yaml.ScalarNode || !keyName.MatchString(key.Value) {
			f.refuse(fmt.Sprintf("%s:%d", f.path, key.Line), errors.New("no such setting"))
			continue
		}
		path := prefix + key.Value
		origin := fmt.Sprintf("%s:%d: %s", f.path, key.Line, path)
		if line, seen := f.lines[path]; seen {
			f.refuse(origin, fmt.Errorf("already set in line %d", line))
			continue
		}
		f.lines[path] = key.Line
		if _, ok := f.settings[path]; ok {
			f.leaf(path, origin, value)
		} else if !f.isSection(path) {
			f.refuse(origin, errors.New("no such setting"))
		} else if value.Kind == yaml.MappingNode {
			f.section(path+".", value)
		} else if !isNull(value) { // a section is null if all its keys are commented out
			f.refuse(origin, errNoMapping)
		}
	}
}

// leaf applies one setting.
func (f *file) leaf(path, origin string, value *yaml.Node) {
	switch s := f.settings[path]; {
	case s.mappings != nil && !isNull(value):
		f.unset[path] = false
		s.mappings(value, ourKeys, func(line int, place string, err error) {
			f.refuse(fmt.Sprintf("%s:%d: %s%s", f.path, line, path, place), err)
		})
	case value.Kind == yaml.SequenceNode && s.list:
		f.list(path, origin, value)
	case value.Kind != yaml.ScalarNode:
		f.refuseValue(path, origin, errNoScalar)
	case isNull(value):
		f.refuseValue(path, origin, errors.New(`has no value: leave the key out for its default, or write ""`))
	default:
		f.set(path, origin, value.Value)
	}
}

// list applies a setting that is a list.
func (f *file) list(path, origin string, value *yaml.Node) {
	var texts []string
	for _, item := range value.Content {
		item = resolve(item)
		if item.Kind != yaml.ScalarNode || isNull(item) {
			f.refuseValue(path, origin, errors.New("must be a list of values"))
			return
		}
		texts = append(texts, item.Value)
	}
	f.set(path, origin, strings.Join(texts, ","))
}

// isSection reports whether settings begin with the path and a dot.
func (f *file) isSection(path string) bool {
	for known := range f.settings {
		if strings.HasPrefix(known, path+".") {
			return true
		}
	}
	return false
}

// resolve returns the node that an alias stands for. It returns any other node
// unchanged.
func resolve(node *yaml.Node) *yaml.Node {
	if node.Kind == yaml.AliasNode {
		return node.Alias
	}
	return node
}

// isNull reports whether the node is null, as is a key without a value.
func isNull(node *yaml.Node) bool {
	return node.Kind == yaml.ScalarNode && node.ShortTag() == "!!null"
}
