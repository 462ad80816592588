package httpapi

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"runtime/debug"
	"time"

	"github.com/labstack/echo/v4"

	"lethe/internal/observe"
)

// serve surrounds every request, whether or not a route matches it: it sets the
// time limit and the headers that all answers have, renders the error, and
// reports.
func (s *server) serve(next echo.HandlerFunc) echo.HandlerFunc {
	return func(c echo.Context) error {
		begun := time.Now()
		sent := c.Request()
		requestID := observe.RequestIDOf(sent.Header)
		writeHeaders(c.Response().Header(), requestID)

		ctx := observe.WithRequestID(sent.Context(), requestID)
		ctx = observe.About(ctx, slog.String("request_id", requestID))
		ctx, span := s.options.Tracer.Serve(ctx, sent.Header, usualMethod(sent.Method))
		sent = sent.WithContext(ctx)
		c.Set(sentKey, sent)
		defer limit(c, sent, begun, s.options.Timeout)()
		defer func() {
			if cancel, ok := c.Get(allowedKey).(context.CancelFunc); ok {
				cancel()
			}
		}()
		var err error
		if sent.Method == http.MethodOptions {
			err = c.NoContent(http.StatusNoContent)
		} else {
			err = guard(next, c)
		}
		if s.isPassedOn(sent, err) {
			c.SetPath("passed on")
			defer limit(c, sent, begun, s.options.PassTimeout)()
			err = guard(func(c echo.Context) error { return s.passOn(c, requestID) }, c)
		}
		cut := errors.Is(err, http.ErrAbortHandler)
		if err != nil {
			err = refuse(c, err)
		}
		s.report(c, requestID, time.Since(begun), err)
		endSpan(span, c, err)
		if cut {
			panic(http.ErrAbortHandler) // or the piece would pass for the whole
		}
		return nil
	}
}

const (
	// sentKey is where the request is kept as it was sent, without a time limit.
	sentKey = "sent"

	// allowedKey is where what ends the time that allow gave is kept.
	allowedKey = "allowed"
)

// allow gives a request, whose body has been read, more time than others have.
// It is called once. The time lasts beyond the handler: how its error is rendered
// depends on whether the time is over.
func (s *server) allow(c echo.Context, patience time.Duration) {
	c.Set(allowedKey, limit(c, c.Get(sentKey).(*http.Request), time.Now(), patience))
}

// limit bounds the request, which is the context's from now on. The caller calls
// what it returns when the request has been answered.
func limit(c echo.Context, request *http.Request, begun time.Time, timeout time.Duration) context.CancelFunc {
	ctx, cancel := context.WithTimeout(request.Context(), timeout)
	c.SetRequest(request.WithContext(ctx))
	// The context ends no read or write, so these have deadlines of their own:
	// later ones, because net/http takes a read that fails while a handler is
	// at work for a client that has gone. A connection that can have none is
	// not a client's.
	connection := http.NewResponseController(c.Response())
	_ = connection.SetReadDeadline(begun.Add(timeout * 3 / 2))
	_ = connection.SetWriteDeadline(begun.Add(timeout * 2))
	return cancel
}

// writeHeaders sets what every answer has: leave for any web page to ask, since
// admin tools are web pages, and a request id to find in the log.
func writeHeaders(h http.Header, requestID string) {
	allowAnyPage(h)
	h.Set("Cache-Control", "no-cache, no-store, must-revalidate")
	h.Set("X-Request-Id", requestID)
}

func allowAnyPage(h http.Header) {
	h.Set("Access-Control-Allow-Origin", "*")
	h.Set("Access-Control-Allow-Methods", "GET, HEAD, POST, PUT, DELETE, OPTIONS")
	h.Set("Access-Control-Allow-Headers", "X-Requested-With, Content-Type, Authorization, Date")
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
		switch v := recover(); v {
		case nil:
		case http.ErrAbortHandler:
			err = http.ErrAbortHandler
		default:
			err = fmt.Errorf("panic: %v\n%s", v, debug.Stack())
		}
	}()
	return handler(c)
}

// report writes the request's line to the log and tells Observe. The path and
// the query stay out of it: they hold ids and access tokens.
func (s *server) report(c echo.Context, requestID string, duration time.Duration, err error) {
	method, route, status := usualMethod(c.Request().Method), routeOf(c), c.Response().Status
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

// usualMethod is the method, or "OTHER" for those that nobody has reason to send.
func usualMethod(method string) string {
	switch method {
	case http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodDelete, http.MethodOptions:
		return method
	}
	return "OTHER"
}

// routeOf is the pattern that the request has matched.
func routeOf(c echo.Context) string { return cmp.Or(c.Path(), "unmatched") }

// endSpan ends a request's span, with what is known when it has been answered. A
// refusal is no failure of ours.
func endSpan(span observe.Span, c echo.Context, err error) {
	method, status := usualMethod(c.Request().Method), c.Response().Status
	span.Name(method + " " + routeOf(c))
	span.Set(slog.String("http.route", routeOf(c)), slog.Int("http.response.status_code", status))
	if err == nil && status >= http.StatusInternalServerError {
		err = errors.New(http.StatusText(status))
	}
	span.End(err)
}
