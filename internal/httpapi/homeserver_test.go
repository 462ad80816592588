package httpapi_test

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"lethe/internal/homeserver"
	"lethe/internal/httpapi"
)

// clientOf is a client of the homeserver that the handler is.
func clientOf(t *testing.T, handler http.HandlerFunc) *homeserver.Client {
	t.Helper()
	server := httptest.NewServer(handler)
	t.Cleanup(server.Close)
	return clientAt(t, server.URL)
}

func clientAt(t *testing.T, url string) *homeserver.Client {
	t.Helper()
	client, err := homeserver.New(url, homeserver.Options{MostWait: time.Second, Timeout: 10 * time.Second})
	require.NoError(t, err)
	t.Cleanup(client.Close)
	return client
}

// downAt is the URL of a homeserver that is down.
func downAt(t *testing.T) string {
	t.Helper()
	server := httptest.NewServer(nil)
	server.Close()
	return server.URL
}

func TestHomeserverAuth(t *testing.T) {
	t.Parallel()
	accounts := map[string]string{ // user by token and user_id
		"boss ": "@boss:x", "plain ": "@plain:x", "locked ": "@locked:x", "gone ": "@gone:x",
		"service ": "@service:x", "service @boss:x": "@boss:x",
	}
	admins := map[string]string{
		"@boss:x": `{}`, "@locked:x": `{"locked":true}`, "@gone:x": `{"deactivated":true}`,
	}
	b := setup(t, httpapi.Options{HomeserverAuth: true, Homeserver: clientOf(t, func(w http.ResponseWriter, r *http.Request) {
		token := strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")
		user, known := accounts[token+" "+r.URL.Query().Get("user_id")]
		admin, isAdmin := admins[strings.TrimPrefix(r.URL.Path, "/_synapse/admin/v2/users/")]
		switch {
		case token == "late":
			w.WriteHeader(401)
			_, _ = io.WriteString(w, `{"errcode":"M_UNKNOWN_TOKEN","error":"Access token has expired","soft_logout":true}`)
		case token == "guest":
			_, _ = io.WriteString(w, `{"user_id":"@guest:x","is_guest":true}`)
		case token == "ill":
			w.WriteHeader(500)
			_, _ = io.WriteString(w, `{"errcode":"M_UNKNOWN","error":"Internal server error"}`)
		case token == "odd":
			_, _ = io.WriteString(w, `<html>`)
		case !known:
			w.WriteHeader(401)
			_, _ = io.WriteString(w, `{"errcode":"M_UNKNOWN_TOKEN","error":"Invalid access token passed.","soft_logout":false}`)
		case strings.HasSuffix(r.URL.Path, "whoami"):
			_, _ = fmt.Fprintf(w, `{"user_id":%q}`, user)
		case isAdmin:
			_, _ = io.WriteString(w, admin)
		default:
			w.WriteHeader(403)
			_, _ = io.WriteString(w, `{"errcode":"M_FORBIDDEN","error":"You are not a server admin"}`)
		}
	})})
	const (
		welcome  = `{"errcode":"M_NOT_JSON","error":"Content not JSON."}`
		missing  = `{"errcode":"M_MISSING_TOKEN","error":"Missing access token"}`
		unknown  = `{"errcode":"M_UNKNOWN_TOKEN","error":"Invalid access token passed.","soft_logout":false}`
		expired  = `{"errcode":"M_UNKNOWN_TOKEN","error":"Access token has expired","soft_logout":true}`
		locked   = `{"errcode":"M_USER_LOCKED","error":"User account has been locked","soft_logout":true}`
		guest    = `{"errcode":"M_GUEST_ACCESS_FORBIDDEN","error":"Guest access not allowed"}`
		notAdmin = `{"errcode":"M_FORBIDDEN","error":"You are not a server admin"}`
		away     = `{"errcode":"M_UNKNOWN","error":"The homeserver cannot be asked about the access token"}`
	)
	for name, test := range map[string]struct {
		query, token string
		status       int
		body         string
	}{
		"admin":              {"", "boss", 400, welcome},
		"admin, in query":    {"?access_token=boss", "", 400, welcome},
		"no token":           {"", "", 401, missing},
		"in the database":    {"", admin, 401, unknown},
		"not UTF-8":          {"", "\xff", 401, unknown},
		"long":               {"", strings.Repeat("a", 50_000), 401, unknown},
		"no admin":           {"", "plain", 403, notAdmin},
		"guest":              {"", "guest", 403, guest},
		"locked":             {"", "locked", 401, locked},
		"deactivated":        {"", "gone", 401, unknown},
		"expired":            {"", "late", 401, expired},
		"service":            {"", "service", 403, notAdmin},
		"service as admin":   {"?user_id=%40boss%3Ax", "service", 400, welcome},
		"service as nobody":  {"?user_id=@nobody:x", "service", 401, unknown},
		"internal error":     {"", "ill", 502, away},
		"no Matrix whatever": {"", "odd", 502, away},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			request := "POST /_synapse/admin/v1/purge_history/!room:x" + test.query + " HTTP/1.1\nHost: x\n"
			if test.token != "" {
				request += "Authorization: Bearer " + test.token + "\n"
			}
			requireJSON(t, b.raw(t, request+"Content-Length: 1\n\n{"), test.status, test.body)
		})
	}

	t.Run("homeserver is down", func(t *testing.T) {
		t.Parallel()
		b := setup(t, httpapi.Options{HomeserverAuth: true, Homeserver: clientAt(t, downAt(t))})
		requireJSON(t, b.send(t, "POST", "/_synapse/admin/v1/purge_history/!room:x", "{"), 502, away)
		require.Contains(t, b.log.String(), "connection refused")
		require.NotContains(t, b.log.String(), "Bearer")
	})
}

