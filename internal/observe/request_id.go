package observe

import (
	"context"
	"crypto/rand"
	"net/http"
)

// RequestIDHeader is the header in which a request brings its id, and in which it
// gets it back.
const RequestIDHeader = "X-Request-Id"

// mostRequestID is how many characters an id from outside may have.
const mostRequestID = 64

type requestIDKey struct{}

// WithRequestID returns a context of the request that has the id. A second call
// gives it another.
func WithRequestID(ctx context.Context, id string) context.Context {
	return context.WithValue(ctx, requestIDKey{}, id)
}

// RequestID returns the id of the request that the context is of, "" if it is of
// none.
func RequestID(ctx context.Context) string {
	id, _ := ctx.Value(requestIDKey{}).(string)
	return id
}

// RequestIDOf returns the id that a request brings, if it brings one that is fit
// to be written everywhere, and else a new one. Fit are up to 64 ASCII letters,
// digits and the signs . _ : - .
func RequestIDOf(header http.Header) string {
	if ids := header.Values(RequestIDHeader); len(ids) == 1 && ValidRequestID(ids[0]) {
		return ids[0]
	}
	return rand.Text()
}

// ValidRequestID reports whether an id is one that [RequestIDOf] would take from
// outside.
func ValidRequestID(id string) bool {
	for _, c := range []byte(id) {
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '.', c == '_', c == ':', c == '-':
		default:
			return false
		}
	}
	return id != "" && len(id) <= mostRequestID
}
