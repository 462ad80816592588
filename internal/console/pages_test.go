package console_test

import (
	"bufio"
	"context"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"lethe/internal/store/storetest"
)

func storetestState(l *lab, id string) string {
	l.T.Helper()
	return storetest.One[string](l.Lab, `SELECT state FROM lethe.jobs WHERE id = $1`, id)
}

// maxPage is the most bytes of a page.
const maxPage = 200_000

func TestHeaders(t *testing.T) {
	t.Parallel()
	l := setup(t)
	b := l.signedIn("syt_admin")
	id := l.Queue("!a:x")
	nonces := map[string]bool{}
	for path, status := range map[string]int{
		"/": 200, "/jobs": 200, "/jobs/" + id: 200, "/jobs/" + id + "/cancel": 200, "/sign-in": 200, "/nothing": 404,
		"/jobs/" + id + "/nothing": 404, "/jobs/AAAAAAAAAAAAAAAA": 404, "/jobs?state=odd": 400, "/jobs?from=odd": 400, "/sign-out": 405,
	} {
		p := b.get(path)
		require.Equal(t, status, p.status, path)
		policy := p.header.Get("Content-Security-Policy")
		found := regexp.MustCompile(`^default-src 'none'; script-src 'nonce-(\w{20,})'; style-src 'nonce-(\w{20,})'; img-src 'self'; connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'$`).FindStringSubmatch(policy)
		require.NotNil(t, found, policy)
		require.False(t, nonces[found[1]], "a nonce is used twice")
		nonces[found[1]] = true
		require.Equal(t, 2, strings.Count(p.body, `nonce="`+found[1]+`"`), path)
		require.Equal(t, "no-store", p.header.Get("Cache-Control"))
		require.Equal(t, "nosniff", p.header.Get("X-Content-Type-Options"))
		require.Equal(t, "same-origin", p.header.Get("Referrer-Policy"))
		require.Equal(t, "DENY", p.header.Get("X-Frame-Options"))
		require.Equal(t, "text/html; charset=utf-8", p.header.Get("Content-Type"))
		require.Empty(t, p.header.Get("Access-Control-Allow-Origin"), "other sites may read it")
		require.NotRegexp(t, `(?i) style=| on\w+=|<style`, p.body, path)
	}
	page := b.get("/").body
	for _, name := range []string{"css", "js", "svg"} {
		found := regexp.MustCompile(`"(/_lethe/console/static/\w+\.[0-9a-f]{16}\.` + name + `)"`).FindStringSubmatch(page)
		require.NotNil(t, found, name)
		p := l.browser().send("GET", found[1], nil)
		require.Equal(t, http.StatusOK, p.status)
		require.Equal(t, "public, max-age=31536000, immutable", p.header.Get("Cache-Control"))
		require.Equal(t, "nosniff", p.header.Get("X-Content-Type-Options"))
	}
	require.Equal(t, http.StatusNotFound, b.get("/static/console.css").status)
	require.NotRegexp(t, `(?:src|href|action)="(?:https?:)?//`, page, "it loads something from elsewhere")
	require.Equal(t, http.StatusOK, b.send("HEAD", root+"/", nil).status)
	for _, path := range []string{"/_lethe/console/../v1/jobs", "/_lethe/consoles", "/_lethe/Console/"} {
		require.NotEqual(t, http.StatusOK, b.send("GET", path, nil).status, path)
	}
}

// markup is what must not become markup.
const markup = `"><script>alert(1)</script><img src=x onerror=alert(2)>{{.Proof}}`

