package homeserver

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// directly answers requests without a network, so that the clock of a synctest
// bubble goes on.
type directly http.HandlerFunc

func (f directly) RoundTrip(r *http.Request) (*http.Response, error) {
	if err := r.Context().Err(); err != nil {
		return nil, err
	}
	recorder := httptest.NewRecorder()
	f(recorder, r)
	return recorder.Result(), nil
}

func clientOf(t *testing.T, options Options, handler http.HandlerFunc) *Client {
	t.Helper()
	client, err := New("http://homeserver", options)
	require.NoError(t, err)
	client.transport = directly(handler)
	return client
}

func TestWaits(t *testing.T) {
	t.Parallel()
	type span struct{ least, most time.Duration }
	exactly := func(d time.Duration) span { return span{d, d} }
	backoff := []span{
		{100 * time.Millisecond, 200 * time.Millisecond},
		{400 * time.Millisecond, 800 * time.Millisecond},
		{1600 * time.Millisecond, 3200 * time.Millisecond},
	}
	for name, test := range map[string]struct {
		status int
		header string
		body   string
		waits  []span
	}{
		"milliseconds":    {429, "", `{"errcode":"M_LIMIT_EXCEEDED","retry_after_ms":1500}`, []span{exactly(1500 * time.Millisecond), exactly(1500 * time.Millisecond), exactly(1500 * time.Millisecond)}},
		"body wins":       {429, "7", `{"errcode":"M_LIMIT_EXCEEDED","retry_after_ms":1500.0}`, []span{exactly(1500 * time.Millisecond), exactly(1500 * time.Millisecond), exactly(1500 * time.Millisecond)}},
		"seconds":         {429, "7", `{"errcode":"M_LIMIT_EXCEEDED"}`, []span{exactly(7 * time.Second), exactly(7 * time.Second), exactly(7 * time.Second)}},
		"too long":        {429, "", `{"errcode":"M_LIMIT_EXCEEDED","retry_after_ms":10001}`, nil},
		"far too long":    {429, "", `{"errcode":"M_LIMIT_EXCEEDED","retry_after_ms":1e300}`, nil},
		"negative":        {429, "-7", `{"errcode":"M_LIMIT_EXCEEDED","retry_after_ms":-1}`, backoff},
		"no number":       {429, "soon", `{"errcode":"M_LIMIT_EXCEEDED","retry_after_ms":"1"}`, backoff},
		"not a number":    {429, "NaN", `{"errcode":"M_LIMIT_EXCEEDED"}`, backoff},
		"unavailable":     {503, "", ``, backoff},
		"internal error":  {500, "", `{"errcode":"M_UNKNOWN"}`, backoff},
		"refusal":         {403, "", `{"errcode":"M_FORBIDDEN"}`, nil},
		"no Matrix error": {404, "", `<html>`, nil},
		"redirect":        {307, "", `{"errcode":"M_UNKNOWN"}`, nil},
		"no object":       {200, "", `[]`, nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				var at []time.Time
				client := clientOf(t, Options{}, func(w http.ResponseWriter, _ *http.Request) {
					at = append(at, time.Now())
					w.Header().Set("Retry-After", test.header)
					w.WriteHeader(test.status)
					_, _ = fmt.Fprint(w, test.body)
				})
				require.Error(t, client.Service("token").Join(t.Context(), "@a:x", "!r:x"))
				require.Len(t, at, len(test.waits)+1)
				for i, wait := range test.waits {
					got := at[i+1].Sub(at[i])
					require.True(t, wait.least <= got && got <= wait.most, "wait %d: %s", i, got)
				}
			})
		})
	}
}

func TestRetryAfterDate(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	require.Equal(t, 90*time.Second, retryAfter(now.Add(90*time.Second).Format(http.TimeFormat), now))
	require.Zero(t, retryAfter(now.Add(-time.Second).Format(http.TimeFormat), now))
	require.Equal(t, 24*time.Hour, retryAfter("1e30", now))
}

// A wait ends with its context, and says why it ended.
func TestWaitEndsWithTheContext(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		client := clientOf(t, Options{MostWait: time.Hour}, func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(429)
			_, _ = fmt.Fprint(w, `{"errcode":"M_LIMIT_EXCEEDED","retry_after_ms":60000}`)
		})
		ctx, cancel := context.WithCancelCause(t.Context())
		time.AfterFunc(time.Second, func() { cancel(context.Canceled) })
		begun := time.Now()
		require.ErrorIs(t, client.Service("token").Join(ctx, "@a:x", "!r:x"), context.Canceled)
		require.Equal(t, time.Second, time.Since(begun))
	})
}

// A text of the homeserver is fit for a log, and has no access token.
func TestRefusalsAreFitForALog(t *testing.T) {
	t.Parallel()
	client := clientOf(t, Options{}, func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(403)
		_, _ = fmt.Fprintf(w, `{"errcode":"M_%s","error":"%s\n\u0007 %s%s","soft_logout":"x"}`,
			strings.Repeat("C", 1000), r.Header.Get("Authorization"), "\xff", strings.Repeat("ü", 1000))
	})
	err := client.Service("a-token").Leave(t.Context(), "@a:x", "!r:x")
	var refusal *Error
	require.ErrorAs(t, err, &refusal)
	require.NotContains(t, err.Error(), "a-token")
	require.True(t, strings.HasPrefix(refusal.Text, "Bearer [secret]   \uFFFDüü"), refusal.Text)
	require.Less(t, len(err.Error()), 1000)
	require.Nil(t, refusal.SoftLogout)
	require.NotContains(t, fmt.Sprintf("%v %+v %#v", client.Service("a-token"), client.Service("a-token"), client.Service("a-token")), "a-token")
}

func TestInvalidTokensAreNotSent(t *testing.T) {
	t.Parallel()
	client := clientOf(t, Options{}, func(http.ResponseWriter, *http.Request) { t.Error("sent") })
	for _, token := range []string{"a\nb", "a b", "ü", strings.Repeat("a", 9000)} {
		err := client.Service(token).Join(t.Context(), "@a:x", "!r:x")
		require.Error(t, err)
		require.NotContains(t, err.Error(), token)
	}
}
