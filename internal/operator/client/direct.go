package client

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
)

// Direct sends requests to a handler in the same process. It is an [http.RoundTripper],
// and safe for concurrent use.
type Direct struct {
	handler http.Handler
	serving sync.WaitGroup
}

// NewDirect returns a Direct to the handler.
func NewDirect(handler http.Handler) *Direct { return &Direct{handler: handler} }

// Wait returns when the handler serves no request. Close the bodies of all responses
// first.
func (d *Direct) Wait() { d.serving.Wait() }

// RoundTrip implements [http.RoundTripper]. The handler serves the request in a goroutine
// of its own, so that it can stream. Closing the body of the response ends the request's
// context.
func (d *Direct) RoundTrip(r *http.Request) (*http.Response, error) {
	ctx, cancel := context.WithCancel(r.Context())
	reader, writer := io.Pipe()
	w := &directWriter{body: writer, header: http.Header{}, started: make(chan struct{})}
	served := r.Clone(ctx)
	if served.Body == nil { // as a server's request never is
		served.Body = io.NopCloser(strings.NewReader(""))
	}
	served.RequestURI = served.URL.RequestURI()
	served.RemoteAddr = "127.0.0.1:0"
	d.serving.Go(func() {
		defer cancel()
		defer func() {
			_ = served.Body.Close() // it was read as far as the handler wanted
			if reason := recover(); reason != nil {
				_ = writer.CloseWithError(fmt.Errorf("the handler panicked: %v", reason))
			} else {
				_ = writer.Close()
			}
			w.WriteHeader(http.StatusOK)
		}()
		d.handler.ServeHTTP(w, served)
	})
	select {
	case <-w.started:
	case <-r.Context().Done():
		cancel()
		_ = reader.CloseWithError(r.Context().Err())
		return nil, r.Context().Err()
	}
	// A handler that goes on after its request must not keep the reader.
	stop := context.AfterFunc(r.Context(), func() { _ = writer.CloseWithError(r.Context().Err()) })
	return &http.Response{
		Status: fmt.Sprintf("%d %s", w.status, http.StatusText(w.status)), StatusCode: w.status, Header: w.sent, Request: r, ContentLength: -1,
		Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Body: &directBody{PipeReader: reader, cancel: func() {
			stop()
			cancel()
		}},
	}, nil
}

// directBody is the body of a response of Direct.
type directBody struct {
	*io.PipeReader
	cancel func()
}

// Close ends the request.
func (b *directBody) Close() error {
	b.cancel()
	return b.PipeReader.Close()
}

// directWriter is where a handler writes its response. It serves one goroutine.
type directWriter struct {
	body    *io.PipeWriter
	header  http.Header
	started chan struct{}

	// status and sent are set before started is closed.
	status int
	sent   http.Header
}

// Header implements [http.ResponseWriter].
func (w *directWriter) Header() http.Header { return w.header }

// WriteHeader implements [http.ResponseWriter]. A second call does nothing.
func (w *directWriter) WriteHeader(status int) {
	if w.status == 0 {
		w.status, w.sent = status, w.header.Clone()
		close(w.started)
	}
}

// Write implements [http.ResponseWriter].
func (w *directWriter) Write(p []byte) (int, error) {
	w.WriteHeader(http.StatusOK)
	return w.body.Write(p)
}

// Flush implements [http.Flusher]. Nothing is buffered.
func (w *directWriter) Flush() { w.WriteHeader(http.StatusOK) }
