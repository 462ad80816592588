package httpapi

import (
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"
	"unicode/utf8"

	"github.com/labstack/echo/v4"

	"lethe/internal/matrix"
	"lethe/internal/wire"
)

// queryOf returns the query string of the request.
func queryOf(c echo.Context) *wire.Query { return wire.NewQuery(c.Request().URL.RawQuery) }

// segment returns a segment of the path, decoded once. Bytes that are not UTF-8 become
// U+FFFD, which is in no id.
func segment(c echo.Context, name string) string {
	sent := c.Param(name)
	decoded, err := url.PathUnescape(sent)
	if err != nil { // net/http refuses such requests
		decoded = sent
	}
	return strings.ToValidUTF8(decoded, "\uFFFD")
}

// maxRoomID is the maximum length of a room id in bytes. An index of PostgreSQL cannot
// hold much longer ones.
const maxRoomID = 255

// readRoomID returns the room id in the path. It refuses ids that the database cannot
// hold, because they are too long or contain a zero byte.
func readRoomID(c echo.Context) (string, error) {
	room := segment(c, "room_id")
	if !matrix.ValidRoomID(room) || len(room) > maxRoomID || strings.Contains(room, "\x00") {
		return "", wire.BadRequest(room + " is not a legal room ID")
	}
	return room, nil
}

// maxBody is the maximum length of a request's body in bytes. Useful ones have at most a
// few hundred.
const maxBody = 1 << 20

var (
	errTooLarge = wire.New(http.StatusRequestEntityTooLarge, "M_TOO_LARGE", "Request content is too large")
	errSlowBody = wire.New(http.StatusRequestTimeout, "M_UNKNOWN", "The request's content took too long")
	errNotJSON  = wire.New(http.StatusBadRequest, "M_NOT_JSON", "Content not JSON.")
)

// readObject reads the body's JSON object. An empty body is an empty object.
// The values are returned as they were sent, because admin tools rely on the difference
// between 1, 1.0 and true. It does not decode into a struct, because encoding/json would
// ignore the case of the keys.
func readObject(c echo.Context) (map[string]json.RawMessage, error) {
	body, err := io.ReadAll(http.MaxBytesReader(c.Response().Writer, c.Request().Body, maxBody))
	var tooLarge *http.MaxBytesError
	switch {
	case errors.As(err, &tooLarge):
		return nil, errTooLarge
	case errors.Is(err, os.ErrDeadlineExceeded):
		return nil, errSlowBody
	case err != nil: // incomplete, or with invalid framing
		return nil, errNotJSON
	case len(body) == 0:
		return nil, nil
	case !utf8.Valid(body) || !json.Valid(body):
		return nil, errNotJSON
	}
	var object map[string]json.RawMessage
	if err := json.Unmarshal(body, &object); err != nil || object == nil {
		return nil, wire.BadJSON("Content must be a JSON object.")
	}
	return object, nil
}

// readSomeObject is readObject for a body that must not be empty.
func readSomeObject(c echo.Context) (map[string]json.RawMessage, error) {
	object, err := readObject(c)
	if err == nil && object == nil {
		err = errNotJSON
	}
	return object, err
}