// The requester of a job is who the homeserver says.
func TestHomeserverAuthNamesTheRequester(t *testing.T) {
	t.Parallel()
	b := setup(t, httpapi.Options{HomeserverAuth: true, Homeserver: clientOf(t, func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, `{"user_id":"@boss:x"}`)
	})})
	require.Equal(t, 200, b.send(t, "POST", "/_synapse/admin/v1/purge_history/!room:x/$one", "").status)
	require.Equal(t, "@boss:x", b.tasks.taken()[0].Requester)
}

// echo answers with what it got.
func echo(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	w.Header().Set("Access-Control-Allow-Origin", "https://one.example")
	w.Header().Set("Access-Control-Expose-Headers", "Server")
	w.Header().Set("Cache-Control", "public")
	w.Header().Set("Connection", "X-Hop")
	w.Header().Set("X-Hop", "1")
	w.Header().Set("X-Request-Id", "theirs")
	w.WriteHeader(http.StatusTeapot)
	_, _ = fmt.Fprintf(w, "%s %s\n%s\n%s", r.Method, r.RequestURI, strings.Join(r.Header.Values("Authorization"), ","), body)
}

func TestPassingOn(t *testing.T) {
	t.Parallel()
	b := setup(t, httpapi.Options{Homeserver: clientOf(t, echo)})
	for _, target := range []string{
		"GET /_matrix/client/versions",
		"GET /_synapse/admin/v2/users?limit=1&from=a%2Fb&a;b&%zz&c=\xff",
		"GET /_matrix/x?",
		"GET /_matrix/client/v3/directory/room/%23a%2fb%2F%25:x",
		"GET /_synapse/admin/v1/rooms/!a%2Fb<\xc3\xbc>\"|:x/x",
		"GET /_synapse/admin/v1/rooms/%21a%2f%C3%BC%7e~:x//",
		"GET /_matrix//x",
		"GET /_matrix/...",
		"POST /_matrix/media/v3/upload",
		"BREW /_matrix/client/versions",
		"PATCH /_synapse/admin/v1/server_version", // a path of ours, but not so
		"DELETE /_synapse/admin/v1/purge_history/!r/$e",
		"GET /_synapse/admin/v1/server%5Fversion",
		"PUT /_synapse/admin/v1/rooms/!r:x/block", // it has caches
		"DELETE /_synapse/admin/v1/rooms/!r:x/forward_extremities",
	} {
		t.Run(target, func(t *testing.T) {
			t.Parallel()
			r := b.raw(t, target+" HTTP/1.1\nHost: x\nAuthorization: Bearer any\nContent-Length: 5\n\nbody\n")
			require.Equal(t, http.StatusTeapot, r.status, r.body)
			require.Equal(t, target+"\nBearer any\nbody\n", r.body)
			require.Equal(t, []string{"https://one.example"}, r.header.Values("Access-Control-Allow-Origin"))
			require.Empty(t, r.header.Values("Access-Control-Allow-Methods"), "it said what it allows")
			require.Equal(t, []string{"public"}, r.header.Values("Cache-Control"))
			require.Empty(t, r.header.Values("X-Hop"))
			require.NotContains(t, r.header.Values("X-Request-Id"), "theirs")
			require.Len(t, r.header.Values("X-Request-Id"), 1)
		})
	}
	t.Run("absolute", func(t *testing.T) {
		t.Parallel()
		r := b.raw(t, "GET http://elsewhere.example/_matrix/%2f HTTP/1.1\nHost: x\n\n")
		require.Equal(t, "GET /_matrix/%2f\n\n", r.body)
	})
	for _, target := range []string{
		"GET /", "GET /_matrix", "GET /_matrixx/", "GET /x/_matrix/", "GET //_matrix/x", "GET /_synapse/client/x", "GET /_synapse/admin",
		"GET /%5Fmatrix/x", "GET /_matrix/../x", "GET /_matrix/x/%2E%2e/%2E./x", "GET /_synapse/admin/./x", "GET /_matrix/x/..",
		"GET /_matrix/..%2fx", "GET /_matrix/x%2f..%2F..%2fx", "GET /_matrix/x%2F%2e%2E", "GET /_matrix/%5cx", "GET /_matrix/..%5Cx",
		"GET /_matrix/..;/x", "GET /_matrix/..;a=b/x", "GET /_matrix/.;/x", "GET /_matrix/%2e%2e%3b/x", "GET /_matrix/%252e%252e/x",
		"GET /_matrix/..%252fx", "GET /_matrix/%25252525252561",
	} {
		t.Run(target, func(t *testing.T) {
			t.Parallel()
			requireJSON(t, b.raw(t, target+" HTTP/1.1\nHost: x\n\n"), 404, unrecognized)
		})
	}
}

