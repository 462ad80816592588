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
	"lethe/internal/operator"
	"lethe/internal/wire"
)

// serve is the middleware of all requests, including those that match no route. It sets
// the timeout and the common headers, renders the error and writes the log.
func (s *server) serve(next echo.HandlerFunc) echo.HandlerFunc {
	return func(c echo.Context) error {
		begun := time.Now()
		sent := c.Request()
		requestID := observe.RequestIDOf(sent.Header)
		writeHeaders(c.Response().Header(), requestID)

		ctx := observe.WithRequestID(sent.Context(), requestID)
		ctx = observe.About(ctx, slog.String("request_id", requestID))
		ctx, span := s.options.Tracer.Serve(ctx, sent.Header, methodLabel(sent.Method))
		sent = sent.WithContext(ctx)
		c.Set(sentKey, sent)
		defer setTimeout(c, sent, begun, s.options.Timeout)()
		defer func() {
			if cancel, ok := c.Get(extendedKey).(context.CancelFunc); ok {
				cancel()
			}
		}()
		var err error
		if sent.Method == http.MethodOptions {
			err = c.NoContent(http.StatusNoContent)
		} else {
			err = recoverPanic(next, c)
		}
		if s.isPassedOn(sent, err) {
			c.SetPath(passedOn)
			defer setTimeout(c, sent, begun, s.options.PassTimeout)()
			err = recoverPanic(func(c echo.Context) error { return s.passOn(c, requestID) }, c)
		}
		endSpan(span, c, s.report(c, requestID, begun, err))
		if errors.Is(err, http.ErrAbortHandler) {
			panic(http.ErrAbortHandler) // or the client would not notice that the answer is incomplete
		}
		return nil
	}
}

const (
	// sentKey is the context's key of the request as it was sent, without a timeout.
	sentKey = "sent"

	// extendedKey is the context's key of the function that ends an extended timeout.
	extendedKey = "extended"
)

// extendTimeout gives a request more time. The request's body must have been read. A
// handler calls it at most once. The timeout outlives the handler, because the rendering
// of the handler's error depends on whether it has passed.
func (s *server) extendTimeout(c echo.Context, timeout time.Duration) {
	c.Set(extendedKey, setTimeout(c, c.Get(sentKey).(*http.Request), time.Now(), timeout))
}

// patient gives the requests of a route more time if they may need it.
func (s *server) patient(route operator.Route) func(c echo.Context, requester string) error {
	if !route.Patient {
		return route.Serve
	}
	return func(c echo.Context, requester string) error {
		s.extendTimeout(c, s.options.PassTimeout)
		return route.Serve(c, requester)
	}
}

// setTimeout sets the request with a timeout as the context's request. The caller calls
// the returned function after the answer.
func setTimeout(c echo.Context, request *http.Request, begun time.Time, timeout time.Duration) context.CancelFunc {
	ctx, cancel := context.WithTimeout(request.Context(), timeout)
	c.SetRequest(request.WithContext(ctx))
	// A context does not end reads and writes, so they have their own deadlines, which are
	// later: when a read fails while the handler runs, net/http cancels the context of the
	// connection, and with it that of the next request there. Without a body only that next
	// request can be read, so that the answer may take longer than a read. Only connections
	// in tests do not support deadlines.
	reads := timeout * 3 / 2
	if request.Body == nil || request.Body == http.NoBody {
		reads = timeout * 5 / 2
	}
	connection := http.NewResponseController(c.Response())
	_ = connection.SetReadDeadline(begun.Add(reads))
	_ = connection.SetWriteDeadline(begun.Add(timeout * 2))
	return cancel
}

// writeHeaders sets the headers of all answers. They allow requests from any web page,
// because some admin tools are web pages, and have the request id that is in the log.
func writeHeaders(h http.Header, requestID string) {
	allowCrossOrigin(h)
	h.Set("Cache-Control", "no-cache, no-store, must-revalidate")
	h.Set("X-Request-Id", requestID)
}

func allowCrossOrigin(h http.Header) {
	h.Set("Access-Control-Allow-Origin", "*")
	h.Set("Access-Control-Allow-Methods", "GET, HEAD, POST, PUT, DELETE, OPTIONS")
	h.Set("Access-Control-Allow-Headers", "X-Requested-With, Content-Type, Authorization, Date")
}

// withRawPath returns the request with RawPath set to its path as it was sent. Echo then
// routes by RawPath, so that each segment is decoded once and an escaped slash does not
// end a segment. net/http leaves RawPath empty if it can be computed from Path.
func withRawPath(r *http.Request) *http.Request {
	if r.URL.RawPath != "" {
		return r
	}
	sent, u := *r, *r.URL
	u.RawPath = u.EscapedPath()
	sent.URL = &u
	return &sent
}

// recoverPanic calls the handler and turns a panic into an error.
func recoverPanic(handler echo.HandlerFunc, c echo.Context) (err error) {
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

// report answers with the error of a handler, if there is one, logs the request and calls
// Observe. It does not log the path or the query, because they contain ids and access
// tokens. It returns the error if an operator should see it.
func (s *server) report(c echo.Context, requestID string, begun time.Time, err error) error {
	if err != nil {
		err = wire.WriteError(c, databaseRefusal(c.Request().Context(), err))
	}
	duration := time.Since(begun)
	method, route, status := methodLabel(c.Request().Method), routeOf(c), c.Response().Status
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
	// The request's context may have ended.
	s.options.Log.LogAttrs(context.WithoutCancel(c.Request().Context()), level, "request", attrs...)
	if s.options.Observe != nil {
		s.options.Observe(route, method, status, duration)
	}
	return err
}

// methodLabel returns the method, or "OTHER" for an unusual one.
func methodLabel(method string) string {
	switch method {
	case http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodDelete, http.MethodOptions:
		return method
	}
	return "OTHER"
}

// routeOf returns the pattern that the request has matched.
func routeOf(c echo.Context) string { return cmp.Or(c.Path(), "unmatched") }

// endSpan ends the span of an answered request. A refusal is not an error of the span.
func endSpan(span observe.Span, c echo.Context, err error) {
	method, status := methodLabel(c.Request().Method), c.Response().Status
	span.Name(method + " " + routeOf(c))
	span.Set(slog.String("http.route", routeOf(c)), slog.Int("http.response.status_code", status))
	if err == nil && status >= http.StatusInternalServerError {
		err = errors.New(http.StatusText(status))
	}
	span.End(err)
}
