package observe

import (
	"context"
	"crypto/rand"
	"net/http"
)

// RequestIDHeader is the header of a request's id, in the request and in the
// response.
const RequestIDHeader = "X-Request-Id"

// maxRequestID is the length of the longest id that a request may have.
const maxRequestID = 64

type requestIDKey struct{}

// WithRequestID returns a context of the request with this id. A second call
// replaces the id.
func WithRequestID(ctx context.Context, id string) context.Context {
	return context.WithValue(ctx, requestIDKey{}, id)
}

// RequestID returns the id of the context's request, "" if there is no request.
func RequestID(ctx context.Context) string {
	id, _ := ctx.Value(requestIDKey{}).(string)
	return id
}

// RequestIDOf returns the id in the headers of a request if it is valid, and a new id
// otherwise. A valid id has 1 to 64 ASCII letters, digits, or characters of ._:- .
func RequestIDOf(header http.Header) string {
	if ids := header.Values(RequestIDHeader); len(ids) == 1 && ValidRequestID(ids[0]) {
		return ids[0]
	}
	return rand.Text()
}

// ValidRequestID reports whether [RequestIDOf] accepts an id.
func ValidRequestID(id string) bool {
	for _, c := range []byte(id) {
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '.', c == '_', c == ':', c == '-':
		default:
			return false
		}
	}
	return id != "" && len(id) <= maxRequestID
}
