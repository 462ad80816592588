package wire

import (
	"errors"
	"iter"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// A Query is the query string of a URL, as it was sent. It is read as Synapse reads
// it: unlike net/url it ignores a key without "=", and leaves an invalid escape as
// it is. The errors of its methods are refusals, each an [Error].
type Query string

// Value returns the first value of a parameter.
func (q Query) Value(name string) (value string, ok bool) {
	for value := range q.each(name) {
		return value, true
	}
	return "", false
}

// each iterates over the values of a parameter.
func (q Query) each(name string) iter.Seq[string] {
	return func(yield func(string) bool) {
		for pair := range strings.SplitSeq(string(q), "&") {
			key, value, ok := strings.Cut(pair, "=")
			if ok && unescape(key, true) == name && !yield(unescape(value, true)) {
				return
			}
		}
	}
}

// Integer returns a parameter that is an integer of at least 0, or the default if it
// is absent. A value that does not fit in an int64 becomes the largest one.
func (q Query) Integer(name string, byDefault int64) (int64, error) {
	n, ok, err := q.OptionalInteger(name)
	if err != nil || ok {
		return n, err
	}
	return byDefault, nil
}

// RequiredInteger is Integer for a parameter that has no default.
func (q Query) RequiredInteger(name string) (int64, error) {
	n, ok, err := q.OptionalInteger(name)
	if err == nil && !ok {
		err = MissingParam("Missing required integer query parameter " + name)
	}
	return n, err
}

// OptionalInteger is Integer for a parameter that may be absent.
func (q Query) OptionalInteger(name string) (n int64, ok bool, err error) {
	value, ok := q.Value(name)
	if !ok {
		return 0, false, nil
	}
	n, err = strconv.ParseInt(strings.Trim(value, " \t\n\r\v\f"), 10, 64)
	switch {
	case err != nil && !errors.Is(err, strconv.ErrRange):
		return 0, false, InvalidParam("Query parameter " + name + " must be an integer")
	case n < 0:
		return 0, false, InvalidParam("Query parameter " + name + " must be a positive integer.")
	}
	return n, true, nil
}

// Boolean returns a parameter that is true or false, nil if it is absent.
func (q Query) Boolean(name string) (*bool, error) {
	value, ok := q.Value(name)
	switch {
	case !ok:
		return nil, nil
	case value == "true" || value == "false":
		return new(value == "true"), nil
	}
	return nil, InvalidParam("Boolean query parameter '" + name + "' must be one of ['true', 'false']")
}

// Text returns a parameter that may be any text in UTF-8.
func (q Query) Text(name string) (value string, ok bool, err error) {
	value, ok = q.Value(name)
	if !utf8.ValidString(value) {
		return "", false, BadRequest("Query parameter '" + name + "' must be utf-8")
	}
	return value, ok, nil
}

// TextUnescapedTwice is Text for a parameter that Synapse decodes twice. Only the
// first time a plus is a space.
func (q Query) TextUnescapedTwice(name string) (value string, ok bool, err error) {
	value, ok, err = q.Text(name)
	return unescape(value, false), ok, err
}

// ASCII returns a parameter that is ASCII, "" if it is absent.
func (q Query) ASCII(name string) (string, error) {
	value, _ := q.Value(name)
	return value, requireASCII(name, value)
}

// OneOf returns a parameter that is one of the words, or the default if it is
// absent.
func (q Query) OneOf(name, byDefault string, words ...string) (string, error) {
	value, ok := q.Value(name)
	if !ok {
		return byDefault, nil
	}
	return value, requireOneOf(name, value, words)
}

// SeveralOf returns all values of a parameter, each of which is one of the words;
// nil if it is absent.
func (q Query) SeveralOf(name string, words ...string) ([]string, error) {
	values, err := q.Several(name)
	for _, value := range values {
		if err == nil {
			err = requireOneOf(name, value, words)
		}
	}
	return values, err
}

// Several returns all values of a parameter that is ASCII; nil if it is absent.
func (q Query) Several(name string) ([]string, error) {
	values := slices.Collect(q.each(name))
	for _, value := range values {
		if err := requireASCII(name, value); err != nil {
			return nil, err
		}
	}
	return values, nil
}

// Backwards reports whether the parameter dir is "b". It defaults to "f".
func (q Query) Backwards() (bool, error) {
	direction, err := q.OneOf("dir", "f", "b", "f")
	return direction == "b", err
}

func requireASCII(name, value string) error {
	for i := range len(value) {
		if value[i] >= utf8.RuneSelf {
			return BadRequest("Query parameter '" + name + "' must be ascii")
		}
	}
	return nil
}

// requireOneOf lists the words in the form and the order that admin tools know.
func requireOneOf(name, value string, words []string) error {
	if err := requireASCII(name, value); err != nil {
		return err
	}
	if slices.Contains(words, value) {
		return nil
	}
	return InvalidParam("Query parameter '" + name + "' must be one of ['" + strings.Join(words, "', '") + "']")
}

// unescape decodes valid escapes and leaves invalid ones as they are.
func unescape(s string, plusIsSpace bool) string {
	if !strings.ContainsAny(s, "%+") {
		return s
	}
	unescaped := make([]byte, 0, len(s))
	for i := 0; i < len(s); i++ {
		switch {
		case s[i] == '+' && plusIsSpace:
			unescaped = append(unescaped, ' ')
		case s[i] == '%':
			if i+2 < len(s) {
				if b, err := strconv.ParseUint(s[i+1:i+3], 16, 8); err == nil {
					unescaped = append(unescaped, byte(b))
					i += 2
					continue
				}
			}
			unescaped = append(unescaped, '%')
		default:
			unescaped = append(unescaped, s[i])
		}
	}
	return string(unescaped)
}
