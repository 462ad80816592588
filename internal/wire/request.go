package wire

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"os"
	"reflect"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/labstack/echo/v4"

	"lethe/internal/matrix"
)

// QueryOf returns the query string of the request.
func QueryOf(c echo.Context) *Query { return NewQuery(c.Request().URL.RawQuery) }

// Segment returns a segment of the path, decoded once. Bytes that are not UTF-8 become
// U+FFFD, which is in no id.
func Segment(c echo.Context, name string) string {
	sent := c.Param(name)
	decoded, err := url.PathUnescape(sent)
	if err != nil { // net/http refuses such requests
		decoded = sent
	}
	return strings.ToValidUTF8(decoded, "\uFFFD")
}

// MaxRoomID is the maximum length of a room id in bytes. An index of PostgreSQL cannot
// hold much longer ones.
const MaxRoomID = 255

// ReadRoomID returns the room id in the path. It refuses ids that the database cannot
// hold, because they are too long or contain a zero byte.
func ReadRoomID(c echo.Context) (string, error) {
	room := Segment(c, "room_id")
	if err := CheckRoomID(room); err != nil {
		return "", err
	}
	return room, nil
}

// CheckRoomID refuses ids of rooms as [ReadRoomID] does.
func CheckRoomID(room string) error {
	if !matrix.ValidRoomID(room) || len(room) > MaxRoomID || strings.Contains(room, "\x00") {
		return BadRequest(room + " is not a legal room ID")
	}
	return nil
}

// MaxBody is the maximum length of a request's body in bytes. Useful ones have at most a
// few hundred.
const MaxBody = 1 << 20

var (
	errTooLarge = New(http.StatusRequestEntityTooLarge, "M_TOO_LARGE", "Request content is too large")
	errSlowBody = New(http.StatusRequestTimeout, "M_UNKNOWN", "The request's content took too long")
)

// ErrNotJSON is the refusal of a body that is not JSON.
var ErrNotJSON = New(http.StatusBadRequest, "M_NOT_JSON", "Content not JSON.")

// ReadObject reads the body's JSON object. An empty body is an empty object.
// The values are returned as they were sent, because admin tools rely on the difference
// between 1, 1.0 and true. It does not decode into a struct, because encoding/json would
// ignore the case of the keys.
func ReadObject(c echo.Context) (map[string]json.RawMessage, error) {
	body, err := io.ReadAll(http.MaxBytesReader(c.Response().Writer, c.Request().Body, MaxBody))
	var tooLarge *http.MaxBytesError
	switch {
	case errors.As(err, &tooLarge):
		return nil, errTooLarge
	case errors.Is(err, os.ErrDeadlineExceeded):
		return nil, errSlowBody
	case err != nil: // incomplete, or with invalid framing
		return nil, ErrNotJSON
	case len(body) == 0:
		return nil, nil
	case !utf8.Valid(body) || !json.Valid(body):
		return nil, ErrNotJSON
	}
	var object map[string]json.RawMessage
	if err := json.Unmarshal(body, &object); err != nil || object == nil {
		return nil, BadJSON("Content must be a JSON object.")
	}
	return object, nil
}

// ReadSomeObject is ReadObject for a body that must not be empty.
func ReadSomeObject(c echo.Context) (map[string]json.RawMessage, error) {
	object, err := ReadObject(c)
	if err == nil && object == nil {
		err = ErrNotJSON
	}
	return object, err
}

// ReadBody reads the body's JSON object into a pointer to a struct. An empty body leaves
// it as it is. It refuses keys that are not among the struct's, whatever their case, and
// values of another type, and names them.
func ReadBody(c echo.Context, body any) error {
	object, err := ReadObject(c)
	if err != nil {
		return err
	}
	return readInto(body, object)
}

// ReadSomeBody is ReadBody for a body that must not be empty.
func ReadSomeBody(c echo.Context, body any) error {
	object, err := ReadSomeObject(c)
	if err != nil {
		return err
	}
	return readInto(body, object)
}

func readInto(body any, object map[string]json.RawMessage) error {
	known := keys(reflect.TypeOf(body).Elem())
	for key := range object {
		if known[key] == nil {
			return BadJSON("Unknown param '" + key + "'")
		}
	}
	// Each key by itself, so that a refusal can name it.
	for _, key := range slices.Sorted(maps.Keys(object)) {
		one, err := json.Marshal(map[string]json.RawMessage{key: object[key]})
		if err != nil {
			return fmt.Errorf("read the body: %w", err)
		}
		decoder := json.NewDecoder(bytes.NewReader(one))
		decoder.DisallowUnknownFields()
		// The decoder ignores the case of keys.
		if !hasKeysOf(known[key], object[key]) || decoder.Decode(body) != nil {
			return BadJSON("Param '" + key + "' has the wrong type, or an unknown param in it")
		}
	}
	return nil
}

// hasKeysOf reports whether the object has no other keys than the type, nor has any object
// in it. Other values have no keys.
func hasKeysOf(t reflect.Type, sent json.RawMessage) bool {
	var object map[string]json.RawMessage
	if t.Kind() != reflect.Struct || json.Unmarshal(sent, &object) != nil {
		return true
	}
	known := keys(t)
	for key, value := range object {
		if known[key] == nil || !hasKeysOf(known[key], value) {
			return false
		}
	}
	return true
}

// keys are the JSON keys of a struct and of those that it embeds, with their types.
func keys(t reflect.Type) map[string]reflect.Type {
	types := map[string]reflect.Type{}
	for _, field := range reflect.VisibleFields(t) {
		name, _, _ := strings.Cut(field.Tag.Get("json"), ",")
		if name != "" {
			types[name] = field.Type
		}
	}
	return types
}

// CommandAgent is the User-Agent of the command lethe.
const CommandAgent = "lethe-command"
