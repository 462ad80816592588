package httpapi_test

import (
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"lethe/internal/devstack/devstacktest"
	"lethe/internal/httpapi"
	"lethe/internal/mas"
	"lethe/internal/mas/mastest"
)

// masAt is a client of the Matrix Authentication Service at the URL.
func masAt(t *testing.T, url, secret string) *mas.Client {
	t.Helper()
	client, err := mas.New(url, secret, mas.Options{})
	require.NoError(t, err)
	t.Cleanup(client.Close)
	return client
}

// setupMAS serves the API to the users of a Matrix Authentication Service.
func setupMAS(t *testing.T, options httpapi.Options) (*bundle, *mastest.Service) {
	t.Helper()
	service := mastest.New()
	options.MAS, options.ServerName = masAt(t, service.Start(t), mastest.Secret), "x"
	return setup(t, options), service
}

const (
	adminScope = mastest.API + " " + mastest.Admin
	unknown    = `{"errcode":"M_UNKNOWN_TOKEN","error":"Invalid access token passed.","soft_logout":false}`
	noAdmin    = `{"errcode":"M_FORBIDDEN","error":"You are not a server admin"}`
)

func TestMAS(t *testing.T) {
	t.Parallel()
	b, service := setupMAS(t, httpapi.Options{AccountValidity: true})
	b.requireExec(t, `INSERT INTO devices (user_id, device_id, hidden) VALUES ('@user:x', 'PHONE', false), ('@gone:x', 'PHONE', false)`)
	service.Issue("m-admin", "user", adminScope+" "+mastest.Device+"PHONE") // who is no admin in the database
	service.Issue("m-flag", "admin", mastest.API)                           // who is
	service.Issue("m-like", "admin", mastest.API+" "+mastest.Admin+"x")
	service.Issue("m-no-api", "admin", mastest.Admin)
	service.Issue("m-client", "", adminScope)
	service.Issue("m-other-device", "user", adminScope+" "+mastest.Device+"GONE")
	service.Issue("m-unknown", "stranger", adminScope)
	service.Issue("m-gone", "gone", adminScope)
	service.Issue("m-guest", "guest", adminScope)
	service.Issue("m-old", "old", adminScope)
	service.Put("m-revoked", map[string]any{"active": false, "username": "admin", "scope": adminScope})
	service.Put("m-over", map[string]any{"active": true, "username": "admin", "scope": adminScope, "expires_in": -1})
	service.Put("m-odd", map[string]any{"active": true, "username": []string{"hunter2"}, "scope": adminScope})
	service.IssueLegacy("m-legacy", "user", "PHONE")
	for name, test := range map[string]struct {
		token  string
		status int
		body   string
	}{
		"admin scope":           {"m-admin", 400, `{"errcode":"M_NOT_JSON","error":"Content not JSON."}`},
		"admin in the database": {"m-flag", 403, noAdmin},
		"like the admin scope":  {"m-like", 403, noAdmin},
		"legacy login":          {"m-legacy", 403, noAdmin},
		"no API scope":          {"m-no-api", 401, `{"errcode":"M_UNKNOWN_TOKEN","error":"The access token does not grant access to the client API","soft_logout":false}`},
		"no user":               {"m-client", 401, `{"errcode":"M_UNKNOWN_TOKEN","error":"The access token has no user","soft_logout":false}`},
		"logged out device":     {"m-other-device", 401, unknown},
		"unknown user":          {"m-unknown", 401, unknown},
		"deactivated user":      {"m-gone", 401, unknown},
		"guest":                 {"m-guest", 403, `{"errcode":"M_GUEST_ACCESS_FORBIDDEN","error":"Guest access not allowed"}`},
		"expired account":       {"m-old", 403, `{"errcode":"ORG_MATRIX_EXPIRED_ACCOUNT","error":"User account has expired"}`},
		"revoked":               {"m-revoked", 401, unknown},
		"over":                  {"m-over", 401, unknown},
		"in the database":       {admin, 401, unknown}, // a row from before the accounts were delegated
		"unknown":               {"m-none", 401, unknown},
		"not UTF-8":             {"\xff", 401, unknown},
		"no token":              {"", 401, `{"errcode":"M_MISSING_TOKEN","error":"Missing access token"}`},
		"odd answer":            {"m-odd", 503, `{"errcode":"M_UNKNOWN","error":"Matrix Authentication Service cannot be asked about the access token"}`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			request := "POST /_synapse/admin/v1/purge_history/!room:x HTTP/1.1\nHost: x\n"
			if test.token != "" {
				request += "Authorization: Bearer " + test.token + "\n"
			}
			requireJSON(t, b.raw(t, request+"Content-Length: 1\n\n{"), test.status, test.body)
		})
	}
	t.Cleanup(func() {
		require.NotContains(t, b.log.String(), "hunter2")
		require.NotContains(t, b.log.String(), "m-odd")
		require.NotContains(t, b.log.String(), mastest.Secret)
	})
}

