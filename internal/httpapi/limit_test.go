package httpapi_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/netip"
	"strconv"
	"testing"

	"github.com/stretchr/testify/require"

	"lethe/internal/httpapi"
)

func TestTooManyWrongTokens(t *testing.T) {
	t.Parallel()
	b := setup(t, httpapi.Options{TrustedProxies: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}})
	ask := func(address, token string) reply {
		return b.raw(t, "GET /_synapse/admin/v1/rooms HTTP/1.1\nHost: x\nX-Forwarded-For: "+address+"\nAuthorization: Bearer "+token+"\n\n")
	}
	require.Equal(t, http.StatusOK, ask("192.0.2.1", admin).status)
	refused := 0
	for i := range 400 {
		switch r := ask("192.0.2.1", fmt.Sprint("guess-", i)); r.status {
		case http.StatusUnauthorized:
		case http.StatusTooManyRequests:
			refused++
			var body struct {
				Code  string `json:"errcode"`
				Text  string `json:"error"`
				Retry int64  `json:"retry_after_ms"`
			}
			require.NoError(t, json.Unmarshal([]byte(r.body), &body))
			require.Equal(t, "M_LIMIT_EXCEEDED", body.Code)
			require.Equal(t, "Too many wrong access tokens", body.Text)
			require.Positive(t, body.Retry)
			seconds, err := strconv.Atoi(r.header.Get("Retry-After"))
			require.NoError(t, err)
			require.Positive(t, seconds)
			requireHeaders(t, r.header)
		default:
			require.FailNow(t, r.body)
		}
	}
	require.Greater(t, refused, 200)
	require.Equal(t, http.StatusTooManyRequests, ask("192.0.2.1", "puppet").status, "new, and good")
	require.Equal(t, http.StatusOK, ask("192.0.2.1", admin).status, "known to be good")
	require.Equal(t, http.StatusOK, ask("192.0.2.2", "puppet").status, "from elsewhere")
	require.Equal(t, http.StatusOK, ask("192.0.2.1", "puppet").status, "known by now")

	// A token that is known is judged each time all the same.
	b.requireExec(t, `DELETE FROM access_tokens WHERE token = $1`, admin)
	require.Equal(t, http.StatusUnauthorized, ask("192.0.2.1", admin).status)
	for range 50 {
		if refused = ask("192.0.2.1", admin).status; refused == http.StatusTooManyRequests {
			break
		}
	}
	require.Equal(t, http.StatusTooManyRequests, refused, "it may be sent again for ever")
	require.NotContains(t, b.log.String(), "guess-")
}

// TestTokensThatTheHomeserverJudgesAreNotCounted has those of application services
// and guests come in numbers, which the database does not know.
func TestTokensThatTheHomeserverJudgesAreNotCounted(t *testing.T) {
	t.Parallel()
	b := setup(t, httpapi.Options{Homeserver: clientOf(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusTeapot) })})
	ask := func(path, token string) int {
		return b.raw(t, "GET "+path+" HTTP/1.1\nHost: x\nAuthorization: Bearer "+token+"\n\n").status
	}
	for i := range 150 {
		require.Equal(t, http.StatusTeapot, ask("/_matrix/client/v3/rooms/!r:x/messages", fmt.Sprint(i)))
	}
	require.Equal(t, http.StatusTeapot, ask("/_matrix/client/v3/rooms/!r:x/messages", "1"))
	require.Equal(t, http.StatusOK, ask("/_synapse/admin/v1/rooms", admin))
	require.Equal(t, http.StatusUnauthorized, ask("/_synapse/admin/v1/rooms", "1"), "the admin API's are")
}