func TestStoredMarkupStaysText(t *testing.T) {
	t.Parallel()
	l := setup(t)
	room := "!" + markup + ":x"
	id, failed := l.Queue(room), l.Queue("!b:x")
	l.Exec(`UPDATE lethe.jobs SET requester = $2, waits_for = $2, waits_since = now(), last_failure = $2, worker = $2, reason = $2, deleted = jsonb_build_object($2::text, 7),
		parameters = parameters || jsonb_build_object('message', $2::text, 'new_room_name', $2::text) WHERE id = $1`, id, markup)
	l.Exec(`UPDATE lethe.jobs SET state = 'failed', error = $2, ended_at = now() WHERE id = $1`, failed, markup)
	l.Exec(`INSERT INTO lethe.job_events (job_id, event, who, reason, detail) VALUES ($1, 'cancel', $2, $2, jsonb_build_object($2::text, $2::text))`, id, markup)
	b := l.signedIn("syt_admin")
	for _, path := range []string{
		"/", "/jobs", "/jobs/" + id, "/jobs/" + failed, "/jobs/" + id + "/cancel", "/jobs?room=" + url.QueryEscape(room),
		"/jobs?requester=" + url.QueryEscape(markup), "/jobs?state=" + url.QueryEscape(markup), "/jobs/" + url.PathEscape(markup),
		"/sign-in?next=" + url.QueryEscape(root+"/"+markup), "/jobs?room=" + url.QueryEscape(markup), "/jobs/" + id + "?done=" + url.QueryEscape(markup),
	} {
		body := b.get(path).body
		require.Contains(t, body, "</html>", path)
		require.NotContains(t, body, "<script>alert", path)
		require.NotContains(t, body, "<img", path)
		require.Equal(t, 1, strings.Count(body, "<script"), path)
	}
	require.Contains(t, b.get("/jobs/"+id).body, "&lt;script&gt;alert(1)&lt;/script&gt;")
	require.Contains(t, b.get("/").body, "{{.Proof}}", "it was taken for a template")
}

func TestPagesStaySmall(t *testing.T) {
	t.Parallel()
	l := setup(t)
	l.Exec(`
		INSERT INTO lethe.jobs (id, kind, room_id, state, parameters, requester, created_at, waits_for, waits_since, ended_at, error)
		SELECT lpad(translate(n::text, '0123456789', 'abcdefghij'), 16, 'A'), 'purge_history', '!' || n || repeat('"', 240) || ':x',
			CASE n % 2 WHEN 0 THEN 'queued' ELSE 'failed' END, '{}', '@' || repeat('"', 240) || ':x', now() - n * interval '1 second',
			CASE n % 2 WHEN 0 THEN repeat('"', CASE WHEN n <= 300 THEN 2000 ELSE 1 END) END, CASE n % 2 WHEN 0 THEN now() END, CASE n % 2 WHEN 1 THEN now() - n * interval '1 second' END, CASE n % 2 WHEN 1 THEN repeat('"', CASE WHEN n <= 300 THEN 2000 ELSE 1 END) END
		FROM generate_series(1, 10000) n`)
	b := l.signedIn("syt_admin")
	begun := time.Now()
	p := b.get("/")
	require.Equal(t, http.StatusOK, p.status)
	require.Less(t, time.Since(begun), 20*time.Second)
	require.Less(t, len(p.body), maxPage)
	require.Contains(t, p.body, "30+")

	// Every job is on exactly one page of the list.
	seen := map[string]bool{}
	link := regexp.MustCompile(`href="/_lethe/console/jobs/(\w{16})"`)
	next := regexp.MustCompile(`rel="next" href="([^"]+)"`)
	path := root + "/jobs?state=failed"
	for range 101 {
		p := b.send("GET", path, nil)
		require.Equal(t, http.StatusOK, p.status)
		require.Less(t, len(p.body), maxPage)
		for _, found := range link.FindAllStringSubmatch(p.body, -1) {
			require.False(t, seen[found[1]])
			seen[found[1]] = true
		}
		found := next.FindStringSubmatch(p.body)
		if found == nil {
			break
		}
		path = strings.ReplaceAll(found[1], "&amp;", "&")
		require.Contains(t, path, "state=failed")
	}
	require.Len(t, seen, 5000)

	id := storetest.One[string](l.Lab, `SELECT max(id) FROM lethe.jobs WHERE state = 'queued'`)
	l.Exec(`INSERT INTO lethe.job_events (job_id, event, who, reason) SELECT $1, 'pause', '@admin:x', repeat('ü', 1000) FROM generate_series(1, 2000)`, id)
	p = b.get("/jobs/" + id)
	require.Equal(t, http.StatusOK, p.status)
	require.Less(t, len(p.body), maxPage)
	require.Contains(t, p.body, "lethe job show "+id)
}

