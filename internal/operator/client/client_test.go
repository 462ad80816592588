package client

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"lethe/internal/operator"
	"lethe/internal/wire"
)

// clients returns a client over the network and one in the process, for a handler.
func clients(t *testing.T, handler http.Handler) map[string]*Client {
	t.Helper()
	server := httptest.NewServer(handler)
	t.Cleanup(server.Close)
	network, err := New(Options{URL: server.URL + "/prefix/", Token: "secret"})
	require.NoError(t, err)
	t.Cleanup(network.Close)
	transport := NewDirect(handler)
	t.Cleanup(transport.Wait)
	direct, err := New(Options{URL: "http://localhost/prefix", Token: "secret", Transport: transport})
	require.NoError(t, err)
	return map[string]*Client{"network": network, "direct": direct}
}

func TestAnswers(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		status int
		body   string
		want   error // nil: a *wire.Error
	}{
		"a refusal":        {http.StatusForbidden, `{"errcode":"M_FORBIDDEN","error":"held"}`, nil},
		"a proxy's page":   {http.StatusBadGateway, `<html>`, ErrAnswer},
		"another JSON":     {http.StatusNotFound, `{"message":"no"}`, ErrAnswer},
		"no JSON":          {http.StatusOK, `fine`, ErrAnswer},
		"nothing":          {http.StatusOK, ``, ErrAnswer},
		"a wrong type":     {http.StatusOK, `{"done":7}`, ErrAnswer},
		"a redirect":       {http.StatusFound, ``, ErrAnswer},
		"a long error":     {http.StatusBadRequest, `{"errcode":"M","error":"` + strings.Repeat("x", maxError) + `"}`, ErrAnswer},
		"a strange status": {http.StatusConflict, `{"job":{"id":"A"},"done":false}`, ErrAnswer},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			asked := make(chan string, 10)
			for kind, c := range clients(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				asked <- r.Method + " " + r.URL.EscapedPath() + " " + r.Header.Get("Authorization") + " " + r.Header.Get("Content-Type")
				w.Header().Set("Location", "http://127.0.0.1:1/elsewhere")
				w.WriteHeader(test.status)
				_, _ = io.WriteString(w, test.body)
			})) {
				_, err := c.Do(t.Context(), "cancel", "../A/B", operator.VerbRequest{})
				require.Error(t, err, kind)
				var refusal *wire.Error
				if test.want == nil {
					require.ErrorAs(t, err, &refusal)
					require.Equal(t, test.status, refusal.Status)
				} else {
					require.ErrorIs(t, err, test.want, kind)
				}
				require.Equal(t, "POST /prefix/_lethe/v1/jobs/..%2FA%2FB/cancel Bearer secret application/json", <-asked)
				require.Empty(t, asked, "it was asked twice")
			}
		})
	}
}

func TestAnAnswerIsBounded(t *testing.T) {
	t.Parallel()
	for kind, c := range clients(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		chunk := []byte(strings.Repeat(" ", 1<<20))
		for range maxAnswer>>20 + 1 {
			if _, err := w.Write(chunk); err != nil {
				return
			}
		}
	})) {
		_, err := c.Job(t.Context(), "A")
		require.ErrorIs(t, err, ErrAnswer, kind)
		require.ErrorContains(t, err, "longer than")
	}
}

func TestNewRefuses(t *testing.T) {
	t.Parallel()
	for _, options := range []Options{
		{},
		{URL: "localhost:8470"},
		{URL: "ftp://x"},
		{URL: "http://"},
		{URL: "http://hunter2:x@h"},
		{URL: "http://h?q=1"},
		{URL: "http://h#f"},
		{URL: "http://h\x7f"},
		{URL: "http://h", Token: "hunter2\n"},
		{URL: "http://h", Token: "hünter2"},
	} {
		_, err := New(options)
		require.Error(t, err, options.URL)
		require.NotContains(t, err.Error(), "hunter2")
	}
}

