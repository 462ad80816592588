package mas

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"lethe/internal/mas/mastest"
)

// directly answers requests without a network, so that the clock of a synctest
// bubble goes on.
type directly struct{ http.Handler }

func (d directly) RoundTrip(r *http.Request) (*http.Response, error) {
	if err := r.Context().Err(); err != nil {
		return nil, err
	}
	recorder := httptest.NewRecorder()
	d.ServeHTTP(recorder, r)
	return recorder.Result(), nil
}

func clientOf(t *testing.T, options Options, handler http.Handler) *Client {
	t.Helper()
	client, err := New("http://mas", mastest.Secret, options)
	require.NoError(t, err)
	client.transport = directly{handler}
	return client
}

func startedClient(t *testing.T, url, secret string) *Client {
	t.Helper()
	client, err := New(url, secret, Options{})
	require.NoError(t, err)
	t.Cleanup(client.Close)
	return client
}

func TestToken(t *testing.T) {
	t.Parallel()
	service := mastest.New()
	service.Issue("user", "alice", mastest.API+" "+mastest.Device+"ABCDEFGHIJ")
	service.Issue("admin", "alice", mastest.Admin+" "+mastest.API)
	service.Issue("unstable", "alice", "urn:matrix:org.matrix.msc2967.client:api:* urn:matrix:org.matrix.msc2967.client:device:D")
	// The service sends both forms of a scope.
	service.Issue("both", "alice", "openid "+mastest.API+" urn:matrix:org.matrix.msc2967.client:api:* urn:matrix:client:device:D urn:matrix:org.matrix.msc2967.client:device:D")
	service.Issue("spaces", "alice", "  "+mastest.API+"  "+mastest.Admin+" ")
	service.IssueLegacy("legacy", "alice", "an old/device")
	service.Issue("client", "", mastest.API+" "+mastest.Admin)
	service.Issue("no-scope", "alice", "")
	service.Issue("admin-alone", "alice", mastest.Admin)
	service.Issue("other", "alice", "openid urn:mas:admin urn:mas:graphql:*")
	for i, scope := range []string{
		"urn:synapse:admin", "urn:synapse:admin:", "urn:synapse:admin:x", "urn:synapse:admin:*x", "urn:synapse:admin:**",
		"xurn:synapse:admin:*", "URN:SYNAPSE:ADMIN:*", "urn:synapse:*", "urn:mas:admin", "urn:synapse:admin:*\t", "urn:synapse:admin:*," + mastest.Admin,
	} {
		service.Issue(fmt.Sprint("like-admin-", i), "alice", mastest.API+" "+scope)
	}
	for i, scope := range []string{
		"urn:matrix:client:api", "urn:matrix:client:api:x", "urn:matrix:client:api:*x", "urn:matrix:client:*", "xurn:matrix:client:api:*",
		"urn:matrix:org.matrix.msc2967.client:api:x", "*",
	} {
		service.Issue(fmt.Sprint("like-api-", i), "alice", mastest.Admin+" "+scope)
	}
	service.Put("revoked", map[string]any{"active": false, "username": "alice", "scope": mastest.API})
	client := startedClient(t, service.Start(t), mastest.Secret)

	for token, want := range map[string]Token{
		"user":     {Username: "alice", DeviceID: "ABCDEFGHIJ"},
		"admin":    {Username: "alice", Admin: true},
		"unstable": {Username: "alice", DeviceID: "D"},
		"both":     {Username: "alice", DeviceID: "D"},
		"spaces":   {Username: "alice", Admin: true},
		"legacy":   {Username: "alice", DeviceID: "an old/device"},
	} {
		got, err := client.Token(t.Context(), token)
		require.NoError(t, err, token)
		require.Equal(t, want, got, token)
	}
	for i := range 11 {
		got, err := client.Token(t.Context(), fmt.Sprint("like-admin-", i))
		require.NoError(t, err, i)
		require.Equal(t, Token{Username: "alice"}, got, i)
	}
	refusals := map[string]error{
		"client": ErrNoUser, "no-scope": ErrScope, "admin-alone": ErrScope, "other": ErrScope,
		"revoked": ErrInactive, "unknown": ErrInactive, "User": ErrInactive,
	}
	for i := range 7 {
		refusals[fmt.Sprint("like-api-", i)] = ErrScope
	}
	for token, want := range refusals {
		got, err := client.Token(t.Context(), token)
		require.ErrorIs(t, err, want, token)
		require.NotErrorIs(t, err, ErrUnavailable, token)
		require.Zero(t, got, token)
	}
	// What cannot be a token is not sent.
	before := service.Asked()
	for _, token := range []string{"", "a b", "\xff", "x\r\ny", strings.Repeat("a", 9000)} {
		_, err := client.Token(t.Context(), token)
		require.ErrorIs(t, err, ErrInactive)
	}
	require.Equal(t, before, service.Asked())
}