// What the database says counts at once, although the service's answer is remembered.
func TestMASLogout(t *testing.T) {
	t.Parallel()
	b, service := setupMAS(t, httpapi.Options{})
	b.requireExec(t, `INSERT INTO devices (user_id, device_id, hidden) VALUES ('@user:x', 'PHONE', false)`)
	service.Issue("token", "user", adminScope+" "+mastest.Device+"PHONE")
	service.Issue("without-device", "user", adminScope)
	const rooms = "/_synapse/admin/v1/rooms"
	for range 3 {
		require.Equal(t, 200, b.get(t, rooms, "token").status)
	}
	require.Equal(t, 1, service.Asked())
	b.requireExec(t, `DELETE FROM devices`)
	requireJSON(t, b.get(t, rooms, "token"), 401, unknown)
	require.Equal(t, 200, b.get(t, rooms, "without-device").status)
	b.requireExec(t, `UPDATE users SET deactivated = 1`)
	requireJSON(t, b.get(t, rooms, "without-device"), 401, unknown)
	require.Equal(t, 2, service.Asked())
}

func TestMASNamesTheRequester(t *testing.T) {
	t.Parallel()
	b, service := setupMAS(t, httpapi.Options{})
	service.Issue("token", "user", adminScope)
	require.Equal(t, 200, b.get(t, "/_synapse/admin/v1/rooms", "token").status)
	r := b.raw(t, "POST /_synapse/admin/v1/purge_history/!room:x/$one HTTP/1.1\nHost: x\nAuthorization: Bearer token\n\n")
	require.Equal(t, 200, r.status)
	require.Equal(t, "@user:x", b.tasks.taken()[0].Requester)
}

func TestMASOfUsers(t *testing.T) {
	t.Parallel()
	service := mastest.New()
	service.Issue("reader", "alice", mastest.API+" "+mastest.Device+"PHONE")
	service.Issue("m-admin", "alice", adminScope)
	b := setupChat(t, httpapi.Options{MAS: masAt(t, service.Start(t), mastest.Secret), ServerName: "x"}, nil)
	b.requireExec(t, `INSERT INTO devices (user_id, device_id, hidden) VALUES ('@alice:x', 'PHONE', false) ON CONFLICT DO NOTHING`)
	requirePage(t, b.get(t, chatV3, "reader"))
	requireJSON(t, b.get(t, chatAdmin, "reader"), 403, noAdmin)
	requirePage(t, b.get(t, chatAdmin, "m-admin"))
	require.JSONEq(t, `{"user_id":"@alice:x","device_id":"PHONE","is_guest":false}`, b.get(t, whoami, "reader").body)
	require.JSONEq(t, `{"user_id":"@alice:x","is_guest":false}`, b.get(t, whoami, "m-admin").body)
	requireJSON(t, b.get(t, chatV3, "alice"), 401, unknown)
}

// The homeserver answers users whose token the service does not know, such as those of
// application services, but no admins.
func TestMASBesideAHomeserver(t *testing.T) {
	t.Parallel()
	b, service := setupMAS(t, httpapi.Options{Homeserver: clientOf(t, func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, `{"passed":"`+r.Header.Get("Authorization")+`"}`)
	})})
	service.Issue("token", "user", mastest.API)
	require.JSONEq(t, `{"user_id":"@user:x","is_guest":false}`, b.get(t, whoami, "token").body)
	require.JSONEq(t, `{"passed":"Bearer as_token"}`, b.get(t, whoami, "as_token").body)
	requireJSON(t, b.get(t, "/_synapse/admin/v1/rooms", "as_token"), 401, unknown)
}

