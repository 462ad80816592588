package observe

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
)

func get(handler http.Handler, path string) *httptest.ResponseRecorder {
	response := httptest.NewRecorder()
	handler.ServeHTTP(response, httptest.NewRequest(http.MethodGet, path, nil))
	return response
}

func passing(context.Context) error { return nil }

func newHandler(checks map[string]Check) http.Handler {
	return NewHealth(prometheus.NewRegistry(), slog.New(slog.DiscardHandler), checks).Handler()
}

func TestHealthz(t *testing.T) {
	t.Parallel()
	handler := newHandler(map[string]Check{"redis": func(context.Context) error { return errors.New("down") }})
	response := get(handler, "/healthz")
	require.Equal(t, http.StatusOK, response.Code)
	require.JSONEq(t, `{"status":"ok"}`, response.Body.String())
	require.Equal(t, "application/json", response.Header().Get("Content-Type"))

	require.Equal(t, http.StatusNotFound, get(handler, "/").Code)
	post := httptest.NewRecorder()
	handler.ServeHTTP(post, httptest.NewRequest(http.MethodPost, "/healthz", nil))
	require.Equal(t, http.StatusMethodNotAllowed, post.Code)
}

func TestReadyz(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		checks map[string]Check
		status int
		body   string
	}{
		"no checks": {nil, http.StatusOK, `{"status":"ok"}`},
		"passing":   {map[string]Check{"database": passing, "redis": passing}, http.StatusOK, `{"status":"ok"}`},
		"failing": {
			map[string]Check{
				"database": func(context.Context) error { return errors.New("dial postgres://u:p@ss@db:5432/x: refused") },
				"redis":    passing,
				"schema":   func(context.Context) error { return errors.New("too old") },
			},
			http.StatusServiceUnavailable,
			`{"status":"unavailable","failing":["database","schema"]}`,
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			response := get(newHandler(test.checks), "/readyz")
			require.Equal(t, test.status, response.Code)
			require.JSONEq(t, test.body, response.Body.String())
		})
	}
}

// The reasons are for the operator: the log has each of them once, without passwords.
func TestReadyzLogsWhyACheckFails(t *testing.T) {
	t.Parallel()
	var log bytes.Buffer
	synctest.Test(t, func(t *testing.T) {
		handler := NewHealth(prometheus.NewRegistry(), slog.New(slog.NewTextHandler(&log, nil)), map[string]Check{
			"database": func(context.Context) error { return errors.New("dial postgres://u:p@ss@db:5432/x: refused") },
		}).Handler()
		for range 3 {
			require.Equal(t, http.StatusServiceUnavailable, get(handler, "/readyz").Code)
			time.Sleep(checkEvery) // of the bubble's clock: the next probe runs the checks again
		}
	})
	require.Equal(t, 1, strings.Count(log.String(), "dial postgres://…@db:5432/x: refused"), log.String())
	require.NotContains(t, log.String(), "p@ss")
}

func TestReadyzGivesUpOnAHangingCheck(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var runs atomic.Int32
		release := make(chan struct{})
		handler := newHandler(map[string]Check{
			"deaf": func(context.Context) error {
				runs.Add(1)
				<-release
				return nil
			},
			"slow": func(ctx context.Context) error {
				<-ctx.Done()
				return ctx.Err()
			},
		})
		for range 3 {
			start := time.Now()
			response := get(handler, "/readyz")
			require.Equal(t, checkTimeout, time.Since(start), "both at once")
			require.Equal(t, http.StatusServiceUnavailable, response.Code)
			require.JSONEq(t, `{"status":"unavailable","failing":["deaf","slow"]}`, response.Body.String())
			time.Sleep(checkEvery)
		}
		require.EqualValues(t, 1, runs.Load(), "it is not started again while it runs")

		close(release)
		synctest.Wait()
		require.NotContains(t, get(handler, "/readyz").Body.String(), "deaf")
		require.EqualValues(t, 2, runs.Load())
	})
}

func TestReadyzRunsItsChecksOnceASecond(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var runs atomic.Int32
		handler := newHandler(map[string]Check{"database": func(context.Context) error {
			time.Sleep(100 * time.Millisecond)
			if runs.Add(1) == 1 {
				return errors.New("starting")
			}
			return nil
		}})
		flood := func(status int) {
			var probes sync.WaitGroup
			for range 50 {
				probes.Go(func() {
					if code := get(handler, "/readyz").Code; code != status {
						t.Errorf("status %d, want %d", code, status)
					}
				})
			}
			probes.Wait()
		}
		flood(http.StatusServiceUnavailable)
		time.Sleep(checkEvery - time.Nanosecond)
		flood(http.StatusServiceUnavailable)
		require.EqualValues(t, 1, runs.Load())

		time.Sleep(time.Nanosecond)
		flood(http.StatusOK)
		require.EqualValues(t, 2, runs.Load())
	})
}

func TestReadyzOutlivesItsRequest(t *testing.T) {
	t.Parallel()
	handler := newHandler(map[string]Check{"database": func(ctx context.Context) error { return ctx.Err() }})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	response := httptest.NewRecorder()
	handler.ServeHTTP(response, httptest.NewRequestWithContext(ctx, http.MethodGet, "/readyz", nil))
	require.Equal(t, http.StatusOK, response.Code)
}
