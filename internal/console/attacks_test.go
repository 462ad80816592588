package console_test

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"lethe/internal/operator"
	"lethe/internal/schedule"
	"lethe/internal/store/journal"
	"lethe/internal/store/storetest"
)

// daily adds a schedule to the settings.
func daily(o *operator.Options) { o.RetentionJobs = []string{"daily"} }

// routes returns the routes of the console for a method, as its source has them.
func routes(t *testing.T, method string) (paths []string) {
	t.Helper()
	files, err := filepath.Glob("*.go")
	require.NoError(t, err)
	for _, file := range files {
		text, err := os.ReadFile(file)
		require.NoError(t, err)
		for _, found := range regexp.MustCompile(`c\.handle\("`+method+`", "([^"]*)"`).FindAllSubmatch(text, -1) {
			paths = append(paths, string(found[1]))
		}
	}
	require.NotEmpty(t, paths)
	return paths
}

// unseen returns the routes that match none of the paths.
func unseen(t *testing.T, method string, paths []string) []string {
	t.Helper()
	mux := http.NewServeMux()
	left := map[string]bool{}
	for _, route := range routes(t, method) {
		mux.HandleFunc(root+route, func(http.ResponseWriter, *http.Request) {})
		left[root+route] = true
	}
	for _, path := range paths {
		_, pattern := mux.Handler(httptest.NewRequest(method, root+path, nil))
		delete(left, pattern)
	}
	var names []string
	for name := range left {
		names = append(names, name)
	}
	return names
}

// contents are all rows that a change could make or change.
func contents(l *lab) string {
	l.T.Helper()
	return storetest.One[string](l.Lab, `SELECT concat(
		(SELECT jsonb_agg(j ORDER BY id) FROM lethe.jobs j), (SELECT jsonb_agg(h ORDER BY id) FROM lethe.holds h),
		(SELECT jsonb_agg(p ORDER BY scope, value) FROM lethe.pauses p), (SELECT jsonb_agg(e ORDER BY id) FROM lethe.job_events e),
		(SELECT jsonb_agg(a ORDER BY id) FROM lethe.audit a), (SELECT jsonb_agg(s ORDER BY job) FROM lethe.schedules s),
		(SELECT jsonb_agg(b ORDER BY room_id) FROM blocked_rooms b))`)
}

// Each form is refused without what its own session knows, and from other sites.
func TestEveryChangeNeedsItsOwnForm(t *testing.T) {
	t.Parallel()
	l := setup(t, daily)
	id := l.Queue("!a:x")
	l.Exec(`INSERT INTO lethe.holds (room_id, reason, placed_by) VALUES ('!held:x', 'r', '@a:x')`)
	b, other := l.signedIn("syt_admin"), l.signedIn("syt_admin")
	foreign := other.proof()
	proof := b.proof()
	before := contents(l)
	for _, route := range routes(t, "POST") {
		if route == "/sign-in" {
			continue // it has no session yet
		}
		path := root + strings.NewReplacer("{job}", id, "{verb}", "cancel").Replace(route)
		form := func(proof string) url.Values {
			return url.Values{
				"proof": {proof}, "room": {"!held:x"}, "reason": {"r"}, "kind": {"delete_room"}, "plan": {"x"}, "queue": {"low"}, "name": {"daily"}, "do": {"block"},
			}
		}
		for name, p := range map[string]page{
			"no proof":          b.send("POST", path, form("")),
			"another session's": b.send("POST", path, form(foreign)),
			"a longer one":      b.send("POST", path, form(proof+"A")),
			"in the query":      b.send("POST", path+"?proof="+proof, form("")),
			"another site":      b.send("POST", path, form(proof), "Sec-Fetch-Site", "cross-site"),
			"a sibling":         b.send("POST", path, form(proof), "Sec-Fetch-Site", "same-site", "Sec-Fetch-Mode", "navigate", "Sec-Fetch-Dest", "document"),
			"another origin":    b.send("POST", path, form(proof), "Origin", "https://evil.example.org"),
			"another scheme":    b.send("POST", path, form(proof), "Origin", strings.Replace(l.server.URL, "http:", "ftp:", 1)+"0"),
			"a null origin":     b.send("POST", path, form(proof), "Origin", "null"),
			"as text":           b.send("POST", path, form(proof), "Content-Type", "text/plain"),
			"as JSON":           b.send("POST", path, form(proof), "Content-Type", "application/json"),
			"as parts":          b.send("POST", path, form(proof), "Content-Type", "multipart/form-data; boundary=x"),
		} {
			require.Equal(t, http.StatusForbidden, p.status, "%s, %s: %s", route, name, p.body)
			require.Contains(t, p.body, "Nothing was changed", name)
		}
		stranger := l.browser().send("POST", path, form(proof))
		require.Equal(t, http.StatusSeeOther, stranger.status, route)
		require.Contains(t, stranger.header.Get("Location"), root+"/sign-in?", route)
	}
	require.Equal(t, before, contents(l))
	require.Contains(t, b.get("/").body, "@admin:x", "a foreign form has signed the user out")

	// The forms lack nothing but their proof.
	for _, path := range []string{"/schedules/run", "/room/block", "/holds/lift", "/jobs/" + id + "/cancel"} {
		p := b.send("POST", root+path, url.Values{"proof": {proof}, "name": {"daily"}, "room": {"!held:x"}, "do": {"block"}})
		require.Equal(t, http.StatusSeeOther, p.status, "%s: %s", path, p.body)
	}
	require.NotEqual(t, before, contents(l))
}

