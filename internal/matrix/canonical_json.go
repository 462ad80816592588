package matrix

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"unicode/utf16"
	"unicode/utf8"
)

const (
	// maxInteger is the largest integer that every JSON parser reads exactly.
	maxInteger = 1<<53 - 1

	// maxNesting is how deep arrays and objects may be nested. An event of
	// 64 KiB could have tens of thousands of levels, which no homeserver accepts.
	maxNesting = 1000
)

// ErrJSON is returned for text that is not JSON or has no canonical form.
var ErrJSON = errors.New("not canonical JSON")

// CanonicalJSON returns the canonical form of a JSON value, which hashes and
// signatures are made of: sorted keys, no spaces, no unnecessary escapes, integers
// as plain digits. An integer with an exponent (1e10) is written without it.
//
// The error wraps [ErrJSON] if the value has no canonical form or is ambiguous: for
// a number with a fraction or beyond ±(2^53-1), an object with a duplicate key, half
// of a surrogate pair, text that is not UTF-8, and more than 1000 levels of nesting.
func CanonicalJSON(raw []byte) ([]byte, error) {
	value, err := parseJSON(raw)
	if err != nil {
		return nil, fmt.Errorf("canonical JSON: %w", err)
	}
	canonical, err := appendCanonical(nil, value, 0)
	if err != nil {
		return nil, fmt.Errorf("canonical JSON: %w", err)
	}
	return canonical, nil
}

// parseObject parses a JSON object; see parseJSON.
func parseObject(raw []byte) (map[string]any, error) {
	value, err := parseJSON(raw)
	if err != nil {
		return nil, err
	}
	object, ok := value.(map[string]any)
	if !ok {
		return nil, fmt.Errorf("the value is not an object: %w", ErrJSON)
	}
	return object, nil
}

// parseJSON parses any JSON value, with numbers as [json.Number]. It accepts
// fractions, which are valid outside the hashed part of an event.
func parseJSON(raw []byte) (any, error) {
	switch {
	case !utf8.Valid(raw):
		return nil, fmt.Errorf("the text is not UTF-8: %w", ErrJSON)
	case !json.Valid(raw):
		return nil, fmt.Errorf("the text is not JSON: %w", ErrJSON)
	case hasLoneSurrogate(raw):
		return nil, fmt.Errorf("half of a surrogate pair: %w", ErrJSON)
	}
	decoder := json.NewDecoder(bytes.NewReader(raw))
	decoder.UseNumber()
	return parseValue(decoder, 0)
}

func parseValue(decoder *json.Decoder, depth int) (any, error) {
	token, err := decoder.Token()
	if err != nil {
		return nil, unexpected(err)
	}
	delim, ok := token.(json.Delim)
	if !ok {
		return token, nil
	}
	if depth >= maxNesting {
		return nil, errNesting()
	}
	var value any
	switch delim {
	case '[':
		array := []any{}
		for decoder.More() {
			element, err := parseValue(decoder, depth+1)
			if err != nil {
				return nil, err
			}
			array = append(array, element)
		}
		value = array
	default:
		object := map[string]any{}
		for decoder.More() {
			token, err := decoder.Token()
			if err != nil {
				return nil, unexpected(err)
			}
			key, ok := token.(string)
			if !ok {
				return nil, unexpected(io.ErrUnexpectedEOF)
			}
			// Parsers disagree on which value counts, and would read different
			// events with the same id.
			if _, twice := object[key]; twice {
				return nil, fmt.Errorf("an object has a duplicate key: %w", ErrJSON)
			}
			if object[key], err = parseValue(decoder, depth+1); err != nil {
				return nil, err
			}
		}
		value = object
	}
	if _, err := decoder.Token(); err != nil { // the closing bracket
		return nil, unexpected(err)
	}
	return value, nil
}

// unexpected wraps an error of the decoder for JSON that was found valid.
func unexpected(err error) error { return fmt.Errorf("parse: %w: %w", ErrJSON, err) }

func errNesting() error { return fmt.Errorf("more than %d levels: %w", maxNesting, ErrJSON) }