func TestVerbs(t *testing.T) {
	t.Parallel()
	l := setup(t)
	id := l.Queue("!a:x")
	b := l.signedIn("syt_admin")
	post := func(verb string, form url.Values) page {
		form.Set("proof", b.proof())
		return b.send("POST", root+"/jobs/"+id+"/"+verb, form)
	}
	body := b.get("/jobs/" + id).body
	for verb, offered := range map[string]bool{"cancel": true, "pause": true, "priority": true, "resume": false, "retry": false} {
		require.Equal(t, offered, strings.Contains(body, `href="/_lethe/console/jobs/`+id+"/"+verb+`"`), verb)
	}
	require.Contains(t, b.get("/jobs/"+id+"/retry").body, "The job cannot be retried")
	require.Contains(t, b.get("/jobs/"+id+"/cancel").body, "What is deleted stays deleted")

	require.Equal(t, http.StatusSeeOther, post("pause", url.Values{"for": {"8h"}, "reason": {" for <the> night "}}).status)
	require.Equal(t, "paused", storetestState(l, id))
	require.Equal(t, "for <the> night", storetest.One[string](l.Lab, `SELECT reason FROM lethe.job_events WHERE event = 'pause'`))
	require.Equal(t, "@admin:x", storetest.One[string](l.Lab, `SELECT who FROM lethe.job_events WHERE event = 'pause'`))
	until := storetest.One[time.Time](l.Lab, `SELECT until FROM lethe.pauses`)
	require.WithinDuration(t, time.Now().Add(8*time.Hour), until, time.Minute)
	require.Contains(t, b.get("/jobs/"+id+"?done=pause").body, "The job is paused.")
	require.Contains(t, b.get("/").body, "for &lt;the&gt; night")
	require.Regexp(t, `<td data-label="Event" class="nowrap">pause</td><td data-label="Who"><span class="clip">@admin:x</span></td><td data-label="Details">for &lt;the&gt; night <span class="faint">.*until: \d{4}-`, b.get("/jobs/"+id).body)
	require.Equal(t, http.StatusBadRequest, post("pause", url.Values{"for": {"9999h"}}).status)

	require.Equal(t, http.StatusSeeOther, post("resume", url.Values{}).status)
	require.Equal(t, http.StatusSeeOther, post("priority", url.Values{"queue": {"low"}}).status)
	require.Equal(t, "low", storetest.One[string](l.Lab, `SELECT queue FROM lethe.jobs WHERE id = $1`, id))
	require.Equal(t, http.StatusBadRequest, post("priority", url.Values{"queue": {"none"}}).status)
	require.Equal(t, http.StatusBadRequest, post("cancel", url.Values{"reason": {strings.Repeat("x", 1001)}}).status)
	require.Equal(t, http.StatusBadRequest, post("cancel", url.Values{"reason": {"\x00"}}).status)
	require.Equal(t, http.StatusSeeOther, post("cancel", url.Values{}).status)

	// A second tab still has the page on which the job could be cancelled.
	p := post("cancel", url.Values{})
	require.Equal(t, http.StatusConflict, p.status)
	require.Contains(t, p.body, "The job cannot be cancelled")
	require.Contains(t, p.body, "Go back and reload the page: its state may have changed since.")
	require.Equal(t, http.StatusNotFound, post("nothing", url.Values{}).status)
	require.Equal(t, http.StatusSeeOther, post("retry", url.Values{}).status)
	require.Contains(t, l.log.String(), "route=/_lethe/console/jobs/{job}/{verb} status=303")
	require.Contains(t, l.log.String(), "requester=@admin:x")
}

// stream follows a page and returns its events, until it ends.
func (b *browser) stream(t *testing.T, path string) (events func() string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, b.l.server.URL+root+path, nil)
	require.NoError(t, err)
	r.AddCookie(&http.Cookie{Name: cookie, Value: b.cookies[cookie]})
	response, err := b.l.server.Client().Do(r)
	require.NoError(t, err)
	t.Cleanup(func() { _ = response.Body.Close() })
	require.Equal(t, http.StatusOK, response.StatusCode)
	require.Equal(t, "text/event-stream", response.Header.Get("Content-Type"))
	lines := bufio.NewScanner(response.Body)
	lines.Buffer(nil, 1<<20)
	return func() string {
		var event strings.Builder
		for lines.Scan() && lines.Text() != "" {
			event.WriteString(lines.Text() + "\n")
		}
		return event.String()
	}
}