// A page on another host of the same site gets the session's cookie along with what it asks
// for. It must not get the api to work.
func TestOtherOriginsReachNoPage(t *testing.T) {
	t.Parallel()
	l := setup(t)
	b := l.signedIn("syt_admin")
	for _, site := range []string{"same-site", "cross-site"} {
		for _, how := range [][2]string{{"no-cors", "image"}, {"cors", "empty"}, {"navigate", "iframe"}, {"", ""}} {
			for _, path := range []string{"/", "/live", "/rooms", "/room/plan?kind=delete_room&room=!a:x"} {
				p := b.send("GET", root+path, nil, "Sec-Fetch-Site", site, "Sec-Fetch-Mode", how[0], "Sec-Fetch-Dest", how[1])
				require.Equal(t, http.StatusForbidden, p.status, "%s %s %s", site, how, path)
			}
		}
		p := b.send("GET", root+"/", nil, "Sec-Fetch-Site", site, "Sec-Fetch-Mode", "navigate", "Sec-Fetch-Dest", "document")
		require.Equal(t, http.StatusOK, p.status, "a link from another site leads nowhere")
	}
}

// All texts that users, admins and the database can choose, on all pages and in all streams.
func TestStoredMarkupStaysTextOnEveryPage(t *testing.T) {
	t.Parallel()
	const room = "!room:x"
	evil := "\r\n\r\nevent: end\r\ndata: over\n\nevent: end\ndata: over\n\n" + markup + "'\\u003cscript>`</title></textarea></script><!--"
	hostile := "!" + evil + ":x"
	l := setup(t, func(o *operator.Options) {
		o.RetentionJobs = []string{evil}
		o.Schedulers = func(context.Context) ([]schedule.Replica, error) {
			return []schedule.Replica{{Name: evil, Schedules: []schedule.Entry{{Name: evil, Kind: journal.Kind(evil), When: evil}}}}, nil
		}
	})
	l.Chain(room, "m", 5, 0)
	l.Exec(`UPDATE events SET received_ts = 1000, origin_server_ts = 1000`)
	l.Exec(`INSERT INTO room_stats_state (room_id, name, canonical_alias, topic) VALUES ($1, $2, $2, $2)`, room, evil)
	l.Exec(`INSERT INTO room_aliases (room_alias, room_id, creator) VALUES ('#' || $2, $1, $2)`, room, evil)
	l.Exec(`INSERT INTO local_current_membership (room_id, user_id, event_id, membership) VALUES ($1, '@' || $2, '$e', 'join')`, room, evil)
	l.Exec(`INSERT INTO current_state_events (event_id, room_id, type, state_key, membership) VALUES ('$m', $1, 'm.room.member', '@' || $2, $2)`, room, evil)
	l.Exec(`INSERT INTO blocked_rooms (room_id, user_id) VALUES ($1, $2)`, room, evil)
	l.Exec(`INSERT INTO lethe.schedules (job, last_tick, outcome) VALUES ($1, now(), 'noted'), ('gone' || $1, now(), 'noted')`, evil)
	l.Exec(`INSERT INTO lethe.audit (who, way, action, subject, room_id, job_id, reason, detail) VALUES
		($1, 'api', $1, $1, $1, $1, $1, jsonb_build_object($1::text, $1::text, 'list', jsonb_build_array($1::text), 'object', jsonb_build_object($1::text, $1::text),
			'before', jsonb_build_object($1::text, $1::text)))`, evil)
	id, failed, held := l.Queue(hostile), l.Queue("!b:x"), l.Queue("!c:x")
	sweep := l.Queue("!d:x")
	l.Exec(`UPDATE lethe.jobs SET kind = 'retention_sweep', room_id = '', requester = $2, state = 'failed', ended_at = now(), error = $2,
		parameters = jsonb_build_object('job', $2::text), checkpoint = jsonb_build_object('sweep', jsonb_build_object('rooms', 7, 'skipped', jsonb_build_object($2::text, 7))) WHERE id = $1`, sweep, evil)
	l.Exec(`UPDATE lethe.jobs SET kind = 'retention_sweep', room_id = '', requester = $2, waits_for = $2, waits_since = now(),
		parameters = jsonb_build_object('job', 'gone' || $2::text) WHERE id = $1`, l.Queue("!e:x"), evil)
	l.Exec(`UPDATE lethe.jobs SET requester = $2, waits_for = $2, waits_since = now(), last_failure = $2, worker = $2, reason = $2,
		deleted = jsonb_build_object($2::text, 7), parameters = parameters || jsonb_build_object('message', $2::text, 'new_room_name', $2::text) WHERE id = $1`, id, evil)
	l.Exec(`UPDATE lethe.jobs SET state = 'failed', error = $2, ended_at = now() WHERE id = $1`, failed, evil)
	l.Exec(`UPDATE lethe.jobs SET state = 'running', heartbeat_at = now(), worker = $2, started_at = now() WHERE id = $1`, held, evil)
	l.Exec(`INSERT INTO lethe.job_events (job_id, event, who, reason, detail) VALUES ($1, 'queued', $2, $2, jsonb_build_object($2::text, $2::text)), ($1, $2, $2, $2, '{}')`, id, evil)
	l.Exec(`INSERT INTO lethe.holds (room_id, reason, placed_by) VALUES ($1, $2, $2)`, hostile, evil)
	l.Exec(`INSERT INTO lethe.holds (room_id, reason, placed_by, released_by, released_at) VALUES ($1, $2, $2, $2, now())`, room, evil)
	l.Exec(`INSERT INTO lethe.pauses (scope, value, who, reason) VALUES ('kind', 'delete_room', $1, $1)`, evil)
	b := l.signedIn("syt_admin")
	text := url.QueryEscape(evil)
	before := time.Now().UTC().Format("2006-01-02T15:04")
	paths := []string{
		"/", "/jobs", "/jobs?room=" + text, "/jobs?requester=" + text, "/jobs?state=" + text, "/jobs?kind=" + text, "/jobs?from=" + text,
		"/jobs/" + id, "/jobs/" + failed, "/jobs/" + held, "/jobs/" + id + "?done=" + text, "/jobs/" + id + "/cancel", "/jobs/" + url.PathEscape(markup),
		"/jobs/" + id + "/" + url.PathEscape(markup), "/rooms", "/rooms?from=" + text, "/room?room=" + url.QueryEscape(room), "/room?room=" + text,
		"/room/plan?kind=delete_room&room=" + url.QueryEscape(room), "/room/plan?kind=" + text + "&room=" + text,
		"/room/plan?kind=purge_history&local=true&before=" + before + "&room=" + url.QueryEscape(room), "/room/plan?kind=purge_history&before=" + text + "&room=!room:x",
		"/holds", "/holds?released=true", "/holds?room=" + text, "/holds?done=" + text, "/holds/place?room=" + text, "/holds/lift?room=" + text,
		"/schedules", "/schedules/run?name=" + text, "/schedules/run?name=gone" + text, "/jobs/" + sweep, "/audit", "/audit?action=" + text, "/audit?way=" + text,
		"/audit?who=" + text, "/audit?room=" + text, "/audit?job=" + text, "/audit?since=" + text, "/audit?before=" + text, "/audit?from=" + text,
		"/rooms?search=" + text, "/rooms?search=room", "/rooms?search=none" + text, "/rooms?search=" + url.QueryEscape(hostile) + "0",
		"/room/block?room=" + url.QueryEscape(room), "/room/block?room=" + text, "/room?done=" + text + "&room=" + url.QueryEscape(room),
		"/holds/lift?room=" + url.QueryEscape(hostile), "/sign-in?next=" + url.QueryEscape(root+"/"+evil), "/" + url.PathEscape(markup),
	}
	clean := func(body, where string) {
		t.Helper()
		require.NotContains(t, body, "<script>alert", where)
		require.NotContains(t, body, "<img", where)
		require.NotContains(t, body, "<!--", where)
		require.NotRegexp(t, `(?i)href="\s*(javascript|data):`, body, where)
	}
	shown := ""
	for _, path := range paths {
		p := b.get(path)
		require.Less(t, p.status, 500, "%s: %s", path, p.body)
		require.Contains(t, p.body, "</html>", path)
		clean(p.body, path)
		require.Equal(t, 1, strings.Count(p.body, "<script"), path)
		require.NotContains(t, p.body, "</title></textarea>", path)
		shown += p.body
	}
	require.Greater(t, strings.Count(shown, "&lt;script&gt;alert(1)"), 20)
	known := append(slices.Clone(paths), "/static/x", "", "/live", "/jobs/x/live")
	require.Empty(t, unseen(t, "GET", known), "pages that this test does not see")

	// In a stream, a line of a text must not become an event.
	for _, path := range []string{"/live", "/jobs/" + id + "/live"} {
		first := b.stream(t, path)()
		require.True(t, strings.HasPrefix(first, "event: part\n"), path)
		for line := range strings.Lines(strings.TrimPrefix(first, "event: part\n")) {
			require.True(t, strings.HasPrefix(line, "data: "), "%s: %q", path, line)
			require.NotContains(t, line, "\r")
		}
		clean(first, path)
	}
}