// A request says nothing that the service does not need, and has the token only in its
// body.
func TestRequest(t *testing.T) {
	t.Parallel()
	var got *http.Request
	var body []byte
	client := clientOf(t, Options{}, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		got = r
		body, _ = io.ReadAll(r.Body)
		_, _ = io.WriteString(w, `{"active":true,"scope":"urn:matrix:client:api:*","username":"a"}`)
	}))
	_, err := client.Token(t.Context(), "a+b&c=%")
	require.NoError(t, err)
	require.Equal(t, "POST http://mas/oauth2/introspect", got.Method+" "+got.URL.String())
	require.Equal(t, "token=a%2Bb%26c%3D%25&token_type_hint=access_token", string(body))
	require.Equal(t, http.Header{
		"Accept": {"application/json"}, "Authorization": {"Bearer " + mastest.Secret},
		"Content-Type": {"application/x-www-form-urlencoded"}, "X-Mas-Supports-Device-Id": {"1"},
	}, got.Header)
	require.NotContains(t, fmt.Sprintf("%+v %#v", client, client), mastest.Secret)
}

func TestServiceBelowAPath(t *testing.T) {
	t.Parallel()
	service := mastest.New()
	service.Issue("user", "alice", mastest.API)
	server := httptest.NewServer(http.StripPrefix("/auth", service))
	defer server.Close()
	for _, path := range []string{"/auth", "/auth/"} {
		_, err := startedClient(t, server.URL+path, mastest.Secret).Token(t.Context(), "user")
		require.NoError(t, err)
	}
	_, err := startedClient(t, server.URL, mastest.Secret).Token(t.Context(), "user")
	require.ErrorIs(t, err, ErrUnavailable)
	require.ErrorContains(t, err, "status 404")
}