// A request to a handler in the process ends with its context, whatever the handler does.
func TestDirectEnds(t *testing.T) {
	t.Parallel()
	release := make(chan struct{})
	for name, handler := range map[string]http.HandlerFunc{
		"before its header": func(http.ResponseWriter, *http.Request) { <-release },
		"in its body": func(w http.ResponseWriter, _ *http.Request) {
			_, _ = io.WriteString(w, `{"id":`)
			<-release
		},
	} {
		t.Run(name, func(t *testing.T) {
			direct := NewDirect(handler)
			c, err := New(Options{URL: "http://localhost", Transport: direct})
			require.NoError(t, err)
			ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
			defer cancel()
			_, err = c.Job(ctx, "A")
			require.ErrorIs(t, err, context.DeadlineExceeded)
		})
	}
	close(release)

	direct := NewDirect(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(http.StatusTeapot)
		w.WriteHeader(http.StatusOK) // does nothing
		_, _ = io.Copy(w, r.Body)
		panic("broken")
	}))
	request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://localhost/", strings.NewReader("body"))
	require.NoError(t, err)
	response, err := direct.RoundTrip(request)
	require.NoError(t, err)
	require.Equal(t, http.StatusTeapot, response.StatusCode)
	text, err := io.ReadAll(response.Body)
	require.Equal(t, "body", string(text))
	require.ErrorContains(t, err, "the handler panicked: broken")
	require.NoError(t, response.Body.Close())

	// Closing the body ends the handler.
	ended := make(chan struct{})
	direct = NewDirect(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		require.NoError(t, http.NewResponseController(w).Flush())
		<-r.Context().Done()
		close(ended)
	}))
	request, err = http.NewRequestWithContext(t.Context(), http.MethodGet, "http://localhost/", nil)
	require.NoError(t, err)
	response, err = direct.RoundTrip(request)
	require.NoError(t, err)
	require.NoError(t, response.Body.Close())
	<-ended
	direct.Wait()
}

func TestFollow(t *testing.T) {
	t.Parallel()
	for kind := range clients(t, http.NotFoundHandler()) {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			lasts := make(chan string, 10)
			connection := 0
			c := clients(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				lasts <- r.Header.Get("Last-Event-ID")
				connection++
				switch connection {
				case 1: // in pieces, with comments, unknown fields and no space
					w.Header().Set("Content-Type", "text/event-stream; charset=utf-8")
					for _, piece := range []string{": hello\n\nretry: 5\nid: 3\nev", "ent: job\nda", "ta: {\"id\":\ndata: \"A\"}\n\n", "id:4\ndata:{\"job\":{\"id\":\"B\"}}\n\n", "data: {\"id\":\"lost\"}\n"} {
						_, _ = io.WriteString(w, piece)
						_ = http.NewResponseController(w).Flush()
					}
				case 2:
					w.WriteHeader(http.StatusBadGateway)
				case 3:
					w.Header().Set("Content-Type", "text/event-stream")
					_, _ = io.WriteString(w, "id: 5\ndata: nonsense\n\n")
				case 4:
					w.Header().Set("Content-Type", "text/event-stream")
					_, _ = io.WriteString(w, "data: {\"id\":\"C\"}\n\nid: 6\ndata: {\"id\":\"D\"}\n\ndata: {\"id\":\"E\"}\n\n")
				}
			}))[kind]
			var seen []string
			var lost int
			err := c.Follow(t.Context(), "", func(event Event) bool {
				seen = append(seen, fmt.Sprint(event.Job.ID, event.ID))
				return event.Job.ID != "D"
			}, func(error) { lost++ })
			require.NoError(t, err)
			require.Equal(t, []string{"A3", "B4", "C0", "D6"}, seen)
			require.Equal(t, 3, lost)
			close(lasts)
			var all []string
			for last := range lasts {
				all = append(all, last)
			}
			require.Equal(t, []string{"", "4", "4", "4"}, all)
		})
	}
}

func TestFollowEnds(t *testing.T) {
	t.Parallel()
	c := clients(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.Contains(r.URL.Path, "/refused/") {
			w.WriteHeader(http.StatusForbidden)
			_, _ = io.WriteString(w, `{"errcode":"M_FORBIDDEN","error":"no"}`)
			return
		}
		w.Header().Set("Content-Type", "text/event-stream")
		_, _ = io.WriteString(w, "data: "+strings.Repeat("x", maxLine)+"\n\n")
	}))["network"]
	var refusal *wire.Error
	require.ErrorAs(t, c.Follow(t.Context(), "refused", nil, nil), &refusal)

	ctx, cancel := context.WithCancel(t.Context())
	err := c.Follow(ctx, "long", nil, func(err error) {
		require.ErrorContains(t, err, "too long")
		cancel()
	})
	require.True(t, errors.Is(err, context.Canceled), err)
}
