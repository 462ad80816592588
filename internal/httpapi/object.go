package httpapi

import (
	"bufio"
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/labstack/echo/v4"
)

// An objectBody is a JSON object that is put together key by key. Unlike json.Marshal
// it neither checks nor compacts the values, nor copies them: a page of history is
// large, and is written from where it is.
type objectBody struct {
	parts [][]byte
	size  int
}

// newObject returns an empty object with room for the values and some keys.
func newObject(values ...[]json.RawMessage) *objectBody {
	parts := 16
	for _, values := range values {
		parts += 2 * len(values)
	}
	return &objectBody{parts: make([][]byte, 0, parts)}
}

func (o *objectBody) add(part []byte) {
	o.parts = append(o.parts, part)
	o.size += len(part)
}

var comma, openBracket, closeBracket = []byte{','}, []byte{'['}, []byte{']'}

// key appends a key.
func (o *objectBody) key(name string) {
	before := `,"`
	if o.size == 0 {
		before = `{"`
	}
	o.add([]byte(before + name + `":`))
}

// text appends a field that is a string.
func (o *objectBody) text(name, value string) {
	quoted, _ := json.Marshal(value) // never fails
	o.json(name, quoted)
}

// json appends a field whose value is JSON.
func (o *objectBody) json(name string, value json.RawMessage) {
	o.key(name)
	o.add(value)
}

// list appends a field that is a list of JSON values.
func (o *objectBody) list(name string, values []json.RawMessage) {
	o.key(name)
	o.add(openBracket)
	for i, value := range values {
		if i > 0 {
			o.add(comma)
		}
		o.add(value)
	}
	o.add(closeBracket)
}

// sendBytes is how much of an answer is written at a time, in bytes.
const sendBytes = 64 << 10

// senders are used buffers.
var senders = sync.Pool{New: func() any { return bufio.NewWriterSize(nil, sendBytes) }}

// answer answers with the object, which must not be empty. A client that takes nothing for
// the stall time, or that is not done when the request's time is over, gets no more.
func (o *objectBody) answer(c echo.Context, stall time.Duration, end time.Time) error {
	o.add([]byte{'}'})
	response := c.Response()
	response.Header().Set(echo.HeaderContentType, echo.MIMEApplicationJSON)
	response.Header().Set(echo.HeaderContentLength, strconv.Itoa(o.size))
	response.WriteHeader(http.StatusOK)
	buffer := senders.Get().(*bufio.Writer)
	buffer.Reset(&sender{response, http.NewResponseController(response), stall, end})
	defer func() {
		buffer.Reset(nil)
		senders.Put(buffer)
	}()
	for _, part := range o.parts {
		for len(part) > 0 {
			// Never more than the buffer at a time, or its writer would get all at once.
			n := min(len(part), sendBytes)
			if _, err := buffer.Write(part[:n]); err != nil {
				return fmt.Errorf("write the answer: %w", err)
			}
			part = part[n:]
		}
	}
	if err := buffer.Flush(); err != nil {
		return fmt.Errorf("write the answer: %w", err)
	}
	return nil
}

// A sender writes to a client that must go on reading.
type sender struct {
	response   *echo.Response
	connection *http.ResponseController
	stall      time.Duration
	end        time.Time
}

// Write implements [io.Writer].
func (s *sender) Write(part []byte) (int, error) {
	deadline := time.Now().Add(s.stall)
	if deadline.After(s.end) {
		deadline = s.end
	}
	_ = s.connection.SetWriteDeadline(deadline) // only connections in tests do not support it
	return s.response.Write(part)
}