func TestAnswersThatCannotBeUsed(t *testing.T) {
	t.Parallel()
	const api = `"scope":"urn:matrix:client:api:*"`
	for name, test := range map[string]struct {
		status int
		body   string
		want   string // a piece of the error
		asked  int    // defaults to 1
	}{
		"no JSON":           {200, `<html>hunter2`, "it is not what was asked for", 0},
		"nothing":           {200, ``, "it is not what was asked for", 0},
		"list":              {200, `[]`, "it is not what was asked for", 0},
		"null":              {200, `null`, "it is not what was asked for", 0},
		"empty":             {200, `{}`, "it is not what was asked for", 0},
		"active null":       {200, `{"active":null,"username":"a",` + api + `}`, "it is not what was asked for", 0},
		"active text":       {200, `{"active":"true","username":"a",` + api + `}`, "it is not what was asked for", 0},
		"active number":     {200, `{"active":1,"username":"a",` + api + `}`, "it is not what was asked for", 0},
		"user number":       {200, `{"active":true,"username":1,` + api + `}`, "it is not what was asked for", 0},
		"scope list":        {200, `{"active":true,"username":"a","scope":["urn:matrix:client:api:*"]}`, "it is not what was asked for", 0},
		"device number":     {200, `{"active":true,"username":"a","device_id":1,` + api + `}`, "it is not what was asked for", 0},
		"expiry text":       {200, `{"active":true,"username":"a","expires_in":"300",` + api + `}`, "it is not what was asked for", 0},
		"expiry fraction":   {200, `{"active":true,"username":"a","expires_in":1.5,` + api + `}`, "it is not what was asked for", 0},
		"expiry too large":  {200, `{"active":true,"username":"a","expires_in":1e300,` + api + `}`, "it is not what was asked for", 0},
		"more after it":     {200, `{"active":true,"username":"a",` + api + `}{}`, "it is not what was asked for", 0},
		"deep":              {200, `{"active":true,"x":` + strings.Repeat("[", 20_000), "it is not what was asked for", 0},
		"too long":          {200, `{"active":false,"x":"` + strings.Repeat("x", maxAnswer) + `"}`, "longer than 65536 bytes", 0},
		"user id":           {200, `{"active":true,"username":"a:x",` + api + `}`, "no valid user name", 0},
		"user too long":     {200, `{"active":true,"username":"` + strings.Repeat("a", 256) + `",` + api + `}`, "no valid user name", 0},
		"user zero byte":    {200, `{"active":true,"username":"a\u0000",` + api + `}`, "no valid user name", 0},
		"devices":           {200, `{"active":true,"username":"a","scope":"urn:matrix:client:api:* urn:matrix:client:device:A urn:matrix:client:device:B"}`, "more than one device", 0},
		"devices, unstable": {200, `{"active":true,"username":"a","scope":"urn:matrix:client:api:* urn:matrix:client:device:A urn:matrix:org.matrix.msc2967.client:device:B"}`, "more than one device", 0},
		"device empty":      {200, `{"active":true,"username":"a","device_id":"",` + api + `}`, "no valid device", 0},
		"device too long":   {200, `{"active":true,"username":"a","device_id":"` + strings.Repeat("a", 256) + `",` + api + `}`, "no valid device", 0},
		"device zero byte":  {200, `{"active":true,"username":"a","device_id":"a\u0000",` + api + `}`, "no valid device", 0},
		"scope's device":    {200, `{"active":true,"username":"a","scope":"urn:matrix:client:api:* urn:matrix:client:device:"}`, "no valid device", 0},
		"redirect":          {307, ``, "status 307", 0},
		"created":           {201, `{"active":true,"username":"a",` + api + `}`, "status 201", 0},
		"bad request":       {400, `{"error":"hunter2"}`, "status 400", 0},
		"limited":           {429, ``, "status 429", 0},
		"internal error":    {500, `{"error":"hunter2"}`, "status 500", 2},
		"starting":          {503, ``, "status 503", 2},
		"wrong secret":      {401, `{"error":"hunter2"}`, "refuses the secret", 0},
		"forbidden":         {403, ``, "refuses the secret", 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				asked := 0
				client := clientOf(t, Options{}, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					asked++
					w.Header().Set("Location", "http://elsewhere/oauth2/introspect")
					w.WriteHeader(test.status)
					_, _ = io.WriteString(w, test.body)
				}))
				for range 2 { // it is not cached
					got, err := client.Token(t.Context(), "a-token")
					require.ErrorIs(t, err, ErrUnavailable)
					require.Equal(t, test.status == 401 || test.status == 403, errors.Is(err, ErrSecret))
					require.NotErrorIs(t, err, ErrInactive)
					require.ErrorContains(t, err, test.want)
					for _, secret := range []string{"hunter2", "a-token", mastest.Secret} {
						require.NotContains(t, err.Error(), secret)
					}
					require.Zero(t, got)
				}
				require.Equal(t, 2*max(test.asked, 1), asked)
			})
		})
	}
}

