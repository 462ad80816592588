package httpapi_test

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"lethe/internal/httpapi"
)

const unrecognized = `{"errcode":"M_UNRECOGNIZED","error":"Unrecognized request"}`

func TestRouting(t *testing.T) {
	t.Parallel()
	b := setup(t, httpapi.Options{})
	eventNotFound := func(id string) string { return refusal("M_NOT_FOUND", "Could not find event "+id) }
	purgeNotFound := func(id string) string { return refusal("M_NOT_FOUND", "purge id '"+id+"' not found") }
	const (
		wrongRoom = `{"errcode":"M_UNKNOWN","error":"Event is for wrong room."}`
		nothing   = `{"errcode":"M_BAD_JSON","error":"must specify purge_up_to_event_id or purge_up_to_ts"}`
		accepted  = `{"purge_id":"AbCdEfGhIjKlMnOp"}`
		version   = `{"server_version":"1.160.0"}`
		v1        = "/_synapse/admin/v1"
	)
	for request, want := range map[string]struct {
		status int
		body   string
	}{
		"GET " + v1 + "/server_version":     {200, version},
		"GET " + v1 + "/server_version?x=y": {200, version},
		"GET " + v1 + "/server%5Fversion":   {404, unrecognized}, // only ids are decoded
		"GET " + v1 + "/server_version/":    {404, unrecognized},
		"GET " + v1 + "/server_versio":      {404, unrecognized},
		"GET /" + v1 + "/server_version":    {404, unrecognized},
		"GET /_synapse/admin/v2/x":          {404, unrecognized},
		"GET /":                             {404, unrecognized},
		"GET /%ff":                          {404, unrecognized},
		"GET /healthz":                      {404, unrecognized},
		"GET http://x/":                     {404, unrecognized},
		"BREW /":                            {404, unrecognized},
		"POST " + v1 + "/server_version":    {405, unrecognized},
		"BREW " + v1 + "/server_version":    {405, unrecognized},

		"GET " + v1 + "/purge_history/!room:x":                               {405, unrecognized},
		"GET " + v1 + "/purge_history/!room:x/":                              {405, unrecognized},
		"HEAD " + v1 + "/purge_history/!room:x":                              {405, ""},
		"DELETE " + v1 + "/purge_history/!room:x/$one":                       {405, unrecognized},
		"GET " + v1 + "/purge_history/!room:x/$one/x":                        {404, unrecognized},
		"POST " + v1 + "/purge_history":                                      {404, unrecognized},
		"POST " + v1 + "/purge_history/!room:x/$one/":                        {404, unrecognized},
		"POST " + v1 + "/purge_history/!room:x/$two/2":                       {404, unrecognized},
		"POST " + v1 + "/purge_history/":                                     {400, nothing},
		"POST " + v1 + "/purge_history/!room:x":                              {400, nothing},
		"POST " + v1 + "/purge_history/!room:x/":                             {404, eventNotFound("")},
		"POST " + v1 + "/purge_history//":                                    {404, eventNotFound("")},
		"POST " + v1 + "/purge_history//$nobody":                             {200, accepted},
		"POST " + v1 + "/purge_history//$one":                                {400, wrongRoom},
		"POST " + v1 + "/purge_history/!other:x/$one":                        {400, wrongRoom},
		"POST " + v1 + "/purge_history/!room:x/$one":                         {200, accepted},
		"POST " + v1 + "/purge_history/!room%3Ax/%24one":                     {200, accepted},
		"POST " + v1 + "/purge_history/%21room:x/$two%2F2":                   {200, accepted},
		"POST " + v1 + "/purge_history/!room:x/$two%2f2":                     {200, accepted},
		"POST " + v1 + "/purge_history/!room:x/$two%252F2":                   {404, eventNotFound("$two%2F2")},
		"POST " + v1 + "/purge_history/!o%2F%252F%20%C3%BC%3C:x/$odd":        {200, accepted},
		"POST " + v1 + "/purge_history/!o%2F%252F%20\xc3\xbc<:x/$odd":        {200, accepted},
		"POST " + v1 + "/purge_history/!o%2F%2F%20%C3%BC%3C:x/$odd":          {400, wrongRoom},
		"POST " + v1 + "/purge_history/!room:x/$rejected":                    {404, eventNotFound("$rejected")},
		"POST " + v1 + "/purge_history/!room:x/$one%00":                      {404, eventNotFound("$one\x00")},
		"POST " + v1 + "/purge_history/!room:x/%FF":                          {404, eventNotFound("\uFFFD")},
		"POST " + v1 + "/purge_history/!room:x/<b>":                          {404, eventNotFound("<b>")},
		"POST " + v1 + "/purge_history/!room:x/..":                           {404, eventNotFound("..")},
		"POST " + v1 + "/purge_history/!room:x%00/$one":                      {400, wrongRoom},
		"POST " + v1 + "/purge_history/!room:x/" + strings.Repeat("$", 9000): {404, eventNotFound(strings.Repeat("$", 9000))},

		"GET " + v1 + "/purge_history_status":              {404, unrecognized},
		"GET " + v1 + "/purge_history_status/":             {404, purgeNotFound("")},
		"GET " + v1 + "/purge_history_status/x":            {404, purgeNotFound("x")},
		"GET " + v1 + "/purge_history_status/x%2Fy%00%FF'": {404, purgeNotFound("x/y\x00\uFFFD'")},
		"GET " + v1 + "/purge_history_status/x%252Fy":      {404, purgeNotFound("x%2Fy")}, // decoded once
		"GET " + v1 + "/purge_history_status/x/":           {404, unrecognized},
		"GET " + v1 + "/purge_history_status/x/y":          {404, unrecognized},
		"POST " + v1 + "/purge_history_status/x":           {405, unrecognized},
		"POST " + v1 + "/purge_history_status/":            {405, unrecognized},
	} {
		t.Run(request[:min(len(request), 80)], func(t *testing.T) {
			t.Parallel()
			r := b.raw(t, request+" HTTP/1.1\nHost: x\nAuthorization: Bearer admin\n\n")
			if want.body == "" {
				require.Equal(t, want.status, r.status)
				require.Empty(t, r.body)
				requireHeaders(t, r.header)
				return
			}
			requireJSON(t, r, want.status, want.body)
		})
	}
}