// raw sends bytes to the server and returns the answer.
func (b *browser) raw(t *testing.T, method, target string, headers ...string) (*http.Response, string) {
	t.Helper()
	connection, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", b.l.server.Listener.Addr().String())
	require.NoError(t, err)
	defer func() { _ = connection.Close() }()
	require.NoError(t, connection.SetDeadline(time.Now().Add(time.Minute)))
	text := method + " " + target + " HTTP/1.1\r\nHost: evil.example.org\r\nConnection: close\r\nContent-Length: 0\r\n"
	for name, value := range b.cookies {
		text += "Cookie: " + name + "=" + value + "\r\n"
	}
	for _, header := range headers {
		text += header + "\r\n"
	}
	_, err = io.WriteString(connection, text+"\r\n")
	require.NoError(t, err)
	response, err := http.ReadResponse(bufio.NewReader(connection), &http.Request{Method: method})
	require.NoError(t, err)
	defer func() { _ = response.Body.Close() }()
	body, err := io.ReadAll(response.Body)
	require.NoError(t, err)
	return response, string(body)
}

// Paths that are written oddly are not those of pages, and methods that pages do not have
// do nothing. Each answer has the headers that all have.
func TestOddRequests(t *testing.T) {
	t.Parallel()
	l := setup(t)
	id := l.Queue("!a:x")
	b := l.signedIn("syt_admin")
	before := contents(l)
	for target, status := range map[string]int{
		root + "/../v1/jobs": 404, root + "/%2e%2e/v1/jobs": 404, root + "/..%2fv1%2fjobs": 404, root + "//jobs": 404, root + "/jobs/": 404,
		root + "/jobs//" + id: 404, root + "/./jobs": 404, root + "//evil.example.org/": 404, root + "/..//..//..//evil.example.org": 404,
		root + "/jobs/" + id + "%2fcancel": 404, root + "/jobs/" + id + "/cancel/": 404, root + "/jobs/..%2f" + id: 404, root + "/%00": 404,
		root + "/static/..%2f..%2fconsole.go": 404, root + "/static/%2e%2e": 404, root + "/jobs/" + id + "/cancel%00": 404,
		root + "/jobs?%zz=%zz;&state": 200, root + "/jobs?state=queued&state=running": 200, "http://evil.example.org" + root + "/jobs": 200,
		root + "/jobs/" + strings.Repeat("A", 7000): 404, root + "/jobs?room=" + strings.Repeat("%3C", 4000): 414,
		root + "/sign-in?next=" + strings.Repeat("a", 9000): 414,
	} {
		for _, method := range []string{"GET", "HEAD"} {
			response, body := b.raw(t, method, target)
			require.Equal(t, status, response.StatusCode, "%s %.100s: %.300s", method, target, body)
			require.Contains(t, response.Header.Get("Content-Security-Policy"), "default-src 'none'", target)
			require.Equal(t, "no-store", response.Header.Get("Cache-Control"), target)
			require.Empty(t, response.Header.Get("Location"), target)
			require.Less(t, len(body), maxPage, target)
			require.NotContains(t, body, "evil.example.org/", target)
			if method == "HEAD" {
				require.Empty(t, body)
			}
		}
	}
	for _, method := range []string{"OPTIONS", "TRACE", "PUT", "DELETE", "PATCH", "PROPFIND", "get", "CONNECT", "X"} {
		for _, path := range []string{"/", "/jobs/" + id + "/cancel", "/sign-out", "/live"} {
			response, body := b.raw(t, method, root+path)
			require.Contains(t, []int{404, 405}, response.StatusCode, "%s %s", method, path)
			require.NotContains(t, body, b.cookies[cookie], "the cookie is in the answer")
			require.Empty(t, response.Header.Get("Access-Control-Allow-Origin"))
			require.Contains(t, response.Header.Get("Content-Security-Policy"), "default-src 'none'")
		}
	}
	response, _ := b.raw(t, "OPTIONS", root+"/sign-in")
	require.Equal(t, "GET, HEAD, POST", response.Header.Get("Allow"))
	require.Equal(t, before, contents(l))

	// What a redirect leads to does not depend on Host.
	response, _ = l.browser().raw(t, "GET", root+"/jobs", "X-Forwarded-Host: evil.example.org")
	require.Equal(t, root+"/sign-in?next=%2F_lethe%2Fconsole%2Fjobs", response.Header.Get("Location"))

	// Large and odd cookies are no session.
	for _, value := range []string{strings.Repeat("A", 60_000), "\x01", b.cookies[cookie] + "x", "%00"} {
		response, _ := l.browser().raw(t, "GET", root+"/", "Cookie: "+cookie+"="+value)
		require.Contains(t, []int{303, 400, 431}, response.StatusCode, "%.100q", value)
	}
	response, _ = l.browser().raw(t, "GET", root+"/", slices.Repeat([]string{"Cookie: a=b"}, 3000)...)
	require.Equal(t, 303, response.StatusCode)
}

