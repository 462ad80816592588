package httpapi

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"sync"

	"github.com/labstack/echo/v4"

	"lethe/internal/wire"
)

// statusClientGone is the status in the log for a caller that disconnected. It is never
// sent.
const statusClientGone = 499

var (
	errClientGone = wire.New(statusClientGone, "M_UNKNOWN", "Client closed the connection")
	errInternal   = wire.New(http.StatusInternalServerError, "M_UNKNOWN", "Internal server error")
	errTimeout    = wire.New(http.StatusGatewayTimeout, "M_UNKNOWN", "The request took too long")
)

// writeError answers with an error. It returns the error if an operator should see it.
func writeError(c echo.Context, err error) error {
	var (
		refused *wire.Error
		routing *echo.HTTPError
		ctx     = c.Request().Context()
		toLog   error
	)
	switch {
	case errors.As(err, &refused):
		if refused.Status >= http.StatusInternalServerError {
			toLog = err
		}
	case errors.As(err, &routing):
		refused = wire.New(routing.Code, "M_UNRECOGNIZED", "Unrecognized request")
	case errors.Is(ctx.Err(), context.Canceled):
		refused = errClientGone
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		refused, toLog = errTimeout, err
	default:
		refused, toLog = errInternal, err
	}
	if !c.Response().Committed {
		if refused.RetryAfter > 0 {
			c.Response().Header().Set(echo.HeaderRetryAfter, strconv.FormatInt((refused.RetryAfter+999)/1000, 10))
		}
		// It fails only if the connection is broken.
		_ = answer(c, refused.Status, refused)
	}
	return toLog
}

// instead returns the refusal for an error that is the reason for it, and any other
// error, or nil, as it is.
func instead(err, reason error, refusal *wire.Error) error {
	if errors.Is(err, reason) {
		return refusal
	}
	return err
}

// answerOK answers with a JSON body, unless there is an error, which it returns.
func answerOK(c echo.Context, body any, err error) error {
	if err != nil {
		return err
	}
	return answer(c, http.StatusOK, body)
}

// answer answers with a JSON body.
func answer(c echo.Context, status int, body any) error {
	text, err := json.Marshal(body)
	if err != nil {
		return fmt.Errorf("render the answer: %w", err)
	}
	return c.JSONBlob(status, text)
}

// An objectBody is a JSON object that is written key by key. Unlike json.Marshal
// it neither checks nor compacts the values.
type objectBody []byte

// bodies are used objects. A page of history needs much memory for a short time.
var bodies = sync.Pool{New: func() any { return new(objectBody) }}

// maxPooled is the maximum capacity of an object that is reused, in bytes. A page of 100
// events needs about half of it.
const maxPooled = 256 << 10

// newObject returns an empty object with capacity for the values and some keys.
func newObject(values ...[]json.RawMessage) *objectBody {
	size := 1 << 10
	for _, values := range values {
		for _, value := range values {
			size += len(value) + 1
		}
	}
	body := bodies.Get().(*objectBody)
	*body = slices.Grow((*body)[:0], size)
	return body
}

// key appends a key.
func (o *objectBody) key(name string) {
	before := byte(',')
	if len(*o) == 0 {
		before = '{'
	}
	*o = append(append(append(*o, before, '"'), name...), '"', ':')
}

// text appends a field that is a string.
func (o *objectBody) text(name, value string) {
	quoted, _ := json.Marshal(value) // never fails
	o.json(name, quoted)
}

// json appends a field whose value is JSON.
func (o *objectBody) json(name string, value json.RawMessage) {
	o.key(name)
	*o = append(*o, value...)
}

// list appends a field that is a list of JSON values.
func (o *objectBody) list(name string, values []json.RawMessage) {
	o.key(name)
	*o = append(*o, '[')
	for i, value := range values {
		if i > 0 {
			*o = append(*o, ',')
		}
		*o = append(*o, value...)
	}
	*o = append(*o, ']')
}

// answer answers with the object, which must not be empty. The caller must not use it
// afterwards.
func (o *objectBody) answer(c echo.Context) error {
	*o = append(*o, '}')
	defer func() {
		if cap(*o) <= maxPooled {
			bodies.Put(o)
		}
	}()
	c.Response().Header().Set(echo.HeaderContentLength, strconv.Itoa(len(*o)))
	return c.JSONBlob(http.StatusOK, *o)
}
