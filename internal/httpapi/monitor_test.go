package httpapi_test

import (
	"encoding/base64"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"lethe/internal/devstack/devstacktest"
	"lethe/internal/httpapi"
	"lethe/internal/schema"
)

// pages answers with what it was asked for.
var pages = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path == "/panic" {
		panic("the secret is out")
	}
	body, err := io.ReadAll(r.Body)
	if err != nil {
		http.Error(w, err.Error(), http.StatusTeapot)
		return
	}
	_, _ = io.WriteString(w, r.Method+" "+r.URL.Path+" "+string(body))
})

// setupMonitor serves the page alone.
func setupMonitor(t *testing.T, readOnly bool) *bundle {
	t.Helper()
	b := &bundle{log: &log{}, observed: make(chan observed, 100)}
	b.server = httptest.NewUnstartedServer(nil)
	b.server.Config = serverOf(httpapi.NewMonitor(openStoreAs(t, devstacktest.Database(t, "httpapi", prepare), schema.Asynqmon), pages, readOnly, httpapi.Options{
		Health: http.NotFoundHandler(), Log: slog.New(slog.NewTextHandler(b.log, nil)),
	}))
	b.server.Start()
	t.Cleanup(b.server.Close)
	return b
}

func basic(user, password string) string {
	return "Authorization: Basic " + base64.StdEncoding.EncodeToString([]byte(user+":"+password))
}

const bearer = "Authorization: Bearer " + admin

func TestMonitorIsForAdmins(t *testing.T) {
	t.Parallel()
	b := setupMonitor(t, true)
	for name, test := range map[string]struct {
		path    string
		headers string
		status  int
		code    string // of the error, or the body
	}{
		"bearer":             {"/", bearer, 200, "GET / "},
		"basic":              {"/api/queues", basic("", admin), 200, "GET /api/queues "},
		"basic, any user":    {"/", basic("@user:x", admin), 200, "GET / "},
		"basic, for an id":   {"/", basic("", "@admin:x:"+admin), 200, "GET / "},
		"basic, no password": {"/", basic(admin, ""), 401, "M_MISSING_TOKEN"},
		"basic, no text":     {"/", "Authorization: Basic !!", 401, "M_MISSING_TOKEN"},
		"nothing":            {"/", "X: y", 401, "M_MISSING_TOKEN"},
		"in the query":       {"/?access_token=" + admin, "X: y", 401, "M_MISSING_TOKEN"},
		"in a cookie":        {"/", "Cookie: access_token=" + admin, 401, "M_MISSING_TOKEN"},
		"twice":              {"/", bearer + "\n" + bearer, 401, "M_MISSING_TOKEN"},
		"unknown":            {"/", "Authorization: Bearer nobody", 401, "M_UNKNOWN_TOKEN"},
		"unknown, basic":     {"/", basic("", "nobody"), 401, "M_UNKNOWN_TOKEN"},
		"a user":             {"/", basic("", "user"), 403, "M_FORBIDDEN"},
		"a guest":            {"/", basic("", "guest"), 403, "M_GUEST_ACCESS_FORBIDDEN"},
		"an admin as a user": {"/", basic("", "puppeteer"), 403, "M_FORBIDDEN"},
		"a panic":            {"/panic", bearer, 500, "M_UNKNOWN"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := b.raw(t, "GET "+test.path+" HTTP/1.1\nHost: x\n"+test.headers+"\n\n")
			require.Equal(t, test.status, r.status, r.body)
			require.Contains(t, r.body, test.code)
			require.NotContains(t, r.body, "secret")
			require.Equal(t, test.status == 401, r.header.Get("WWW-Authenticate") != "")
			require.Equal(t, "no-store", r.header.Get("Cache-Control"))
			require.Empty(t, r.header.Get("Access-Control-Allow-Origin"), "other sites may read it")
		})
	}
	t.Cleanup(func() {
		require.NotContains(t, b.log.String(), "access_token")
		require.NotContains(t, b.log.String(), admin+" ")
	})
}

func TestMonitorChangesNothingWhereItIsReadOnly(t *testing.T) {
	t.Parallel()
	b := setupMonitor(t, true)
	for _, method := range []string{"POST", "DELETE", "PUT", "PATCH", "OPTIONS", "TRACE", "CONNECT", "get", "QUERY"} {
		r := b.raw(t, method+" /api/queues/default HTTP/1.1\nHost: x\n"+bearer+"\n\n")
		require.Equal(t, http.StatusMethodNotAllowed, r.status, method)
		require.Equal(t, "GET, HEAD", r.header.Get("Allow"))
	}
	require.Equal(t, http.StatusUnauthorized, b.raw(t, "DELETE / HTTP/1.1\nHost: x\n\n").status, "it is told before it is known")
	r := b.raw(t, "GET / HTTP/1.1\nHost: x\nX-HTTP-Method-Override: DELETE\n"+bearer+"\n\n")
	require.Equal(t, "GET / ", r.body)
}