func TestPassingOnIsCounted(t *testing.T) {
	t.Parallel()
	b := setup(t, httpapi.Options{Homeserver: clientOf(t, echo)})
	b.send(t, "GET", "/_matrix/hidden?access_token=hidden", "")
	require.Equal(t, observed{"passed on", "GET", 418}, <-b.observed)
	require.NotContains(t, b.log.String(), "hidden")

	// What is ours is not passed on, and neither is the question what is allowed.
	requireJSON(t, b.send(t, "GET", scheduledTasks, ""), 200, `{"scheduled_tasks":[]}`)
	require.Equal(t, scheduledTasks, (<-b.observed).route)
	require.Equal(t, 418, b.send(t, "GET", "/_synapse/admin/v1/server_version", "").status)
	require.Equal(t, "passed on", (<-b.observed).route)
	require.Equal(t, 204, b.send(t, "OPTIONS", "/_matrix/x", "").status)
}

func TestPassingOnHeaders(t *testing.T) {
	t.Parallel()
	homeserver := clientOf(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Link", "</x>")
		w.WriteHeader(http.StatusEarlyHints)
		w.Header().Set("Content-Type", "text/plain")
		_ = r.Header.Write(w)
	})
	proxies := []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("10.0.0.0/8")}
	b := setup(t, httpapi.Options{Homeserver: homeserver, TrustedProxies: proxies})
	r := b.raw(t, "GET /_matrix/x HTTP/1.1\nHost: x\nX-Forwarded-For: 192.0.2.9, 192.0.2.1, 10.1.2.3\nX-Forwarded-Proto: https\nX-Forwarded-Host: m.example\n"+
		"X-Forwarded-Port: 443\nX-Real-Ip: 10.1.2.3\nConnection: close, X-Secret\nX-Secret: 1\nKeep-Alive: timeout=5\n"+
		"Proxy-Connection: close\nProxy-Authorization: x\nTE: trailers\nCookie: a=b\n\n")
	require.Equal(t, 200, r.status)
	for _, want := range []string{
		"X-Forwarded-For: 192.0.2.1", "X-Forwarded-Proto: https", "X-Forwarded-Host: m.example", "Cookie: a=b",
	} {
		require.Contains(t, r.body, want+"\r\n")
	}
	for _, not := range []string{"X-Secret", "Keep-Alive", "Proxy-Connection", "Proxy-Authorization", "Accept-Encoding", "User-Agent", "X-Forwarded-Port", "X-Real-Ip"} {
		require.NotContains(t, r.body, not)
	}
	// It said nothing of who may read it.
	require.Equal(t, "*", r.header.Get("Access-Control-Allow-Origin"))
	require.Contains(t, r.header.Get("Access-Control-Allow-Methods"), "DELETE")
	require.NotEmpty(t, r.header.Get("X-Request-Id"))
}

