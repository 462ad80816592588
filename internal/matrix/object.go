package matrix

import (
	"bytes"
	"encoding/json"
	"errors"
	"strconv"
	"unicode/utf8"
)

// A Field is a key of a JSON object with its value.
type Field struct {
	// Name is the decoded key.
	Name []byte

	// Key and Value are the JSON text of the key and the value.
	Key, Value []byte
}

// An Object is a JSON object that has been split but not decoded. Its fields are in
// the order of the text, and have different names. Its bytes are those of the
// original text, and must not be changed.
type Object []Field

// manyFields is the number of fields from which a map finds names. Most objects have
// fewer, but an event of 64 KiB can have thousands.
const manyFields = 32

// SplitObject splits the text of a JSON object, and appends its fields to dst, which
// may be nil. It checks that the whole text is valid JSON and valid UTF-8, is an
// object, and has at most 1000 levels of nesting. Otherwise it returns dst and false.
// If a name occurs twice the last value counts, as in most parsers.
func SplitObject(dst Object, raw []byte) (Object, bool) {
	if !utf8.Valid(raw) {
		return dst, false
	}
	s := splitter{text: raw, all: dst, first: len(dst)}
	s.space()
	if s.at >= len(raw) || raw[s.at] != '{' || !s.object(0, true) {
		return dst, false
	}
	s.space()
	if s.at != len(raw) {
		return dst, false
	}
	return s.all, true
}

// Get returns the JSON text of a name's value, or nil if the name is missing.
func (o Object) Get(name string) json.RawMessage {
	for i := range o {
		if string(o[i].Name) == name {
			return o[i].Value
		}
	}
	return nil
}

// Text decodes a JSON string. It is false for any other value.
func Text(value []byte) (string, bool) {
	if len(value) < 2 || value[0] != '"' || value[len(value)-1] != '"' {
		return "", false
	}
	if inside := value[1 : len(value)-1]; plain(inside) {
		return string(inside), true
	}
	var text string
	err := json.Unmarshal(value, &text)
	return text, err == nil
}

// Integer decodes a JSON integer. One that does not fit in an int64 becomes the nearest
// int64. 1.0, 1e3 and true are not integers.
func Integer(value []byte) (n int64, ok bool) {
	n, err := strconv.ParseInt(string(value), 10, 64)
	return n, err == nil || errors.Is(err, strconv.ErrRange)
}

// Truthy reports whether a JSON value is true in Python. An absent value is false.
func Truthy(value []byte) bool {
	if len(value) == 0 {
		return false
	}
	switch value[0] {
	case 'n', 'f':
		return false
	case 't':
		return true
	case '"':
		return len(value) > len(`""`)
	case '[', '{':
		return len(bytes.TrimSpace(value[1:len(value)-1])) > 0
	default:
		// ParseFloat returns an infinity for a number that is out of range.
		number, _ := strconv.ParseFloat(string(value), 64)
		return number != 0
	}
}

// Says reports whether a JSON value is a string with the given text.
func Says(value []byte, text string) bool {
	if len(value) < 2 || value[0] != '"' || value[len(value)-1] != '"' {
		return false
	}
	if inside := value[1 : len(value)-1]; plain(inside) {
		return string(inside) == text
	}
	said, ok := Text(value)
	return ok && said == text
}

// plain reports whether a string has no escapes.
func plain(spelled []byte) bool {
	for _, c := range spelled {
		if !ordinary[c] {
			return false
		}
	}
	return true
}

// A splitter parses a text once. Each method begins at the element it is named for
// and stops after it. It returns false if the text is not JSON.
type splitter struct {
	text  []byte
	at    int
	all   Object
	first int            // index of this object's first field in all
	named map[string]int // index of each name, if there are many fields
}

func (s *splitter) space() {
	for s.at < len(s.text) {
		switch s.text[s.at] {
		case ' ', '\t', '\n', '\r':
			s.at++
		default:
			return
		}
	}
}

// next skips space and returns the byte after it, or 0 at the end.
func (s *splitter) next() byte {
	s.space()
	if s.at >= len(s.text) {
		return 0
	}
	return s.text[s.at]
}