// Without a token the path and the method are judged first.
func TestUnrecognizedNeedsNoToken(t *testing.T) {
	t.Parallel()
	b := setup(t, httpapi.Options{})
	requireJSON(t, b.raw(t, "GET /x HTTP/1.1\nHost: x\n\n"), 404, unrecognized)
	requireJSON(t, b.raw(t, "GET /_synapse/admin/v1/purge_history/r HTTP/1.1\nHost: x\n\n"), 405, unrecognized)
}

// Paths that net/http does not take for any are refused by it, and are no
// concern of anything behind it.
func TestPathsThatAreNone(t *testing.T) {
	t.Parallel()
	b := setup(t, httpapi.Options{})
	for _, target := range []string{"/%zz", "/%", "x", "/a b", "/\x01"} {
		r := b.raw(t, "GET "+target+" HTTP/1.1\nHost: x\n\n")
		require.Equal(t, 400, r.status, target)
	}
	r := b.raw(t, "GET / HTTP/1.1\nHost: x\nX: "+strings.Repeat("x", 1<<20)+"\n\n")
	require.Equal(t, http.StatusRequestHeaderFieldsTooLarge, r.status)
}

func TestOptions(t *testing.T) {
	t.Parallel()
	b := setup(t, httpapi.Options{})
	for _, target := range []string{"*", "/", "/x/y", "/_synapse/admin/v1/server_version", "/_synapse/admin/v1/purge_history/!r/$e"} {
		r := b.raw(t, "OPTIONS "+target+" HTTP/1.1\nHost: x\n\n")
		require.Equal(t, 204, r.status, target)
		require.Empty(t, r.body)
		requireHeaders(t, r.header)
	}
}

func TestServerVersion(t *testing.T) {
	t.Parallel()
	b := setup(t, httpapi.Options{})
	const path = "/_synapse/admin/v1/server_version HTTP/1.1\nHost: x\n\n"
	r := b.raw(t, "GET "+path)
	require.Equal(t, `{"server_version":"1.160.0"}`, r.body)
	head := b.raw(t, "HEAD "+path)
	require.Equal(t, 200, head.status)
	require.Empty(t, head.body)
	require.Equal(t, "28", head.header.Get("Content-Length"))
	requireHeaders(t, head.header)
}

func TestHealth(t *testing.T) {
	t.Parallel()
	b := setup(t, httpapi.Options{Health: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, "here "+r.URL.Path)
	})})
	for _, path := range []string{"/healthz", "/readyz"} {
		require.Equal(t, "here "+path, b.send(t, "GET", path, "").body)
	}
	requireJSON(t, b.send(t, "GET", "/healthz/x", ""), 404, unrecognized)
	// Metrics are served elsewhere. A proxy compares the path as it was sent.
	for _, path := range []string{"/metrics", "/%6detrics", "/metrics/", "/%68ealthz"} {
		requireJSON(t, b.send(t, "GET", path, ""), 404, unrecognized)
	}
	require.Len(t, b.observed, 5)
}