func TestMASThatCannotAnswer(t *testing.T) {
	t.Parallel()
	const away = `{"errcode":"M_UNKNOWN","error":"Matrix Authentication Service cannot be asked about the access token"}`
	passed := clientOf(t, func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, `{}`) })
	for name, test := range map[string]struct{ url, secret, log string }{
		"down":         {downAt(t), mastest.Secret, "connection refused"},
		"wrong secret": {mastest.New().Start(t), "another-secret", "refuses the secret"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := setup(t, httpapi.Options{MAS: masAt(t, test.url, test.secret), ServerName: "x", Homeserver: passed})
			requireJSON(t, b.get(t, "/_synapse/admin/v1/rooms", admin), 503, away)
			requireJSON(t, b.get(t, whoami, admin), 503, away)
			require.Contains(t, b.log.String(), test.log)
			require.NotContains(t, b.log.String(), test.secret)
			require.NotContains(t, b.log.String(), "Bearer")
		})
	}
}

// A token that has ended is no guess.
func TestMASTokensEndWithoutALimit(t *testing.T) {
	t.Parallel()
	b, service := setupMAS(t, httpapi.Options{})
	for i := range 150 {
		token := strings.Repeat("t", i+1)
		service.Put(token, map[string]any{"active": true, "username": "user", "scope": mastest.API})
		require.Equal(t, 200, b.get(t, whoami, token).status)
	}
	b.requireExec(t, `UPDATE users SET deactivated = 1`)
	for i := range 150 {
		require.Equal(t, 401, b.get(t, whoami, strings.Repeat("t", i+1)).status, i)
	}
	require.Equal(t, 401, b.get(t, whoami, "new").status)
}

func TestMASForBrowsers(t *testing.T) {
	t.Parallel()
	service := mastest.New()
	service.Issue("m-admin", "user", adminScope)
	service.Issue("m-user", "user", mastest.API)
	b := &bundle{log: &log{}, observed: make(chan observed, 100)}
	b.server = httptest.NewUnstartedServer(nil)
	b.server.Config = serverOf(httpapi.NewMonitor(openStore(t, devstacktest.Database(t, "httpapi", prepare)), pages, true, httpapi.Options{
		Log: slog.New(slog.NewTextHandler(b.log, nil)), MAS: masAt(t, service.Start(t), mastest.Secret), ServerName: "x",
	}))
	b.server.Start()
	t.Cleanup(b.server.Close)
	get := func(header string) reply { return b.raw(t, "GET / HTTP/1.1\nHost: x\n"+header+"\n\n") }
	require.Equal(t, 200, get(basic("any", "m-admin")).status)
	require.Equal(t, 200, get(basic("@user:x", "m-admin")).status)
	require.Equal(t, 403, get(basic("any", "m-user")).status)
	refused := get(basic("any", admin))
	require.Equal(t, 401, refused.status)
	require.NotEmpty(t, refused.header.Get("WWW-Authenticate"))
}

// While the homeserver delegates its accounts, it is asked, and not the database.
func TestDelegated(t *testing.T) {
	t.Parallel()
	var delegated atomic.Bool
	b := setup(t, httpapi.Options{Delegated: delegated.Load, Homeserver: clientOf(t, func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.Header.Get("Authorization") != "Bearer m-admin":
			w.WriteHeader(401)
			_, _ = io.WriteString(w, unknown)
		case strings.HasSuffix(r.URL.Path, "whoami"):
			_, _ = io.WriteString(w, `{"user_id":"@boss:x"}`)
		default:
			_, _ = io.WriteString(w, `{}`)
		}
	})})
	const rooms = "/_synapse/admin/v1/rooms"
	require.Equal(t, 200, b.get(t, rooms, admin).status)
	requireJSON(t, b.get(t, rooms, "m-admin"), 401, unknown)
	delegated.Store(true)
	requireJSON(t, b.get(t, rooms, admin), 401, unknown)
	require.Equal(t, 200, b.get(t, rooms, "m-admin").status)
	requireJSON(t, b.get(t, whoami, admin), 401, unknown)
}