func (s *splitter) value(depth int) bool {
	switch c := s.next(); {
	case c == '"':
		return s.string()
	case c == '{':
		return s.object(depth, false)
	case c == '[':
		return s.array(depth)
	case c == 't':
		return s.literal("true")
	case c == 'f':
		return s.literal("false")
	case c == 'n':
		return s.literal("null")
	default:
		return s.number()
	}
}

// object parses an object. If split is set, it collects the object's fields.
func (s *splitter) object(depth int, split bool) bool {
	if depth >= maxNesting {
		return false
	}
	s.at++
	if s.next() == '}' {
		s.at++
		return true
	}
	for {
		if s.next() != '"' {
			return false
		}
		from := s.at
		if !s.string() {
			return false
		}
		key := s.text[from:s.at:s.at]
		if s.next() != ':' {
			return false
		}
		s.at++
		s.space()
		from = s.at
		if !s.value(depth + 1) {
			return false
		}
		if split && !s.add(key, s.text[from:s.at:s.at]) {
			return false
		}
		c := s.next()
		s.at++
		switch c {
		case ',':
		case '}':
			return true
		default:
			return false
		}
	}
}

// add adds a field, or replaces the value of the field with the same name.
func (s *splitter) add(key, value []byte) bool {
	field := Field{Name: key[1 : len(key)-1], Key: key, Value: value}
	if !plain(field.Name) {
		name, ok := Text(key)
		if !ok {
			return false
		}
		field.Name = []byte(name)
	}
	own := s.all[s.first:]
	if len(own) >= manyFields {
		if s.named == nil {
			s.named = make(map[string]int, 2*manyFields)
			for i := range own {
				s.named[string(own[i].Name)] = i
			}
		}
		if i, ok := s.named[string(field.Name)]; ok {
			own[i] = field
			return true
		}
		s.named[string(field.Name)] = len(own)
	} else {
		for i := range own {
			if string(own[i].Name) == string(field.Name) {
				own[i] = field
				return true
			}
		}
	}
	s.all = append(s.all, field)
	return true
}

func (s *splitter) array(depth int) bool {
	if depth >= maxNesting {
		return false
	}
	s.at++
	if s.next() == ']' {
		s.at++
		return true
	}
	for {
		if !s.value(depth + 1) {
			return false
		}
		c := s.next()
		s.at++
		switch c {
		case ',':
		case ']':
			return true
		default:
			return false
		}
	}
}

func (s *splitter) string() bool {
	for i := s.at + 1; ; i++ {
		for i < len(s.text) && ordinary[s.text[i]] {
			i++
		}
		if i >= len(s.text) {
			return false
		}
		switch s.text[i] {
		case '"':
			s.at = i + 1
			return true
		case '\\':
			i++
			if i >= len(s.text) {
				return false
			}
			switch s.text[i] {
			case '"', '\\', '/', 'b', 'f', 'n', 'r', 't':
			case 'u':
				if i+4 >= len(s.text) || !hexadecimal(s.text[i+1:i+5]) {
					return false
				}
				i += 4
			default:
				return false
			}
		default: // a control character
			return false
		}
	}
}

// ordinary has the bytes that need no escape in a string.
var ordinary = func() (table [256]bool) {
	for c := range table {
		table[c] = c >= ' ' && c != '"' && c != '\\'
	}
	return table
}()

func hexadecimal(digits []byte) bool {
	for _, c := range digits {
		if !('0' <= c && c <= '9' || 'a' <= c && c <= 'f' || 'A' <= c && c <= 'F') {
			return false
		}
	}
	return true
}

func (s *splitter) literal(word string) bool {
	if len(s.text)-s.at < len(word) || string(s.text[s.at:s.at+len(word)]) != word {
		return false
	}
	s.at += len(word)
	return true
}

func (s *splitter) number() bool {
	s.skip('-')
	if !s.skip('0') && !s.digits() {
		return false
	}
	if s.skip('.') && !s.digits() {
		return false
	}
	if s.skip('e') || s.skip('E') {
		if !s.skip('+') {
			s.skip('-')
		}
		return s.digits()
	}
	return true
}

func (s *splitter) skip(c byte) bool {
	if s.at >= len(s.text) || s.text[s.at] != c {
		return false
	}
	s.at++
	return true
}

func (s *splitter) digits() bool {
	from := s.at
	for s.at < len(s.text) && '0' <= s.text[s.at] && s.text[s.at] <= '9' {
		s.at++
	}
	return s.at > from
}