func TestMonitorTakesChangesFromItsOwnPagesAlone(t *testing.T) {
	t.Parallel()
	b := setupMonitor(t, false)
	auth := basic("", admin)
	for headers, status := range map[string]int{
		"X: no browser":                      200,
		"Sec-Fetch-Site: same-origin":        200,
		"Sec-Fetch-Site: none":               200,
		"Sec-Fetch-Site: cross-site":         403,
		"Sec-Fetch-Site: same-site":          403,
		"Origin: http://x":                   200,
		"Origin: http://evil.example.org":    403,
		"Origin: null":                       403,
		"Sec-Fetch-Site: \nOrigin: http://y": 403,
	} {
		for _, method := range []string{"POST", "DELETE"} {
			r := b.raw(t, method+" /api/queues/default HTTP/1.1\nHost: x\n"+auth+"\n"+headers+"\n\n")
			require.Equal(t, status, r.status, headers)
		}
	}
	require.Equal(t, http.StatusMethodNotAllowed, b.raw(t, "PUT / HTTP/1.1\nHost: x\n"+auth+"\n\n").status)
	require.Contains(t, b.log.String(), `msg="asynqmon changes something" requester=@admin:x method=DELETE`)

	large := strings.Repeat("x", 1<<20+1)
	r := b.raw(t, "POST / HTTP/1.1\nHost: x\nContent-Length: 1048577\n"+auth+"\n\n"+large)
	require.Equal(t, http.StatusTeapot, r.status)
}

func TestMonitorPathsThatAreTricks(t *testing.T) {
	t.Parallel()
	alone := setupMonitor(t, true)
	for _, path := range []string{
		"/..", "/../etc/passwd", "/a/../b", "/./a", "//", "//evil.example.org/", "/a//b", "/%2e%2e/a", "/a%2fb", "/a/..%2f..%2fb",
		"/a%5cb", `/\evil.example.org`, "/%2E", "/a/%2e%2e",
	} {
		r := alone.raw(t, "GET "+path+" HTTP/1.1\nHost: x\n"+bearer+"\n\n")
		require.Equal(t, http.StatusNotFound, r.status, path)
		require.Empty(t, r.header.Get("Location"))
		require.Equal(t, http.StatusUnauthorized, alone.raw(t, "GET "+path+" HTTP/1.1\nHost: x\n\n").status, path)
	}
	require.Equal(t, "GET /api/queues/a/tasks/b~1 ", alone.raw(t, "GET /api/queues/a/tasks/b%7E1 HTTP/1.1\nHost: x\n"+bearer+"\n\n").body)
	require.Equal(t, "GET /a/ ", alone.raw(t, "GET /a/ HTTP/1.1\nHost: x\n"+bearer+"\n\n").body)

	// Beside the API no way leads from the one to the other, and none past the door.
	beside := setup(t, httpapi.Options{Monitor: pages})
	for path, want := range map[string]int{
		"/asynqmon":                                 200,
		"/asynqmon/":                                200,
		"/asynqmon/api/queues":                      200,
		"/asynqmon/../_synapse/admin/v1/rooms":      404,
		"/asynqmon/%2e%2e/_synapse/admin/v1/rooms":  404,
		"/asynqmon%2f":                              404,
		"/asynqmon/..%2f..":                         404,
		"/asynqmonitor":                             404,
		"/Asynqmon":                                 404,
		"//asynqmon":                                404,
		"/./asynqmon":                               404,
		"/_synapse/../asynqmon":                     404,
		"/_synapse/admin/v1/rooms":                  200,
		"/_synapse/admin/v1/rooms/%2e%2e/asynqmon/": 404,
	} {
		require.Equal(t, want, beside.raw(t, "GET "+path+" HTTP/1.1\nHost: x\n"+bearer+"\n\n").status, path)
		without := beside.raw(t, "GET "+path+" HTTP/1.1\nHost: x\n\n")
		require.NotEqual(t, http.StatusOK, without.status, path)
		require.NotContains(t, without.body, "GET ")
	}
	require.Equal(t, http.StatusMethodNotAllowed, beside.raw(t, "POST /asynqmon/x HTTP/1.1\nHost: x\n"+bearer+"\n\n").status)
	require.Equal(t, http.StatusNotFound, setup(t, httpapi.Options{}).raw(t, "GET /asynqmon HTTP/1.1\nHost: x\n"+bearer+"\n\n").status)
}