// A redirect of a real server is not followed either.
func TestRedirectsAreNotFollowed(t *testing.T) {
	t.Parallel()
	elsewhere := mastest.New()
	elsewhere.Issue("a-token", "alice", mastest.API)
	away := elsewhere.Start(t)
	server := httptest.NewServer(http.RedirectHandler(away+"/oauth2/introspect", http.StatusPermanentRedirect))
	defer server.Close()
	_, err := startedClient(t, server.URL, mastest.Secret).Token(t.Context(), "a-token")
	require.ErrorIs(t, err, ErrUnavailable)
	require.Zero(t, elsewhere.Asked())
}

func TestServiceThatIsDown(t *testing.T) {
	t.Parallel()
	server := httptest.NewServer(nil)
	server.Close()
	client := startedClient(t, server.URL, mastest.Secret)
	_, err := client.Token(t.Context(), "a-token")
	require.ErrorIs(t, err, ErrUnavailable)
	require.NotErrorIs(t, err, ErrSecret)
	require.ErrorContains(t, err, "connection refused")
	require.NotContains(t, err.Error(), "a-token")
	require.ErrorIs(t, client.Check(t.Context()), ErrUnavailable)

	ctx, cancel := context.WithCancelCause(t.Context())
	gone := errors.New("the caller is gone")
	cancel(gone)
	_, err = client.Token(ctx, "a-token")
	require.ErrorIs(t, err, gone)
}

// silent never answers.
type silent struct{}

func (silent) RoundTrip(r *http.Request) (*http.Response, error) {
	<-r.Context().Done()
	return nil, r.Context().Err()
}

func TestSilenceEnds(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		client := clientOf(t, Options{}, nil)
		client.transport = silent{}
		begun := time.Now()
		_, err := client.Token(t.Context(), "a-token")
		require.ErrorIs(t, err, ErrUnavailable)
		require.ErrorContains(t, err, "within 5s")
		require.Equal(t, 5*time.Second, time.Since(begun))
	})
}

// dropping loses the first connections.
type dropping struct {
	http.RoundTripper
	left int
}

func (d *dropping) RoundTrip(r *http.Request) (*http.Response, error) {
	if d.left--; d.left >= 0 {
		return nil, io.ErrUnexpectedEOF
	}
	return d.RoundTripper.RoundTrip(r)
}

func TestLostAnswerIsAskedForAgain(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		service := mastest.New()
		service.Issue("user", "alice", mastest.API)
		client := clientOf(t, Options{}, service)
		client.transport = &dropping{client.transport, 1}
		_, err := client.Token(t.Context(), "user")
		require.NoError(t, err)
		client = clientOf(t, Options{}, service)
		client.transport = &dropping{client.transport, 2}
		_, err = client.Token(t.Context(), "user")
		require.ErrorIs(t, err, ErrUnavailable)
		require.ErrorIs(t, err, io.ErrUnexpectedEOF)
	})
}

func TestAnswersAreCachedForSeconds(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		service := mastest.New()
		service.Issue("long", "alice", mastest.API)
		service.IssueLegacy("legacy", "alice", "D")
		for token, seconds := range map[string]int64{"short": 3, "over": 0, "before": -5, "endless": 1 << 62} {
			service.Put(token, map[string]any{"active": true, "scope": mastest.API, "username": "alice", "expires_in": seconds})
		}
		client := clientOf(t, Options{}, service)
		asks := func(token string, want int) {
			t.Helper()
			before := service.Asked()
			_, err := client.Token(t.Context(), token)
			refused := token == "unknown" || token == "over" || token == "before"
			require.Equal(t, refused, errors.Is(err, ErrInactive), token)
			require.Equal(t, want, service.Asked()-before, token)
		}
		for range 2 {
			for _, token := range []string{"long", "legacy", "endless", "short", "over", "before", "unknown"} {
				asks(token, 1)
			}
			time.Sleep(2*time.Second - 1)
			for _, token := range []string{"long", "legacy", "endless", "short", "over", "before", "unknown"} {
				asks(token, 0)
			}
			time.Sleep(time.Nanosecond) // after 2 s refusals are asked about again
			for _, token := range []string{"over", "before", "unknown"} {
				asks(token, 1)
			}
			time.Sleep(time.Second - 1)
			asks("short", 0)
			time.Sleep(time.Nanosecond) // after 3 s the short token has expired
			service.Revoke("short")
			_, err := client.Token(t.Context(), "short")
			require.ErrorIs(t, err, ErrInactive)
			service.Put("short", map[string]any{"active": true, "scope": mastest.API, "username": "alice", "expires_in": int64(3)})
			time.Sleep(7*time.Second - 1)
			for _, token := range []string{"long", "legacy", "endless"} {
				asks(token, 0)
			}
			time.Sleep(time.Nanosecond)
		}
		// A token that was revoked is refused after 10 s.
		service.Revoke("long")
		_, err := client.Token(t.Context(), "long")
		require.ErrorIs(t, err, ErrInactive)
		require.NotContains(t, fmt.Sprintf("%+v", client.answers), "legacy")
	})
}