// TestClientsCannotChooseTheirAddress: the homeserver is told where a request came from, and
// nothing that a client says of it.
func TestClientsCannotChooseTheirAddress(t *testing.T) {
	t.Parallel()
	homeserver := clientOf(t, func(w http.ResponseWriter, r *http.Request) { _ = r.Header.Write(w) })
	const lies = "X-Forwarded-For: 192.0.2.9\nx-forwarded-proto: https\nX-Forwarded-Host: evil.example\nX-Forwarded-Port: 1\nX-Forwarded: for=192.0.2.9\n" +
		"Forwarded: for=192.0.2.9;host=evil.example\nX-Real-IP: 192.0.2.9\nX-Original-Forwarded-For: 192.0.2.9\nConnection: close, X-Forwarded-For\n"
	for name, proxies := range map[string][]netip.Prefix{"no proxy": nil, "another proxy": {netip.MustParsePrefix("10.0.0.0/8")}} {
		b := setup(t, httpapi.Options{Homeserver: homeserver, TrustedProxies: proxies})
		r := b.raw(t, "GET /_matrix/x HTTP/1.1\nHost: m.example\n"+lies+"\n")
		require.Equal(t, 200, r.status)
		require.NotContains(t, r.body, "192.0.2.9", name)
		require.NotContains(t, r.body, "evil.example", name)
		require.NotContains(t, r.body, "https", name)
		require.NotContains(t, r.body, "X-Forwarded-Port", name)
		require.Contains(t, r.body, "X-Forwarded-For: 127.0.0.1\r\n", name)
		require.Contains(t, r.body, "X-Forwarded-Host: m.example\r\n", name)
		require.Contains(t, r.body, "X-Forwarded-Proto: http\r\n", name)
	}
}

// Neither the request's nor the answer's body is waited for as a whole, and our
// own time limit does not end them.
func TestPassingOnStreams(t *testing.T) {
	t.Parallel()
	const limit = 300 * time.Millisecond
	b := setup(t, httpapi.Options{Timeout: limit, Homeserver: clientOf(t, func(w http.ResponseWriter, r *http.Request) {
		connection := http.NewResponseController(w)
		_ = connection.EnableFullDuplex()
		_, _ = io.WriteString(w, "begun\n")
		_ = connection.Flush()
		_, _ = io.Copy(w, r.Body)
	})})
	conn := b.requireDial(t)
	_, err := io.WriteString(conn, "POST /_matrix/x HTTP/1.1\r\nHost: x\r\nContent-Length: 6\r\n\r\n")
	require.NoError(t, err)
	response, err := http.ReadResponse(bufio.NewReader(conn), nil)
	require.NoError(t, err)
	body := bufio.NewReader(response.Body)
	line, err := body.ReadString('\n')
	require.NoError(t, err)
	require.Equal(t, "begun\n", line)
	<-time.After(3 * limit) // which is ours, and not kept here
	_, err = io.WriteString(conn, "ended\n")
	require.NoError(t, err)
	rest, err := io.ReadAll(body)
	require.NoError(t, err)
	require.Equal(t, "ended\n", string(rest))
	require.NoError(t, response.Body.Close())
}

