package httpapi

import (
	"encoding/json"
	"net/http"
	"slices"
	"strconv"
	"sync"

	"github.com/labstack/echo/v4"
)

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