// Whatever a form or a query has, the answer is a refusal that says what is wrong.
func TestMalformedInputIsRefused(t *testing.T) {
	t.Parallel()
	l := setup(t, daily)
	id := l.Queue("!a:x")
	b := l.signedIn("syt_admin")
	proof := b.proof()
	before := contents(l)
	texts := []string{"", "\x00", "\xff\xfe", "\xed\xa0\x80", "'", "%", "\\", "\r\nSet-Cookie: a=b", strings.Repeat("a", 7000), "-1", "9223372036854775808", "1e400", "\u202e", "null", "!", "!:", "!x:\xff"}
	get := map[string][]string{
		"/jobs": {"state", "kind", "room", "requester", "from"}, "/rooms": {"from", "search"}, "/room": {"room", "done"}, "/room/block": {"room"}, "/schedules/run": {"name"},
		"/audit": {"action", "way", "who", "room", "job", "since", "before", "from"}, "/holds": {"room", "released", "done"},
		"/holds/place": {"room"}, "/holds/lift": {"room"}, "/sign-in": {"next", "out"}, "/jobs/" + id: {"done"},
		"/room/plan": {"room", "kind", "before", "before_ts", "local"},
	}
	for path, names := range get {
		for _, name := range names {
			for _, text := range texts {
				query := url.Values{name: {text}}
				if path == "/room/plan" {
					query = url.Values{"room": {"!a:x"}, "kind": {"purge_history"}, "before": {"2026-01-01T00:00"}}
					query.Set(name, text)
				}
				p := b.get(path + "?" + query.Encode())
				require.Less(t, p.status, 500, "%s %q: %s", path, query, p.body)
				require.Less(t, len(p.body), maxPage)
				require.Empty(t, p.header.Get("Set-Cookie"))
			}
		}
	}
	posts := map[string]url.Values{
		"/jobs/" + id + "/pause": {"reason": {"r"}, "for": {"1h"}}, "/jobs/" + id + "/priority": {"reason": {"r"}, "queue": {"low"}},
		"/jobs/" + id + "/retry": {"reason": {"r"}}, "/holds/place": {"room": {"!a:x"}, "reason": {"r"}}, "/holds/lift": {"room": {"!a:x"}},
		"/room/apply": {"room": {"!a:x"}, "kind": {"purge_history"}, "before_ts": {"1"}, "plan": {"x"}, "grace": {"1h"}, "reason": {"r"}, "local": {"true"}},
		"/room/block": {"room": {"!a:x"}, "do": {"block"}}, "/schedules/run": {"name": {"daily"}, "grace": {"1h"}, "reason": {"r"}},
	}
	for path, fields := range posts {
		for name := range fields {
			for _, text := range []string{"\x00", "\xff\xfe", "\xed\xa0\x80", strings.Repeat("a", 60_000), strings.Repeat("ü", 1001)} {
				form := url.Values{"proof": {proof}}
				for other, values := range fields {
					form[other] = values
				}
				form.Set(name, text)
				p := b.send("POST", root+path, form)
				require.GreaterOrEqual(t, p.status, 400, "%s %s=%.20q: %.300s", path, name, text, p.body)
				require.Less(t, p.status, 500, "%s %s=%.20q: %s", path, name, text, p.body)
			}
		}
	}
	require.Equal(t, before, contents(l))
	for _, body := range []string{"%", "a=%zz", "proof=x;y", strings.Repeat("a=b&", 40_000)} {
		r, err := http.NewRequestWithContext(l.Ctx, "POST", l.server.URL+root+"/sign-in", strings.NewReader(body))
		require.NoError(t, err)
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		response, err := l.server.Client().Do(r)
		require.NoError(t, err)
		require.NoError(t, response.Body.Close())
		require.Equal(t, http.StatusBadRequest, response.StatusCode, "%.20s", body)
	}
}