// A connection survives a request whose body the homeserver does not read.
func TestPassingOnLeavesABodyUnread(t *testing.T) {
	t.Parallel()
	down := clientAt(t, downAt(t))
	early := clientOf(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusForbidden) })
	for status, client := range map[int]*homeserver.Client{http.StatusBadGateway: down, http.StatusForbidden: early} {
		b := setup(t, httpapi.Options{Homeserver: client})
		conn := b.requireDial(t)
		answers := bufio.NewReader(conn)
		for range 3 {
			_, err := io.WriteString(conn, "POST /_matrix/x HTTP/1.1\r\nHost: x\r\nContent-Length: 6\r\n\r\nunread")
			require.NoError(t, err)
			response, err := http.ReadResponse(answers, nil)
			require.NoError(t, err, status)
			_, err = io.Copy(io.Discard, response.Body)
			require.NoError(t, err)
			require.Equal(t, status, response.StatusCode)
			require.NoError(t, response.Body.Close())
		}
	}
}

func TestPassingOnEnds(t *testing.T) {
	t.Parallel()
	client := clientOf(t, func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	b := setup(t, httpapi.Options{PassTimeout: 300 * time.Millisecond, Homeserver: client})
	requireJSON(t, b.send(t, "GET", "/_matrix/x", ""), 504, refusal("M_UNKNOWN", "The request took too long"))
}

func TestPassingOnToNobody(t *testing.T) {
	t.Parallel()
	b := setup(t, httpapi.Options{Homeserver: clientAt(t, downAt(t))})
	r := b.send(t, "GET", "/_matrix/x", "")
	requireJSON(t, r, 502, refusal("M_UNKNOWN", "The homeserver cannot be reached"))
	require.Len(t, r.header.Values("Access-Control-Allow-Origin"), 1)
	require.Contains(t, b.log.String(), "level=ERROR")
	require.Contains(t, b.log.String(), "connection refused")
}

// An upgrade has no bounds that we could keep, whichever side wants it.
func TestPassingOnUpgradesNothing(t *testing.T) {
	t.Parallel()
	b := setup(t, httpapi.Options{Homeserver: clientOf(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Connection", "Upgrade")
		w.Header().Set("Upgrade", "x")
		w.WriteHeader(http.StatusSwitchingProtocols)
	})})
	requireJSON(t, b.raw(t, "GET /_matrix/x HTTP/1.1\nHost: x\nConnection: Upgrade\nUpgrade: x\n\n"), 400,
		refusal("M_UNKNOWN", "The connection cannot be upgraded here"))
	requireJSON(t, b.send(t, "GET", "/_matrix/x", ""), 502, refusal("M_UNKNOWN", "The homeserver cannot be reached"))
}

// An answer that breaks off must not look like a whole one.
func TestPassingOnAnAnswerThatBreaksOff(t *testing.T) {
	t.Parallel()
	b := setup(t, httpapi.Options{Homeserver: clientOf(t, func(w http.ResponseWriter, _ *http.Request) {
		_, _ = w.Write(bytes.Repeat([]byte("a"), 1<<20))
		panic(http.ErrAbortHandler)
	})})
	conn := b.requireDial(t)
	_, err := io.WriteString(conn, "GET /_matrix/x HTTP/1.1\r\nHost: x\r\n\r\n")
	require.NoError(t, err)
	response, err := http.ReadResponse(bufio.NewReader(conn), nil)
	require.NoError(t, err)
	_, err = io.ReadAll(response.Body)
	require.ErrorIs(t, err, io.ErrUnexpectedEOF)
	_ = response.Body.Close() // says so again
	require.Equal(t, observed{"passed on", "GET", 200}, <-b.observed)
	require.Contains(t, b.log.String(), "level=ERROR")
}

func TestPassingOnForSomebodyGone(t *testing.T) {
	t.Parallel()
	called := make(chan struct{})
	b := setup(t, httpapi.Options{Homeserver: clientOf(t, func(_ http.ResponseWriter, r *http.Request) {
		close(called)
		<-r.Context().Done() // as the caller goes, so does the request
	})})
	conn := b.requireDial(t)
	_, err := io.WriteString(conn, "GET /_matrix/x HTTP/1.1\r\nHost: x\r\n\r\n")
	require.NoError(t, err)
	<-called
	require.NoError(t, conn.Close())
	require.Equal(t, observed{"passed on", "GET", 499}, <-b.observed)
	require.NotContains(t, b.log.String(), "level=ERROR")
}

