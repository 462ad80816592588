package httpapi

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/labstack/echo/v4"

	"lethe/internal/observe"
	"lethe/internal/wire"
)

var (
	errCannotPass = wire.New(http.StatusBadGateway, "M_UNKNOWN", "The homeserver cannot be reached")
	errUpgrade    = wire.BadRequest("The connection cannot be upgraded here")
)

// passedOn is the route of requests that the homeserver answers.
const passedOn = "passed on"

// isPassedOn reports whether the homeserver is to answer a request that ended with the
// error.
func (s *server) isPassedOn(r *http.Request, err error) bool {
	if s.options.Homeserver == nil || !errors.Is(err, echo.ErrNotFound) && !errors.Is(err, echo.ErrMethodNotAllowed) {
		return false
	}
	path := r.URL.RawPath
	if !strings.HasPrefix(path, "/_matrix/") && !strings.HasPrefix(path, "/_synapse/admin/") {
		return false
	}
	return !mayLeave(path)
}

// mayLeave reports whether a proxy before the homeserver may resolve segments of the path,
// and so leave the folder that the path begins with. Some proxies decode %2f, or take a
// backslash for a slash, or cut a segment at a semicolon. Several proxies may decode one
// after the other.
func mayLeave(path string) bool {
	for range 4 {
		if strings.Contains(path, `\`) {
			return true
		}
		for segment := range strings.SplitSeq(path, "/") {
			segment, _, _ = strings.Cut(segment, ";")
			if segment == "." || segment == ".." {
				return true
			}
		}
		decoded, err := url.PathUnescape(path)
		if err != nil || decoded == path {
			return false // what is left is no escape
		}
		path = decoded
	}
	return true
}

// answerTime is the maximum time that Lethe waits for the homeserver's answer before it answers itself.
const answerTime = 5 * time.Second

// homeserverFirst lets the homeserver answer a request that Lethe can answer too. Without a homeserver, and while it cannot be reached, the handler answers.
func (s *server) homeserverFirst(handler echo.HandlerFunc) echo.HandlerFunc {
	if s.options.Homeserver == nil {
		return handler
	}
	return func(c echo.Context) error {
		sent := c.Request()
		if !s.isPassedOn(sent, echo.ErrNotFound) {
			return handler(c)
		}
		ctx, cancel := context.WithTimeout(sent.Context(), min(answerTime, s.options.PassTimeout))
		defer cancel()
		route := c.Path()
		c.SetRequest(sent.WithContext(ctx))
		c.SetPath(passedOn)
		err := s.passOn(c, c.Response().Header().Get(observe.RequestIDHeader))
		c.SetRequest(sent)
		if err == nil || sent.Context().Err() != nil || c.Response().Committed {
			return err
		}
		c.SetPath(route)
		return handler(c)
	}
}

// passOn lets the homeserver answer the request.
func (s *server) passOn(c echo.Context, requestID string) error {
	r := c.Request()
	if r.Header.Get("Upgrade") != "" {
		return errUpgrade
	}
	r = r.Clone(r.Context())
	s.access.Forward(r)
	r.Header.Set(observe.RequestIDHeader, requestID)
	observe.PassOn(r.Context(), r.Header)
	// A homeserver may answer before it has read the whole request. Without full
	// duplex net/http would read the rest of the request first.
	_ = http.NewResponseController(c.Response()).EnableFullDuplex()
	// With it, net/http panics after a handler that leaves a body unread.
	defer func() { _ = r.Body.Close() }()
	// The homeserver's own headers about caching and cross-origin requests apply.
	header := c.Response().Header()
	clear(header)
	err := s.options.Homeserver.Pass(c.Response(), r, r.URL.RawPath, func(answer http.Header) {
		answer.Set("X-Request-Id", requestID)
		if answer.Get("Access-Control-Allow-Origin") == "" {
			allowCrossOrigin(answer)
		}
	})
	if err == nil {
		return nil
	}
	clear(header)
	writeHeaders(header, requestID)
	if r.Context().Err() != nil {
		return err
	}
	return fmt.Errorf("%w: %w", errCannotPass, err)
}