func TestUnexpectedErrors(t *testing.T) {
	t.Parallel()
	const internal = `{"errcode":"M_UNKNOWN","error":"Internal server error"}`
	for name, instead := range map[string]func(context.Context) error{
		"error": func(context.Context) error { return errors.New("the secret is out") },
		"panic": func(context.Context) error { panic("the secret is out") },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := setup(t, httpapi.Options{})
			b.tasks.instead = instead
			r := b.send(t, "POST", "/_synapse/admin/v1/purge_history/!room:x/$one", "")
			requireJSON(t, r, 500, internal)
			require.Equal(t, observed{"/_synapse/admin/v1/purge_history/:room_id/:event_id", "POST", 500}, <-b.observed)
			require.Contains(t, b.log.String(), "level=ERROR")
			require.Contains(t, b.log.String(), "the secret is out")
			require.Contains(t, b.log.String(), r.header.Get("X-Request-Id"))
			if name == "panic" {
				require.Contains(t, b.log.String(), "server_test.go", "where it happened")
			}
			requireJSON(t, b.send(t, "GET", "/_synapse/admin/v1/purge_history_status/broken", ""), 500, internal)
			requireJSON(t, b.send(t, "GET", "/_synapse/admin/v1/server_version", ""), 200, `{"server_version":"1.160.0"}`)
		})
	}
}

// untilOver is a dependency that hangs.
func untilOver(ctx context.Context) error {
	<-ctx.Done()
	return ctx.Err()
}

func TestTimeout(t *testing.T) {
	t.Parallel()
	b := setup(t, httpapi.Options{Timeout: 2 * time.Second})
	b.tasks.instead = untilOver
	r := b.send(t, "POST", "/_synapse/admin/v1/purge_history/!room:x/$one", "")
	requireJSON(t, r, 504, refusal("M_UNKNOWN", "The request took too long"))
	require.Equal(t, 504, (<-b.observed).status)
	require.Contains(t, b.log.String(), "context deadline exceeded")
}

func TestClientGone(t *testing.T) {
	t.Parallel()
	b := setup(t, httpapi.Options{})
	called := make(chan struct{})
	b.tasks.instead = func(ctx context.Context) error {
		close(called)
		return untilOver(ctx)
	}
	conn := b.requireDial(t)
	_, err := io.WriteString(conn, "POST /_synapse/admin/v1/purge_history/!room:x/$one HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer admin\r\n\r\n")
	require.NoError(t, err)
	<-called
	require.NoError(t, conn.Close())
	require.Equal(t, 499, (<-b.observed).status)
	require.NotContains(t, b.log.String(), "level=ERROR")
}

func TestSlowBody(t *testing.T) {
	t.Parallel()
	b := setup(t, httpapi.Options{Timeout: 2 * time.Second})
	const slow = "\nHost: x\nAuthorization: Bearer admin\nContent-Length: 10\n\n{"
	requireJSON(t, b.raw(t, "POST /_synapse/admin/v1/purge_history/!room:x HTTP/1.1"+slow), 408,
		refusal("M_UNKNOWN", "The request's content took too long"))
	// One that nobody wants to read ends as well.
	requireJSON(t, b.raw(t, "POST /x HTTP/1.1"+slow), 404, unrecognized)
}

func TestLog(t *testing.T) {
	t.Parallel()
	b := setup(t, httpapi.Options{})
	r := b.raw(t, "GET /_synapse/admin/v1/purge_history_status/hidden?access_token=admin&x=hidden HTTP/1.1\nHost: x\n\n")
	require.Equal(t, 404, r.status)
	b.raw(t, "BREW /hidden?hidden HTTP/1.1\nHost: x\n\n")
	b.raw(t, "POST /_synapse/admin/v1/purge_history/hidden HTTP/1.1\nHost: x\nAuthorization: Bearer hidden\n\n")
	b.raw(t, "OPTIONS /hidden HTTP/1.1\nHost: x\n\n")

	require.Equal(t, observed{"/_synapse/admin/v1/purge_history_status/:purge_id", "GET", 404}, <-b.observed)
	require.Equal(t, observed{"unmatched", "OTHER", 404}, <-b.observed)
	require.Equal(t, observed{"/_synapse/admin/v1/purge_history/:room_id", "POST", 401}, <-b.observed)
	require.Equal(t, observed{"unmatched", "OPTIONS", 204}, <-b.observed)

	text := b.log.String()
	require.Equal(t, 4, strings.Count(text, "\n"), "a line for each")
	require.NotContains(t, text, "hidden")
	require.NotContains(t, text, "access_token")
	require.Regexp(t, `level=INFO msg=request method=GET route=/_synapse/admin/v1/purge_history_status/:purge_id `+
		`status=404 duration=\S+ request_id=`+r.header.Get("X-Request-Id"), text)
}