// Lethe knows whose the tokens in the database are, also while the homeserver is
// away; about all others the homeserver is asked, with what it needs.
func TestWhoamiAsksTheHomeserverAboutOthers(t *testing.T) {
	t.Parallel()
	b := setup(t, httpapi.Options{Homeserver: clientOf(t, func(w http.ResponseWriter, r *http.Request) {
		_, _ = fmt.Fprintf(w, `{"token": %q, "query": %q}`, r.Header.Get("Authorization"), r.URL.RawQuery)
	})})
	require.JSONEq(t, `{"token": "Bearer service", "query": "user_id=@a:x"}`, b.get(t, whoami+"?user_id=@a:x", "service").body)

	away := setup(t, httpapi.Options{Homeserver: clientAt(t, downAt(t))})
	require.Equal(t, 200, away.get(t, whoami, admin).status)
	require.Equal(t, 502, away.get(t, whoami, "service").status)
}

// What both can answer, a homeserver answers while it can be reached.
func TestTheHomeserverAnswersFirst(t *testing.T) {
	t.Parallel()
	own := map[string]string{
		"/_synapse/admin/v1/server_version":   `{"server_version":"1.160.0"}`,
		"/_synapse/admin/v2/users/@nobody:x":  refusal("M_NOT_FOUND", "User not found"),
		"/_synapse/admin/v3/users?name=zzz":   `{"users":[],"total":0}`,
		"/_matrix/client/r0/login":            `{"flows":[{"type":"m.login.application_service"}]}`,
		"/_matrix/client/versions?a=%2F&b=c+": "",
	}
	up := setup(t, httpapi.Options{ServerName: "x", Homeserver: clientOf(t, func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(http.StatusTeapot)
		_, _ = fmt.Fprintf(w, "%s %s", r.Header.Get("Authorization"), r.RequestURI)
	})})
	gone := make(chan struct{})
	slow := setup(t, httpapi.Options{ServerName: "x", PassTimeout: 20 * time.Millisecond, Homeserver: clientOf(t, func(_ http.ResponseWriter, r *http.Request) {
		select {
		case <-r.Context().Done():
		case <-gone:
		}
	})})
	t.Cleanup(func() { close(gone) })
	down := setup(t, httpapi.Options{ServerName: "x", Homeserver: clientAt(t, downAt(t))})
	requireJSON(t, down.send(t, "GET", "/_synapse/admin/v1/server_version", ""), 200, own["/_synapse/admin/v1/server_version"])
	require.Equal(t, observed{"/_synapse/admin/v1/server_version", "GET", 200}, <-down.observed)
	for path, body := range own {
		r := up.send(t, "GET", path, "")
		require.Equal(t, http.StatusTeapot, r.status)
		require.Equal(t, "Bearer admin "+path, r.body)
		require.NotEmpty(t, r.header.Get("X-Request-Id"))
		for _, b := range []*bundle{slow, down} {
			r := b.send(t, "GET", path, "")
			requireHeaders(t, r.header)
			if body != "" {
				require.JSONEq(t, body, r.body, path)
			}
			require.Equal(t, strings.Contains(body, "errcode"), r.status == 404, path)
		}
	}
	require.Equal(t, http.StatusTeapot, up.send(t, "POST", "/_matrix/client/v3/login", "{}").status)
	r := down.raw(t, "GET /_synapse/admin/v3/users HTTP/1.1\nHost: x\nAuthorization: Bearer user\n\n")
	require.Equal(t, 403, r.status, r.body)
	r = down.raw(t, "GET /_matrix/client/versions HTTP/1.1\nHost: x\nAuthorization: Bearer wrong\n\n")
	require.Equal(t, 401, r.status, r.body)
}

// A locked user and an expired account may ask for the versions. A token that is sent
// wrongly is refused.
func TestVersionsWithoutAHomeserver(t *testing.T) {
	t.Parallel()
	b := setup(t, httpapi.Options{AccountValidity: true})
	for header, status := range map[string]int{
		"Authorization: Bearer locked": 200, "Authorization: Bearer old": 200, "Authorization: Bearer guest": 200, "X: y": 200,
		"Authorization: Bearer expired": 401, "Authorization: Basic x": 401, "Authorization: Bearer gone": 401,
	} {
		require.Equal(t, status, b.raw(t, "GET /_matrix/client/versions HTTP/1.1\nHost: x\n"+header+"\n\n").status, header)
	}
}
