package homeserver

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// historyOf returns a Client of a homeserver that answers over a network.
func historyOf(t *testing.T, options Options, handler http.HandlerFunc) *Client {
	t.Helper()
	server := httptest.NewServer(handler)
	t.Cleanup(server.Close)
	client, err := New(server.URL, options)
	require.NoError(t, err)
	t.Cleanup(client.Close)
	return client
}

func TestOlderHistory(t *testing.T) {
	t.Parallel()
	var asked []string
	client := historyOf(t, Options{}, func(w http.ResponseWriter, r *http.Request) {
		asked = append(asked, r.Method+" "+r.RequestURI+" "+r.Header.Get("Authorization")+" "+r.Header.Get(ForHistoryHeader))
		_, _ = fmt.Fprint(w, `{"chunk":[`+strings.Repeat(`"event",`, 1000)+`1]}`)
	})
	require.NoError(t, client.OlderHistory(t.Context(), "token", "", "!a/b:x", "t12--345_0_0&x", 100))
	require.NoError(t, client.OlderHistory(t.Context(), "as_token", "@u:x", "!a:x", "s1", 1))
	require.Equal(t, []string{
		"GET /_matrix/client/v3/rooms/%21a%2Fb:x/messages?dir=b&from=t12--345_0_0%26x&limit=100 Bearer token 1",
		"GET /_matrix/client/v3/rooms/%21a:x/messages?dir=b&from=s1&limit=1&user_id=%40u%3Ax Bearer as_token 1",
	}, asked)
}

func TestOlderHistoryFails(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		handler http.HandlerFunc
		refused int // the status of an Error, else ErrUnavailable
	}{
		"refused": {func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(403)
			_, _ = fmt.Fprint(w, `{"errcode":"M_FORBIDDEN","error":"no, a-secret"}`)
		}, 403},
		"no Matrix error": {func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(404) }, 0},
		"redirect": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Location", "/astray")
			w.WriteHeader(307)
			_, _ = fmt.Fprint(w, `{"errcode":"M_UNKNOWN"}`)
		}, 0},
		"cut off": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "100")
			_, _ = fmt.Fprint(w, `{`)
		}, 0},
		"endless refusal": {func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(500)
			for range 2 * mostAnswer / 1024 {
				_, _ = fmt.Fprint(w, strings.Repeat(" ", 1024))
			}
		}, 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var asked atomic.Int64
			client := historyOf(t, Options{}, func(w http.ResponseWriter, r *http.Request) {
				asked.Add(1)
				test.handler(w, r)
			})
			err := client.OlderHistory(t.Context(), "a-secret", "", "!a:x", "s1", 1)
			require.EqualValues(t, 1, asked.Load(), "once")
			require.NotContains(t, err.Error(), "a-secret")
			var refusal *Error
			if test.refused == 0 {
				require.ErrorIs(t, err, ErrUnavailable)
				return
			}
			require.ErrorAs(t, err, &refusal)
			require.Equal(t, test.refused, refusal.Status)
		})
	}
}

// An answer without end costs no more than its bound, and one that does not come
// no more than its time.
func TestOlderHistoryIsBounded(t *testing.T) {
	t.Parallel()
	gone := make(chan struct{})
	client := historyOf(t, Options{}, func(w http.ResponseWriter, r *http.Request) {
		defer close(gone)
		for r.Context().Err() == nil {
			if _, err := fmt.Fprint(w, strings.Repeat(" ", 64<<10)); err != nil {
				return
			}
		}
	})
	require.NoError(t, client.OlderHistory(t.Context(), "token", "", "!a:x", "s1", 1))
	<-gone

	silent := historyOf(t, Options{Timeout: 50 * time.Millisecond}, func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	require.ErrorIs(t, silent.OlderHistory(t.Context(), "token", "", "!a:x", "s1", 1), ErrUnanswered)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	require.ErrorIs(t, silent.OlderHistory(ctx, "token", "", "!a:x", "s1", 1), context.Canceled)

	err := silent.OlderHistory(t.Context(), "to ken", "", "!a:x", "s1", 1)
	require.ErrorContains(t, err, "the access token cannot be sent")
	require.NotContains(t, err.Error(), "to ken")
}
