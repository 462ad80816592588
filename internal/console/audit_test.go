package console_test

import (
	"encoding/base64"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"lethe/internal/store/storetest"
)

func TestAudit(t *testing.T) {
	t.Parallel()
	l := setup(t)
	b, reader := l.signedIn("syt_admin"), l.signedIn("syt_support")
	require.Contains(t, b.get("/audit").body, "Nothing of that kind is recorded.")
	id := l.Queue("!a:x")
	require.Equal(t, http.StatusSeeOther, b.send("POST", root+"/jobs/"+id+"/cancel", url.Values{"proof": {b.proof()}, "reason": {"why " + markup}}).status)
	require.Equal(t, "console", storetest.One[string](l.Lab, `SELECT way FROM lethe.audit`))
	l.Exec(`INSERT INTO lethe.audit (at, who, action, subject, room_id, detail) VALUES
		(to_timestamp(86400), '@old:x', 'set_limits', 'purge_history', NULL, '{"jobs":3,"rows_per_second":null,"before":{"jobs":null,"rows_per_second":5000}}'),
		(to_timestamp(86400), $1, $1, $1, $1, jsonb_build_object($1::text, $1::text, 'before', $1::text))`, markup)
	for _, browser := range []*browser{b, reader} {
		p := browser.get("/audit")
		require.Equal(t, http.StatusOK, p.status, p.body)
		require.Contains(t, p.body, "by console")
		require.Contains(t, p.body, "why ")
		require.Contains(t, p.body, "jobs: 3, rows per second: not set; before that jobs: not set, rows per second: 5,000")
		require.Equal(t, 1, strings.Count(p.body, "<script"))
		require.NotContains(t, p.body, "<img")
	}
	for query, n := range map[string]int{
		"action=cancel": 1, "action=hold": 0, "way=console": 1, "who=%40old%3Ax": 1, "room=!a:x": 1, "job=" + id: 1,
		"since=1970-01-02T00:00&before=1970-01-03T00:00": 2, "since=2020-01-01T00:00": 1, "": 3,
	} {
		p := b.get("/audit?" + query)
		require.Equal(t, http.StatusOK, p.status, query)
		require.Equal(t, n, strings.Count(p.body, `data-label="Who"`), query)
	}
	for _, query := range []string{"action=odd", "way=odd", "since=x", "before=1900-01-01T00:00", "from=odd", "who=%00"} {
		require.Equal(t, http.StatusBadRequest, b.get("/audit?"+query).status, query)
	}
}

func TestLongAuditIsSmallPages(t *testing.T) {
	t.Parallel()
	l := setup(t)
	l.Exec(`INSERT INTO lethe.audit (who, way, action, subject, room_id, reason) SELECT '@' || repeat('"', 254), 'api', 'hold', n::text, '!' || repeat('"', 254), repeat('"', 1000) FROM generate_series(1, 120) n`)
	l.Exec(`UPDATE lethe.audit SET job_id = 'AAAAAAAAAAAAAAAA', detail = jsonb_build_object('new', repeat('"', 1000), 'before', jsonb_build_object('old', repeat('"', 1000)))`)
	b := l.signedIn("syt_admin")
	seen, path := 0, root+"/audit?action=hold"
	for range 5 {
		p := b.send("GET", path, nil)
		require.Equal(t, http.StatusOK, p.status)
		require.Less(t, len(p.body), maxPage)
		seen += strings.Count(p.body, `data-label="Who"`)
		found := regexp.MustCompile(`rel="next" href="([^"]+)"`).FindStringSubmatch(p.body)
		if found == nil {
			break
		}
		path = strings.ReplaceAll(found[1], "&amp;", "&")
	}
	require.Equal(t, 120, seen)
}

// A place in a list that no page has given leads to a page or is refused.
func TestForgedPlacesOfPages(t *testing.T) {
	t.Parallel()
	l := setup(t)
	l.Exec(`INSERT INTO lethe.audit (who, way, action) VALUES ('@a:x', 'api', 'hold')`)
	l.Exec(`INSERT INTO rooms (room_id) VALUES ('!a:x')`)
	b := l.signedIn("syt_admin")
	for _, place := range []string{
		"", " ", "0", "0 0", "0 -9223372036854775808", "253402300799999999 9223372036854775807", "253402300800000000 0", "-1 0", "9223372036854775807 0", "1  2", "1 2 3", "\x00 \x00",
		"null", "{}", "[]", `"a"`, `[1,"!a:x"]`, `{"Bytes":-9223372036854775808,"Room":"!a:x"}`, `{"Bytes":9223372036854775807,"Room":"\u0000"}`, `{"Bytes":1e400,"Room":"!a:x"}`,
		`{"bytes":1,"room":"\ud800"}`, `{"b":1,"r":"' OR 1=1 --"}`, strings.Repeat("[", 3000), "\xff\xfe",
	} {
		for _, encoding := range []*base64.Encoding{base64.RawURLEncoding, base64.StdEncoding} {
			for _, path := range []string{"/audit?from=", "/rooms?from=", "/rooms?search=a&from=", "/jobs?from="} {
				p := b.get(path + url.QueryEscape(encoding.EncodeToString([]byte(place))))
				require.Contains(t, []int{http.StatusOK, http.StatusBadRequest}, p.status, "%s %.60q: %s", path, place, p.body)
				require.Less(t, len(p.body), maxPage)
			}
		}
	}
}