// hasLoneSurrogate reports whether valid JSON has the escape of half a surrogate
// pair, which is not a character. The decoder would silently replace it by U+FFFD
// and so change the event.
func hasLoneSurrogate(raw []byte) bool {
	for i := 0; i < len(raw); i++ {
		if raw[i] != '\\' { // escapes occur only in strings
			continue
		}
		i++
		if raw[i] != 'u' {
			continue
		}
		first := escapedRune(raw[i-1:])
		i += 4
		if !utf16.IsSurrogate(first) {
			continue
		}
		if utf16.DecodeRune(first, escapedRune(raw[i+1:])) == utf8.RuneError {
			return true
		}
		i += 6
	}
	return false
}

// escapedRune returns the code of a \uXXXX at the start of text, or -1.
func escapedRune(text []byte) rune {
	if len(text) < 6 || text[0] != '\\' || text[1] != 'u' {
		return -1
	}
	code, err := strconv.ParseUint(string(text[2:6]), 16, 16)
	if err != nil {
		return -1
	}
	return rune(code)
}

// appendCanonical appends the canonical JSON of a value. The value is one that
// parseJSON returns, or has Go's own types: booleans, strings, integers, floats
// without a fraction, maps with string keys, slices, and pointers to these. A nil map
// or slice is an empty one.
func appendCanonical(dst []byte, value any, depth int) ([]byte, error) {
	if depth > maxNesting {
		return nil, errNesting()
	}
	switch value := value.(type) {
	case nil:
		return append(dst, "null"...), nil
	case bool:
		return strconv.AppendBool(dst, value), nil
	case string:
		return appendString(dst, value)
	case json.Number:
		return appendNumber(dst, value.String())
	case formattedNumber:
		return append(dst, value...), nil
	case int64:
		return appendInteger(dst, value)
	case float64:
		return appendFloat(dst, value)
	case []any:
		return appendArray(dst, value, depth)
	case map[string]any:
		return appendObject(dst, value, depth)
	default:
		return appendReflected(dst, reflect.ValueOf(value), depth)
	}
}

func appendArray(dst []byte, array []any, depth int) ([]byte, error) {
	dst = append(dst, '[')
	for i, element := range array {
		if i > 0 {
			dst = append(dst, ',')
		}
		var err error
		if dst, err = appendCanonical(dst, element, depth+1); err != nil {
			return nil, err
		}
	}
	return append(dst, ']'), nil
}

func appendObject(dst []byte, object map[string]any, depth int) ([]byte, error) {
	dst = append(dst, '{')
	// UTF-8 bytes sort like code points.
	for i, key := range slices.Sorted(maps.Keys(object)) {
		if i > 0 {
			dst = append(dst, ',')
		}
		var err error
		if dst, err = appendString(dst, key); err != nil {
			return nil, err
		}
		if dst, err = appendCanonical(append(dst, ':'), object[key], depth+1); err != nil {
			return nil, err
		}
	}
	return append(dst, '}'), nil
}

// appendReflected reduces a value to a type that appendCanonical knows.
func appendReflected(dst []byte, value reflect.Value, depth int) ([]byte, error) {
	switch {
	case value.Kind() == reflect.Bool:
		return appendCanonical(dst, value.Bool(), depth)
	case value.Kind() == reflect.String:
		return appendCanonical(dst, value.String(), depth)
	case value.CanInt():
		return appendInteger(dst, value.Int())
	case value.CanUint():
		return appendInteger(dst, int64(min(value.Uint(), maxInteger+1)))
	case value.CanFloat():
		return appendFloat(dst, value.Float())
	case value.Kind() == reflect.Pointer:
		if value.IsNil() {
			return appendCanonical(dst, nil, depth)
		}
		return appendCanonical(dst, value.Elem().Interface(), depth+1)
	case value.Kind() == reflect.Map && value.Type().Key().Kind() == reflect.String:
		object := make(map[string]any, value.Len())
		for key, element := range value.Seq2() {
			object[key.String()] = element.Interface()
		}
		return appendObject(dst, object, depth)
	// A byte slice is encoded data, not an array of numbers.
	case value.Kind() == reflect.Slice && value.Type().Elem().Kind() != reflect.Uint8:
		array := make([]any, value.Len())
		for i := range array {
			array[i] = value.Index(i).Interface()
		}
		return appendArray(dst, array, depth)
	default:
		return nil, fmt.Errorf("a value of type %s: %w", value.Type(), ErrJSON)
	}
}

