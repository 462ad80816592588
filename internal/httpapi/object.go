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
// it neither reads nor compacts the JSON that is put into it.
type objectBody []byte

// bodies are objects that were answered with. A page of history needs much memory for a
// short time.
var bodies = sync.Pool{New: func() any { return new(objectBody) }}

// mostKept bounds the bytes of an object that is kept: a page of 100 events has half as
// many.
const mostKept = 256 << 10

// newObject returns an empty object with room for the values, and for a little
// more.
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

// key begins a value.
func (o *objectBody) key(name string) {
	before := byte(',')
	if len(*o) == 0 {
		before = '{'
	}
	*o = append(append(append(*o, before, '"'), name...), '"', ':')
}

// text adds a text.
func (o *objectBody) text(name, value string) {
	quoted, _ := json.Marshal(value) // never fails
	o.json(name, quoted)
}

// json adds a value that is JSON.
func (o *objectBody) json(name string, value json.RawMessage) {
	o.key(name)
	*o = append(*o, value...)
}

// list adds a list of values that are JSON.
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

// answer answers with the object, which has a key, and is not to be used after that.
func (o *objectBody) answer(c echo.Context) error {
	*o = append(*o, '}')
	defer func() {
		if cap(*o) <= mostKept {
			bodies.Put(o)
		}
	}()
	c.Response().Header().Set(echo.HeaderContentLength, strconv.Itoa(len(*o)))
	return c.JSONBlob(http.StatusOK, *o)
}
