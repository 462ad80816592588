package httpapi

import (
	"context"
	"crypto/rand"
	"fmt"
	"log/slog"
	"net/http"
	"runtime/debug"
	"time"

	"github.com/labstack/echo/v4"
)

// serve surrounds every request, whether or not a route matches it: it sets the
// time limit and the headers that all answers have, renders the error, and
// reports.
func (s *server) serve(next echo.HandlerFunc) echo.HandlerFunc {
	return func(c echo.Context) error {
		begun := time.Now()
		requestID := rand.Text()
		writeHeaders(c.Response().Header(), requestID)

		ctx, cancel := context.WithTimeout(c.Request().Context(), s.options.Timeout)
		defer cancel()
		c.SetRequest(c.Request().WithContext(ctx))
		// The context ends no read or write, so these have deadlines of their own:
		// later ones, because net/http takes a read that fails while a handler is
		// at work for a client that has gone. A connection that can have none is
		// not a client's.
		connection := http.NewResponseController(c.Response())
		_ = connection.SetReadDeadline(begun.Add(s.options.Timeout * 3 / 2))
		_ = connection.SetWriteDeadline(begun.Add(s.options.Timeout * 2))

		var err error
		if c.Request().Method == http.MethodOptions {
			err = c.NoContent(http.StatusNoContent)
		} else {
			err = guard(next, c)
		}
		if err != nil {
			err = refuse(c, err)
		}
		s.report(c, requestID, time.Since(begun), err)
		return nil
	}
}

// writeHeaders sets what every answer has: leave for any web page to ask, since
// admin tools are web pages, and a request id to find in the log.
func writeHeaders(h http.Header, requestID string) {
	h.Set("Access-Control-Allow-Origin", "*")
	h.Set("Access-Control-Allow-Methods", "GET, HEAD, POST, PUT, DELETE, OPTIONS")
	h.Set("Access-Control-Allow-Headers", "X-Requested-With, Content-Type, Authorization, Date")
	h.Set("Cache-Control", "no-cache, no-store, must-revalidate")
	h.Set("X-Request-Id", requestID)
}

// asSent returns the request with its path as it was sent in RawPath, which echo
// then routes by, so that every segment is decoded once and a slash within an id
// does not end it. net/http leaves RawPath empty where it can be told from Path.
func asSent(r *http.Request) *http.Request {
	if r.URL.RawPath != "" {
		return r
	}
	sent, u := *r, *r.URL
	u.RawPath = u.EscapedPath()
	sent.URL = &u
	return &sent
}

// guard calls the handler and makes a panic an error.
func guard(handler echo.HandlerFunc, c echo.Context) (err error) {
	defer func() {
		if v := recover(); v != nil {
			err = fmt.Errorf("panic: %v\n%s", v, debug.Stack())
		}
	}()
	return handler(c)
}

// report writes the request's line to the log and tells Observe. The path and
// the query stay out of it: they hold ids and access tokens.
func (s *server) report(c echo.Context, requestID string, duration time.Duration, err error) {
	method, route, status := c.Request().Method, c.Path(), c.Response().Status
	switch method {
	case http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodDelete, http.MethodOptions:
	default:
		method = "OTHER"
	}
	if route == "" {
		route = "unmatched"
	}
	level, attrs := slog.LevelInfo, []slog.Attr{
		slog.String("method", method),
		slog.String("route", route),
		slog.Int("status", status),
		slog.Duration("duration", duration),
		slog.String("request_id", requestID),
	}
	if err != nil {
		level, attrs = slog.LevelError, append(attrs, slog.Any("error", err))
	}
	// The request's context may be over, and the line is to be written.
	s.options.Log.LogAttrs(context.WithoutCancel(c.Request().Context()), level, "request", attrs...)
	if s.options.Observe != nil {
		s.options.Observe(route, method, status, duration)
	}
}