// An attacker who invents X-Forwarded-For guesses no faster, and behind a proxy an attacker
// takes no guess from others.
func TestGuessesBehindAProxy(t *testing.T) {
	t.Parallel()
	guess := func(l *lab, from string, n int) int {
		return l.browser().send("POST", root+"/sign-in", url.Values{"token": {fmt.Sprintf("guess%d", n)}}, "X-Forwarded-For", from).status
	}
	// An address may guess 100 times at once, and then once a second.
	limited := func(l *lab, from func(n int) string) bool {
		for n := range 400 {
			if guess(l, from(n), n) == http.StatusTooManyRequests {
				return true
			}
		}
		return false
	}
	require.True(t, limited(setup(t), func(n int) string { return fmt.Sprintf("192.0.2.%d", n) }), "an invented address is a fresh one")

	proxied := setupWith(t, changes{trustedProxies: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}})
	require.True(t, limited(proxied, func(n int) string { return fmt.Sprintf("203.0.113.%d, 192.0.2.1", n%200) }))
	require.Equal(t, http.StatusUnauthorized, guess(proxied, "192.0.2.2", 1000), "another address pays for it")
	proxied.signedIn("syt_admin")
}

// Streams that many users hold open are bounded, and leave nothing when they end. HEAD holds
// none.
func TestManyFollowers(t *testing.T) {
	t.Parallel()
	l := setup(t)
	l.Exec(`INSERT INTO users (name, admin, is_guest, locked, deactivated) SELECT '@u' || n || ':x', 1, 0, false, 0 FROM generate_series(1, 30) n`)
	l.Exec(`INSERT INTO access_tokens (id, user_id, token) SELECT 100 + n, '@u' || n || ':x', 'syt_u' || n FROM generate_series(1, 30) n`)
	ctx, cancel := context.WithCancel(l.Ctx)
	defer cancel()
	follow := func(b *browser, method string) int {
		r, err := http.NewRequestWithContext(ctx, method, l.server.URL+root+"/live", nil)
		require.NoError(t, err)
		r.AddCookie(&http.Cookie{Name: cookie, Value: b.cookies[cookie]})
		response, err := l.server.Client().Do(r)
		require.NoError(t, err)
		t.Cleanup(func() { _ = response.Body.Close() })
		return response.StatusCode
	}
	answers := map[int]int{}
	var last *browser
	for n := range 30 {
		last = l.signedIn(fmt.Sprintf("syt_u%d", n+1))
		for range 4 {
			answers[follow(last, "GET")]++
		}
	}
	require.Equal(t, map[int]int{200: 100, 503: 20}, answers)
	for range 200 {
		require.Equal(t, http.StatusOK, follow(last, "HEAD"))
	}
	cancel()
	ctx = l.Ctx
	require.Eventually(t, func() bool { return follow(last, "GET") == http.StatusOK }, 30*time.Second, 50*time.Millisecond)
	l.server.CloseClientConnections()
}

// A client that sends or reads nothing is left.
func TestSlowClientsAreLeft(t *testing.T) {
	t.Parallel()
	l := setupWith(t, changes{timeout: 300 * time.Millisecond})
	connection, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", l.server.Listener.Addr().String())
	require.NoError(t, err)
	defer func() { _ = connection.Close() }()
	begun := time.Now()
	_, err = io.WriteString(connection, "POST "+root+"/sign-in HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-www-form-urlencoded\r\nContent-Length: 60000\r\n\r\ntoken=")
	require.NoError(t, err)
	require.NoError(t, connection.SetReadDeadline(time.Now().Add(30*time.Second)))
	answer, err := io.ReadAll(connection)
	require.NoError(t, err, "the connection is still open")
	require.Less(t, time.Since(begun), 20*time.Second)
	require.True(t, len(answer) == 0 || bytes.Contains(answer, []byte(" 400 ")), "%s", answer)
}
