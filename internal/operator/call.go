package operator

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"

	"github.com/labstack/echo/v4"
)

// A Call is a request to the API that is made in this process.
type Call struct {
	// Method and Path are those of a [Route].
	Method, Path string

	// Parameters are the values of the {name}s in the path, as they are: not escaped.
	Parameters map[string]string

	// Query is the query string. Defaults to nil, none.
	Query url.Values

	// Body is rendered as JSON. Defaults to nil, no body.
	Body any
}

// Call answers a request of the server admin called who, as the route's handler does, and
// decodes the answer into a pointer. The caller has checked who that is. A refusal is a
// [wire.Error], and has changed nothing. A path that is no route's, or that of a stream,
// is an error.
//
// [wire.Error]: lethe/internal/wire.Error
func (o *Operator) Call(ctx context.Context, who string, call Call, answer any) error {
	var body bytes.Buffer
	if call.Body != nil {
		if err := json.NewEncoder(&body).Encode(call.Body); err != nil {
			return fmt.Errorf("render the body of a call: %w", err)
		}
	}
	request, err := http.NewRequestWithContext(ctx, call.Method, Root+"?"+call.Query.Encode(), &body)
	if err != nil {
		return fmt.Errorf("call the API: %w", err)
	}
	for _, route := range o.Routes() {
		if route.Method != call.Method || route.Path != call.Path || route.Answer == nil {
			continue
		}
		recorded := &record{header: http.Header{}}
		c := echo.New().NewContext(request, recorded)
		var names, values []string
		for name, value := range call.Parameters {
			names, values = append(names, name), append(values, url.PathEscape(value))
		}
		c.SetParamNames(names...)
		c.SetParamValues(values...)
		if err := route.Serve(c, who); err != nil {
			return err
		}
		if err := json.Unmarshal(recorded.body.Bytes(), answer); err != nil {
			return fmt.Errorf("read the answer to %s %s: %w", call.Method, call.Path, err)
		}
		return nil
	}
	return fmt.Errorf("call the API: there is no route %s %s", call.Method, call.Path)
}

// A record is the answer of a handler.
type record struct {
	header http.Header
	body   bytes.Buffer
}

// Header implements [http.ResponseWriter].
func (r *record) Header() http.Header { return r.header }

// Write implements [http.ResponseWriter].
func (r *record) Write(text []byte) (int, error) { return r.body.Write(text) }

// WriteHeader implements [http.ResponseWriter].
func (r *record) WriteHeader(int) {}