// The life of a token begins before the answer arrives.
func TestSlowAnswersAreCachedShorter(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		asked := 0
		client := clientOf(t, Options{}, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			asked++
			time.Sleep(2 * time.Second)
			_, _ = io.WriteString(w, `{"active":true,"username":"a","expires_in":3,"scope":"urn:matrix:client:api:*"}`)
		}))
		for range 2 {
			_, err := client.Token(t.Context(), "token")
			require.NoError(t, err)
		}
		require.Equal(t, 1, asked)
		time.Sleep(time.Second)
		_, err := client.Token(t.Context(), "token")
		require.NoError(t, err)
		require.Equal(t, 2, asked)
	})
}

func TestAnswersAreBounded(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		service := mastest.New()
		client := clientOf(t, Options{MaxAnswers: 5}, service)
		for i := range 100 {
			_, err := client.Token(t.Context(), fmt.Sprint(i))
			require.ErrorIs(t, err, ErrInactive)
		}
		_, _ = client.Token(t.Context(), "99")
		require.Equal(t, 100, service.Asked())
		for i := range 100 {
			_, _ = client.Token(t.Context(), fmt.Sprint(i))
		}
		require.GreaterOrEqual(t, service.Asked(), 195)
	})
}

func TestCheck(t *testing.T) {
	t.Parallel()
	service := mastest.New()
	url := service.Start(t)
	require.NoError(t, startedClient(t, url, mastest.Secret).Check(t.Context()))
	require.Equal(t, 1, service.Asked())
	err := startedClient(t, url, "another-secret").Check(t.Context())
	require.ErrorIs(t, err, ErrSecret)
	require.NotContains(t, err.Error(), "another-secret")
	// Not every 200 is an answer.
	for _, body := range []string{`{"active":true,"username":"a"}`, `<html>`} {
		client := clientOf(t, Options{}, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, body) }))
		require.ErrorIs(t, client.Check(t.Context()), ErrUnavailable)
	}
}

func TestURLs(t *testing.T) {
	t.Parallel()
	for _, good := range []string{"http://h", "https://h/", "http://127.0.0.1:8080", "https://h:1/auth/", "http://[::1]:65535"} {
		require.NoError(t, ValidURL(good), good)
		_, err := New(good, "secret", Options{})
		require.NoError(t, err)
	}
	for _, bad := range []string{
		"", "h", "h:8080", "ftp://h", "http://", "http://u:hunter2@h", "http://h?hunter2", "http://h?", "http://h#", "http://h:0",
		"http://h:65536", "http://h:hunter2", "http://%zz",
	} {
		err := ValidURL(bad)
		require.Error(t, err, bad)
		require.NotContains(t, err.Error(), "hunter2")
		_, err = New(bad, "secret", Options{})
		require.Error(t, err, bad)
	}
	for _, secret := range []string{"", "a b", "a\n", "ü"} {
		_, err := New("http://h", secret, Options{})
		require.Error(t, err)
	}
}
