package httpapi_test

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"lethe/internal/httpapi"
)

// A web page such as Ketesa can read an answer only if it has the headers, so that it
// could not show why a request failed without them.
func TestWebPagesCanReadEveryRefusal(t *testing.T) {
	t.Parallel()
	const (
		purge   = "/_synapse/admin/v1/purge_history/!room:x"
		passing = "/_matrix/client/v3/sync"
	)
	alone := setup(t, httpapi.Options{})
	slow := setup(t, httpapi.Options{Timeout: time.Second})
	slow.tasks.instead = untilOver
	down := setup(t, httpapi.Options{Homeserver: clientAt(t, downAt(t))})
	endless := clientOf(t, func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	hanging := setup(t, httpapi.Options{PassTimeout: 100 * time.Millisecond, Homeserver: endless})
	upgrading := setup(t, httpapi.Options{Homeserver: clientOf(t, echo)})
	// A proxy before the homeserver answers for it.
	starting := setup(t, httpapi.Options{Homeserver: clientOf(t, func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusServiceUnavailable)
		_, _ = io.WriteString(w, "<html>")
	})})
	for name, test := range map[string]struct {
		b       *bundle
		request string
		status  int
	}{
		"no JSON":             {alone, "POST " + purge + " HTTP/1.1\nHost: x\nAuthorization: Bearer admin\nContent-Length: 1\n\n{", 400},
		"no upgrade":          {upgrading, "GET " + passing + " HTTP/1.1\nHost: x\nConnection: Upgrade\nUpgrade: x\n\n", 400},
		"no token":            {alone, "POST " + purge + " HTTP/1.1\nHost: x\n\n", 401},
		"wrong token":         {alone, "POST " + purge + " HTTP/1.1\nHost: x\nAuthorization: Bearer wrong\n\n", 401},
		"no admin":            {alone, "POST " + purge + " HTTP/1.1\nHost: x\nAuthorization: Bearer user\n\n", 403},
		"not found":           {alone, "GET /_synapse/admin/v1/unknown HTTP/1.1\nHost: x\n\n", 404},
		"other method":        {alone, "PUT " + purge + " HTTP/1.1\nHost: x\n\n", 405},
		"too large":           {alone, "POST " + purge + " HTTP/1.1\nHost: x\nAuthorization: Bearer admin\nContent-Length: 2000000\n\n" + strings.Repeat(" ", 2_000_000), 413},
		"login":               {alone, "POST /_matrix/client/v3/login HTTP/1.1\nHost: x\nContent-Length: 2\n\n{}", 503},
		"timeout":             {slow, "POST " + purge + "/$one HTTP/1.1\nHost: x\nAuthorization: Bearer admin\n\n", 504},
		"homeserver down":     {down, "GET " + passing + " HTTP/1.1\nHost: x\n\n", 502},
		"login passed on":     {down, "POST /_matrix/client/v3/login HTTP/1.1\nHost: x\nContent-Length: 2\n\n{}", 502},
		"homeserver hangs":    {hanging, "GET " + passing + " HTTP/1.1\nHost: x\n\n", 504},
		"homeserver starting": {starting, "GET " + passing + " HTTP/1.1\nHost: x\n\n", 503},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := test.b.raw(t, strings.Replace(test.request, "\n", "\nOrigin: https://admin.example\n", 1))
			require.Equal(t, test.status, r.status, r.body)
			for _, header := range []string{"Origin", "Methods", "Headers"} {
				require.Len(t, r.header.Values("Access-Control-Allow-"+header), 1)
			}
			require.Equal(t, "*", r.header.Get("Access-Control-Allow-Origin"))
			require.Contains(t, r.header.Get("Access-Control-Allow-Headers"), "Authorization")
			if name != "homeserver starting" {
				require.Equal(t, "application/json", r.header.Get("Content-Type"))
				require.Contains(t, r.body, `"errcode":"M_`)
			}
		})
	}
}

// A browser asks before each request with an access token. It sends no token then.
func TestPreflights(t *testing.T) {
	t.Parallel()
	down := clientAt(t, downAt(t))
	for _, options := range []httpapi.Options{{}, {Homeserver: down}, {Homeserver: down, HomeserverAuth: true}} {
		b := setup(t, options)
		for path, method := range map[string]string{
			roomsV1 + "!room:x":                         "DELETE",
			roomsV2 + "!room:x":                         "DELETE",
			roomsV1 + "!room:x/block":                   "PUT",
			"/_synapse/admin/v1/purge_history/!room:x":  "POST",
			"/_matrix/client/v3/rooms/!room:x/messages": "GET",
			whoami:                        "GET",
			"/_matrix/client/v3/login":    "POST",
			"/_lethe/v1/holds/!room:x":    "PUT",
			"/_matrix/client/v3/sync":     "GET",
			"/_synapse/admin/v2/users/@a": "PUT",
		} {
			r := b.raw(t, fmt.Sprintf("OPTIONS %s HTTP/1.1\nHost: x\nOrigin: https://admin.example\n"+
				"Access-Control-Request-Method: %s\nAccess-Control-Request-Headers: authorization,content-type\n\n", path, method))
			require.Equal(t, 204, r.status, path)
			require.Empty(t, r.body)
			requireHeaders(t, r.header)
			require.Contains(t, r.header.Get("Access-Control-Allow-Methods"), method)
			require.Contains(t, r.header.Get("Access-Control-Allow-Headers"), "Content-Type")
		}
	}
}

// Lethe never reads a password.
func TestLoginWithoutAHomeserver(t *testing.T) {
	t.Parallel()
	b := setup(t, httpapi.Options{})
	for _, version := range []string{"api/v1", "r0", "v3", "unstable"} {
		path := "/_matrix/client/" + version + "/login"
		requireJSON(t, b.send(t, "GET", path, ""), 200, `{"flows":[{"type":"m.login.application_service"}]}`)
		requireJSON(t, b.send(t, "POST", path, `{"type":"m.login.password","user":"admin","password":"hidden"}`), 503, refusal("M_UNKNOWN",
			"Only the homeserver issues access tokens. While it does not run, sign in with one that you have."))
	}
	require.NotContains(t, b.log.String(), "hidden")
}
