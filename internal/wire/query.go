package wire

import (
	"errors"
	"iter"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// A Query reads the query string of a URL, as it was sent. It reads it as Synapse does:
// unlike net/url it ignores a key without "=", and leaves an invalid escape as it is. A
// handler reads all parameters, in the order in which Synapse checks them, and then asks
// [Query.Err] whether one of them was refused.
type Query struct {
	raw string
	err error
}

// NewQuery returns a Query of a query string, without the question mark.
func NewQuery(raw string) *Query { return &Query{raw: raw} }

// Err returns the first refusal, nil if every parameter was valid.
func (q *Query) Err() error { return q.err }

// Refuse records a refusal, unless there is one already.
func (q *Query) Refuse(err error) {
	if q.err == nil {
		q.err = err
	}
}

// Value returns the first value of a parameter.
func (q *Query) Value(name string) (value string, ok bool) {
	for value := range q.each(name) {
		return value, true
	}
	return "", false
}

// each iterates over the values of a parameter.
func (q *Query) each(name string) iter.Seq[string] {
	return func(yield func(string) bool) {
		for pair := range strings.SplitSeq(q.raw, "&") {
			key, value, ok := strings.Cut(pair, "=")
			if ok && unescape(key, true) == name && !yield(unescape(value, true)) {
				return
			}
		}
	}
}

// Integer returns a parameter that is an integer of at least 0, or the default if it
// is absent. A value that does not fit in an int64 becomes the largest one.
func (q *Query) Integer(name string, byDefault int64) int64 {
	value, ok := q.Value(name)
	if !ok {
		return byDefault
	}
	n, err := strconv.ParseInt(strings.Trim(value, " \t\n\r\v\f"), 10, 64)
	switch {
	case err != nil && !errors.Is(err, strconv.ErrRange):
		q.Refuse(InvalidParam("Query parameter " + name + " must be an integer"))
	case n < 0:
		q.Refuse(InvalidParam("Query parameter " + name + " must be a positive integer."))
	}
	return n
}

// RequiredInteger is Integer for a parameter that has no default.
func (q *Query) RequiredInteger(name string) int64 {
	if _, ok := q.Value(name); !ok {
		q.Refuse(MissingParam("Missing required integer query parameter " + name))
	}
	return q.Integer(name, 0)
}

// Boolean returns a parameter that is true or false, nil if it is absent.
func (q *Query) Boolean(name string) *bool {
	value, ok := q.Value(name)
	if !ok {
		return nil
	}
	if value != "true" && value != "false" {
		q.Refuse(InvalidParam("Boolean query parameter '" + name + "' must be one of ['true', 'false']"))
	}
	return new(value == "true")
}

// Text returns a parameter that may be any text in UTF-8.
func (q *Query) Text(name string) (value string, ok bool) {
	value, ok = q.Value(name)
	if !utf8.ValidString(value) {
		q.Refuse(BadRequest("Query parameter '" + name + "' must be utf-8"))
	}
	return value, ok
}

// TextUnescapedTwice is Text for a parameter that Synapse decodes twice. Only the
// first time a plus is a space.
func (q *Query) TextUnescapedTwice(name string) (value string, ok bool) {
	value, ok = q.Text(name)
	return unescape(value, false), ok
}

// ASCII returns a parameter that is ASCII, "" if it is absent.
func (q *Query) ASCII(name string) string {
	value, _ := q.Value(name)
	q.requireASCII(name, value)
	return value
}

// OneOf returns a parameter that is one of the words, or the default if it is
// absent.
func (q *Query) OneOf(name, byDefault string, words ...string) string {
	value, ok := q.Value(name)
	if !ok {
		return byDefault
	}
	q.requireOneOf(name, value, words)
	return value
}

// SeveralOf returns all values of a parameter, each of which is one of the words;
// nil if it is absent.
func (q *Query) SeveralOf(name string, words ...string) []string {
	values := q.Several(name)
	for _, value := range values {
		q.requireOneOf(name, value, words)
	}
	return values
}

// Several returns all values of a parameter that is ASCII; nil if it is absent.
func (q *Query) Several(name string) []string {
	values := slices.Collect(q.each(name))
	for _, value := range values {
		q.requireASCII(name, value)
	}
	return values
}

// Backwards reports whether the parameter dir is "b". It defaults to "f".
func (q *Query) Backwards() bool { return q.OneOf("dir", "f", "b", "f") == "b" }

func (q *Query) requireASCII(name, value string) {
	if strings.ContainsFunc(value, func(c rune) bool { return c >= utf8.RuneSelf }) {
		q.Refuse(BadRequest("Query parameter '" + name + "' must be ascii"))
	}
}

// requireOneOf lists the words in the form and the order that admin tools know.
func (q *Query) requireOneOf(name, value string, words []string) {
	q.requireASCII(name, value)
	if !slices.Contains(words, value) {
		q.Refuse(InvalidParam("Query parameter '" + name + "' must be one of ['" + strings.Join(words, "', '") + "']"))
	}
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
