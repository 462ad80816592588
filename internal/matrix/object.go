package matrix

import (
	"encoding/json"
	"unicode/utf8"
)

// A Field is a key of a JSON object with its value.
type Field struct {
	// Name is what the key says.
	Name []byte

	// Key and Value are the key and the value as they are spelled; both are valid
	// JSON.
	Key, Value []byte
}

// An Object is a JSON object that has been split and not decoded: its fields in
// the order of the text, and no name twice. Its bytes are those of the text that
// it was split from, and must not be changed.
type Object []Field

// manyFields is from how many fields on names are compared by a map: objects of
// events have few, but an event of 64 KiB could have thousands.
const manyFields = 32

// SplitObject splits the text of a JSON object, and appends its fields to dst,
// which may be nil. All of the text is checked: what SplitObject takes is valid
// JSON and valid UTF-8, is an object, and is nested no deeper than 1000 levels.
// If a name is there twice the last value counts, as for most parsers. For
// everything else it returns dst and false.
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

// Get returns the value of a name as it is spelled, nil if there is no such name.
func (o Object) Get(name string) json.RawMessage {
	for i := range o {
		if string(o[i].Name) == name {
			return o[i].Value
		}
	}
	return nil
}

// Text returns what a JSON string says. It is false for everything else.
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

// Says reports whether a JSON value is a string that says the text.
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

// plain reports whether a string's spelling is what it says.
func plain(spelled []byte) bool {
	for _, c := range spelled {
		if !ordinary[c] {
			return false
		}
	}
	return true
}

// A splitter walks once over a text. Its methods begin at what they are named
// for, and stop behind it; they are false where the text is not JSON.
type splitter struct {
	text  []byte
	at    int
	all   Object
	first int            // of this object's fields
	named map[string]int // where a name's field is, once there are many
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

// next skips space and returns the byte behind it, 0 at the end.
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

// object walks over an object; if split, it is the one whose fields are wanted.
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

// add adds a field, or gives that of the same name another value.
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

// ordinary are the bytes that stand for themselves in a string.
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