// until returns the first event with the text.
func until(t *testing.T, events func() string, text string) string {
	t.Helper()
	for {
		event := events()
		require.NotEmpty(t, event, "the stream has ended before %s", text)
		if strings.Contains(event, text) {
			return event
		}
	}
}

func TestPagesAreLive(t *testing.T) {
	t.Parallel()
	l := setup(t)
	id := l.Queue("!a:x")
	b := l.signedIn("syt_admin")
	overview, job := b.stream(t, "/live"), b.stream(t, "/jobs/"+id+"/live")
	require.Contains(t, until(t, overview, id), "event: part\n")
	until(t, job, "queued")
	require.Equal(t, http.StatusSeeOther, b.send("POST", root+"/jobs/"+id+"/cancel", url.Values{"proof": {b.proof()}}).status)
	until(t, job, "cancelled")
	require.Contains(t, job(), "data: over")
	require.Empty(t, job())
	until(t, overview, "No job waits.")
	require.Equal(t, http.StatusNotFound, b.get("/jobs/AAAAAAAAAAAAAAAA/live").status)

	// The stream ends with the session, within the interval at which it is checked.
	l.Exec(`DELETE FROM access_tokens WHERE token = 'syt_admin'`)
	require.Contains(t, until(t, overview, "signed out"), "event: end\n")
	require.Empty(t, overview())
	require.Equal(t, http.StatusUnauthorized, b.get("/live").status)
}

func TestFollowersAreBounded(t *testing.T) {
	t.Parallel()
	l := setup(t)
	b := l.signedIn("syt_admin")
	for range 4 {
		until(t, b.stream(t, "/live"), "No job runs.")
	}
	p := b.get("/live")
	require.Equal(t, http.StatusServiceUnavailable, p.status)
	require.Equal(t, "10", p.header.Get("Retry-After"))
	until(t, l.signedIn("syt_other").stream(t, "/live"), "No job runs.")
}

func TestStreamEndsAtTheSessionsTime(t *testing.T) {
	t.Parallel()
	l := setupFor(t, 2*time.Second)
	events := l.signedIn("syt_admin").stream(t, "/live")
	until(t, events, "signed out")
	require.Empty(t, events())
}

func TestJobShowsItsBatchesAndItsVacuum(t *testing.T) {
	t.Parallel()
	l := setup(t)
	id := l.Queue("!a:x")
	b := l.signedIn("syt_admin")
	require.NotContains(t, b.get("/jobs/"+id).body, `id="pace"`)
	l.Exec(`
		UPDATE lethe.jobs SET state = 'complete', ended_at = to_timestamp(100), started_at = to_timestamp(10),
			samples = '{"gap_ms":500,"points":[[20000,100],[30000,1100]]}', vacuum = $2
		WHERE id = $1`, id, `{"state":"running","generation":1,"index_walk":{"state":"skipped","reason":"`+strings.ReplaceAll(markup, `"`, `\"`)+`","seconds":0},
			"tables":[{"name":"events","state":"done","seconds":2,"space":{"bytes":4096,"dead_bytes":0,"reusable_bytes":2048}},{"name":"redactions","state":"skipped","reason":"few rows"}]}`)
	body := b.get("/jobs/" + id).body
	for _, text := range []string{
		`1970-01-01 00:00:20 UTC to 1970-01-01 00:00:30 UTC: 100/s`, "upper line: 100 events/s", `<h2 id="vacuum">Vacuum <span class="badge">running</span>`,
		"few rows", "2 KiB", `data-copy="` + id + `"`, `aria-label="events per second between batches`,
	} {
		require.Contains(t, body, text)
	}
	require.Equal(t, 1, strings.Count(body, "<script"))
	l.Exec(`UPDATE lethe.jobs SET samples = jsonb_build_object('gap_ms', 1, 'points', (SELECT jsonb_agg(jsonb_build_array(n * 1e12, n)) FROM generate_series(1, 200) n)) WHERE id = $1`, id)
	p := b.get("/jobs/" + id)
	require.Equal(t, http.StatusOK, p.status)
	require.Less(t, len(p.body), maxPage)
}
