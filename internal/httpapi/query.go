package httpapi

import (
	"errors"
	"iter"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/labstack/echo/v4"
)

// A query is what follows the question mark, as it was sent. Unlike net/url it
// does not see a key without "=", and an escape that is none stays as it is.
type query string

func queryOf(c echo.Context) query { return query(c.Request().URL.RawQuery) }

// value returns a parameter's first value.
func (q query) value(name string) (value string, ok bool) {
	for value := range q.each(name) {
		return value, true
	}
	return "", false
}

// each goes through a parameter's values.
func (q query) each(name string) iter.Seq[string] {
	return func(yield func(string) bool) {
		for pair := range strings.SplitSeq(string(q), "&") {
			key, value, ok := strings.Cut(pair, "=")
			if ok && unescapeQuery(key) == name && !yield(unescapeQuery(value)) {
				return
			}
		}
	}
}

// integer returns a parameter that is a number from 0 on, or else the default.
// One that does not fit is the highest that does.
func (q query) integer(name string, byDefault int64) (int64, error) {
	n, ok, err := q.optionalInteger(name)
	if err != nil || ok {
		return n, err
	}
	return byDefault, nil
}

// requiredInteger is integer without a default.
func (q query) requiredInteger(name string) (int64, error) {
	n, ok, err := q.optionalInteger(name)
	if err == nil && !ok {
		err = &apiError{
			Status: http.StatusBadRequest, Code: "M_MISSING_PARAM",
			Text: "Missing required integer query parameter " + name,
		}
	}
	return n, err
}

func (q query) optionalInteger(name string) (n int64, ok bool, err error) {
	value, ok := q.value(name)
	if !ok {
		return 0, false, nil
	}
	n, err = strconv.ParseInt(strings.Trim(value, " \t\n\r\v\f"), 10, 64)
	switch {
	case err != nil && !errors.Is(err, strconv.ErrRange):
		return 0, false, invalidParam("Query parameter " + name + " must be an integer")
	case n < 0:
		return 0, false, invalidParam("Query parameter " + name + " must be a positive integer.")
	}
	return n, true, nil
}

// boolean returns a parameter that is true or false, nil if it is absent.
func (q query) boolean(name string) (*bool, error) {
	value, ok := q.value(name)
	switch {
	case !ok:
		return nil, nil
	case value == "true" || value == "false":
		return new(value == "true"), nil
	}
	return nil, invalidParam("Boolean query parameter '" + name + "' must be one of ['true', 'false']")
}

// text returns a parameter that may be any text.
func (q query) text(name string) (value string, ok bool, err error) {
	value, ok = q.value(name)
	if !utf8.ValidString(value) {
		return "", false, badRequest("Query parameter '" + name + "' must be utf-8")
	}
	return value, ok, nil
}

// ascii returns a parameter that is ASCII, "" if it is absent.
func (q query) ascii(name string) (string, error) {
	value, _ := q.value(name)
	return value, mustBeASCII(name, value)
}

// oneOf returns a parameter that is one of a few words, or else the default.
func (q query) oneOf(name, byDefault string, words ...string) (string, error) {
	value, ok := q.value(name)
	if !ok {
		return byDefault, nil
	}
	return value, mustBeOneOf(name, value, words)
}

// severalOf returns all values of a parameter, each of which is one of a few
// words; nil if it is absent.
func (q query) severalOf(name string, words ...string) ([]string, error) {
	values, err := q.several(name)
	for _, value := range values {
		if err == nil {
			err = mustBeOneOf(name, value, words)
		}
	}
	return values, err
}

// several returns all values of a parameter that is ASCII; nil if it is absent.
func (q query) several(name string) ([]string, error) {
	values := slices.Collect(q.each(name))
	for _, value := range values {
		if err := mustBeASCII(name, value); err != nil {
			return nil, err
		}
	}
	return values, nil
}

// backwards reads the parameter dir.
func (q query) backwards() (bool, error) {
	direction, err := q.oneOf("dir", "f", "b", "f")
	return direction == "b", err
}

func mustBeASCII(name, value string) error {
	for i := range len(value) {
		if value[i] >= utf8.RuneSelf {
			return badRequest("Query parameter '" + name + "' must be ascii")
		}
	}
	return nil
}

// mustBeOneOf names the words in the form and the order that admin tools know.
func mustBeOneOf(name, value string, words []string) error {
	if err := mustBeASCII(name, value); err != nil {
		return err
	}
	if slices.Contains(words, value) {
		return nil
	}
	return invalidParam("Query parameter '" + name + "' must be one of ['" + strings.Join(words, "', '") + "']")
}

// unescapeQuery decodes what is an escape, and leaves what is none.
func unescapeQuery(s string) string { return unescape(s, true) }

// unescape is unescapeQuery, in which a plus need not be a space.
func unescape(s string, plus bool) string {
	if !strings.ContainsAny(s, "%+") {
		return s
	}
	unescaped := make([]byte, 0, len(s))
	for i := 0; i < len(s); i++ {
		switch {
		case s[i] == '+' && plus:
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