func appendNumber(dst []byte, text string) ([]byte, error) {
	if n, err := strconv.ParseInt(text, 10, 64); err == nil {
		return appendInteger(dst, n)
	}
	// Without a fraction and a negative exponent the number is an integer. A float64
	// represents it exactly if it is small enough.
	n, err := strconv.ParseFloat(text, 64)
	if err != nil || strings.ContainsAny(text, ".") || strings.Contains(strings.ToLower(text), "e-") {
		return nil, errNumber()
	}
	return appendFloat(dst, n)
}

func appendFloat(dst []byte, n float64) ([]byte, error) {
	if n != math.Trunc(n) || !(math.Abs(n) <= maxInteger) {
		return nil, errNumber()
	}
	return appendInteger(dst, int64(n))
}

func appendInteger(dst []byte, n int64) ([]byte, error) {
	if n < -maxInteger || n > maxInteger {
		return nil, errNumber()
	}
	return strconv.AppendInt(dst, n, 10), nil
}

// A formattedNumber is a number in the form in which it is hashed.
type formattedNumber string

// formatNumbers replaces each [json.Number] in a map or array by its formattedNumber.
// Room versions before 6 hash all numbers in the form in which Python prints them. The
// error wraps [ErrJSON] if a number has no such form.
func formatNumbers(value any) error {
	switch value := value.(type) {
	case map[string]any:
		for key, element := range value {
			if err := formatNumber(element, func(n formattedNumber) { value[key] = n }); err != nil {
				return err
			}
		}
	case []any:
		for i, element := range value {
			if err := formatNumber(element, func(n formattedNumber) { value[i] = n }); err != nil {
				return err
			}
		}
	}
	return nil
}

// formatNumber calls replace with the form of a number. It looks for numbers inside
// any other value.
func formatNumber(element any, replace func(formattedNumber)) error {
	number, ok := element.(json.Number)
	if !ok {
		return formatNumbers(element)
	}
	formatted, err := asPythonPrints(number.String())
	if err == nil {
		replace(formatted)
	}
	return err
}

func asPythonPrints(text string) (formattedNumber, error) {
	if !strings.ContainsAny(text, ".eE") { // an integer of any size
		if text == "-0" {
			text = "0"
		}
		return formattedNumber(text), nil
	}
	n, err := strconv.ParseFloat(text, 64)
	if err != nil {
		return "", errNumber()
	}
	scientific := strconv.FormatFloat(n, 'e', -1, 64)
	_, digits, _ := strings.Cut(scientific, "e")
	if exponent, err := strconv.Atoi(digits); err != nil || exponent < -4 || exponent >= 16 {
		return formattedNumber(scientific), nil
	}
	plain := strconv.FormatFloat(n, 'f', -1, 64)
	if !strings.Contains(plain, ".") {
		plain += ".0"
	}
	return formattedNumber(plain), nil
}

func errNumber() error {
	return fmt.Errorf("a number that is not an integer within ±(2^53-1): %w", ErrJSON)
}

func appendString(dst []byte, s string) ([]byte, error) {
	if !utf8.ValidString(s) {
		return nil, fmt.Errorf("a string that is not UTF-8: %w", ErrJSON)
	}
	dst = append(dst, '"')
	for _, c := range []byte(s) {
		switch {
		case c == '"' || c == '\\':
			dst = append(dst, '\\', c)
		case c == '\b':
			dst = append(dst, `\b`...)
		case c == '\f':
			dst = append(dst, `\f`...)
		case c == '\n':
			dst = append(dst, `\n`...)
		case c == '\r':
			dst = append(dst, `\r`...)
		case c == '\t':
			dst = append(dst, `\t`...)
		case c < ' ':
			dst = fmt.Appendf(dst, `\u%04x`, c)
		default:
			dst = append(dst, c)
		}
	}
	return append(dst, '"'), nil
}
