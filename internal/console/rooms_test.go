package console_test

import (
	"fmt"
	"html"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"lethe/internal/store/storetest"
)

func TestRoomsArePlannedAndPurged(t *testing.T) {
	t.Parallel()
	l := setup(t)
	const room = "!room:x"
	l.Exec(`INSERT INTO room_stats_state (room_id, name, canonical_alias) VALUES ($1, $2, $2)`, room, markup)
	l.Chain(room, "m", 30, 0)
	l.Exec(`UPDATE events SET received_ts = 1000, origin_server_ts = 1000`)
	b, reader := l.signedIn("syt_admin"), l.signedIn("syt_support")

	list := b.get("/rooms").body
	require.Contains(t, list, "/_lethe/console/room?room=%21room%3ax")
	require.Contains(t, list, "&lt;script&gt;")
	require.NotContains(t, list, "<script>alert")
	require.Equal(t, http.StatusBadRequest, b.get("/rooms?from=odd").status)
	one := b.get("/room?room=" + url.QueryEscape(room))
	require.Equal(t, http.StatusOK, one.status, one.body)
	require.Contains(t, one.body, "30 events")
	require.Contains(t, one.body, "event_json")
	require.Equal(t, http.StatusNotFound, b.get("/room?room=!none:x").status)
	require.Equal(t, http.StatusBadRequest, b.get("/room").status)

	query := "room=" + url.QueryEscape(room) + "&kind=purge_history&before=" + time.Now().UTC().Format("2006-01-02T15:04") + "&local=true"
	plan := b.get("/room/plan?" + query)
	require.Equal(t, http.StatusOK, plan.status, plan.body)
	require.Regexp(t, `<strong>\d+ events</strong> are deleted`, plan.body)
	require.NotContains(t, reader.get("/room/plan?"+query).body, "/room/apply")
	for _, bad := range []string{"", "room=x&kind=delete_room", "kind=retention_sweep", "room=!room:x&kind=purge_history&before=x", "room=!room:x&kind=purge_history&before_ts=x"} {
		require.Equal(t, http.StatusBadRequest, b.get("/room/plan?"+bad).status, bad)
	}
	require.Zero(t, storetest.One[int](l.Lab, `SELECT count(*) FROM lethe.jobs`), "a plan has changed something")

	form := url.Values{"reason": {"tidy"}, "grace": {"24h"}}
	for _, field := range regexp.MustCompile(`type="hidden" name="(\w+)" value="([^"]*)"`).FindAllStringSubmatch(plan.body, -1) {
		form.Set(field[1], field[2])
	}
	require.NotEmpty(t, form.Get("plan"))
	apply := func(b *browser, changes ...string) page {
		sent := url.Values{}
		for name, values := range form {
			sent[name] = values
		}
		sent.Set("proof", b.proof())
		for i := 0; i < len(changes); i += 2 {
			sent.Set(changes[i], changes[i+1])
		}
		return b.send("POST", root+"/room/apply", sent)
	}
	require.Equal(t, http.StatusForbidden, apply(reader).status)
	require.Equal(t, http.StatusForbidden, apply(b, "proof", "x").status)
	require.Equal(t, http.StatusBadRequest, apply(b, "plan", "").status, "without a plan")
	require.Equal(t, http.StatusBadRequest, apply(b, "plan", "x").status)
	require.Equal(t, http.StatusConflict, apply(b, "kind", "delete_room").status, "with the plan of another job")
	require.Equal(t, http.StatusBadRequest, apply(b, "grace", "soon").status)
	require.Zero(t, storetest.One[int](l.Lab, `SELECT count(*) FROM lethe.jobs`))

	accepted := apply(b)
	require.Equal(t, http.StatusSeeOther, accepted.status, accepted.body)
	require.Equal(t, "@admin:x tidy scheduled", storetest.One[string](l.Lab, `SELECT requester || ' ' || reason || ' ' || state FROM lethe.jobs`))
	require.Contains(t, b.send("GET", accepted.header.Get("Location"), nil).body, "The job is accepted.")

	deletes := b.get("/room/plan?kind=delete_room&room=" + url.QueryEscape(room)).body
	require.Contains(t, deletes, "0 users of this server leave")
	require.Contains(t, deletes, "0 aliases go. ")
	require.Contains(t, deletes, "Delete the room")

	// The room changes after the plan.
	l.Exec(`INSERT INTO events (event_id, room_id, type, topological_ordering, depth, stream_ordering, processed, outlier, received_ts, origin_server_ts)
		SELECT '$late' || n, $1, 'm.room.message', 2, 2, 1000 + n, true, false, 1000, 1000 FROM generate_series(1, 5) n`, room)
	drifted := apply(b)
	require.Equal(t, http.StatusConflict, drifted.status, drifted.body)
	require.Equal(t, 1, storetest.One[int](l.Lab, `SELECT count(*)::int FROM lethe.jobs`))
}

func TestRoomsAreSearchedAndBlocked(t *testing.T) {
	t.Parallel()
	l := setup(t)
	const room = "!room:x"
	l.Chain(room, "m", 30, 0)
	l.Exec(`INSERT INTO room_stats_state (room_id, name, canonical_alias) VALUES ($1, $2, $2)`, room, "Kitchen "+markup)
	l.Exec(`UPDATE events SET origin_server_ts = $1`, time.Now().UnixMilli())
	l.Exec(`INSERT INTO current_state_events (event_id, room_id, type, state_key, membership) VALUES ('$m', $1, 'm.room.member', $2 || ':x', $2)`, room, "@"+markup)
	l.Exec(`INSERT INTO local_current_membership (room_id, user_id, event_id, membership) VALUES ($1, $2, '$m', 'join')`, room, "@"+markup+":x")
	l.Exec(`INSERT INTO rooms (room_id) SELECT '!many' || n || repeat('<', 230) || ':x' FROM generate_series(1, 60) n`)
	b, reader := l.signedIn("syt_admin"), l.signedIn("syt_support")
	clean := func(p page) string {
		require.Equal(t, http.StatusOK, p.status, p.body)
		require.Equal(t, 1, strings.Count(p.body, "<script"))
		require.NotContains(t, p.body, "<img")
		require.Less(t, len(p.body), maxPage)
		return p.body
	}
	require.Contains(t, clean(b.get("/rooms?search=kitchen")), "/_lethe/console/room?room=%21room%3ax")
	require.Contains(t, clean(b.get("/rooms?search="+url.QueryEscape(markup))), "/_lethe/console/room?room=%21room%3ax")
	require.Contains(t, clean(b.get("/rooms?search=none")), "No room has this in its name")
	require.Contains(t, clean(b.get("/rooms?search=!none:x")), "What is left of it")
	many := clean(b.get("/rooms?search=many"))
	next := regexp.MustCompile(`rel="next" href="([^"]+)"`).FindStringSubmatch(many)
	require.NotNil(t, next)
	require.Equal(t, 10, strings.Count(clean(b.send("GET", strings.ReplaceAll(next[1], "&amp;", "&"), nil)), `data-label="Room"`))
	require.Equal(t, http.StatusBadRequest, b.get("/rooms?search=%00").status)

	one := clean(b.get("/room?room=" + url.QueryEscape(room)))
	require.Contains(t, one, time.Now().UTC().Format("2006-01")+": 30 events</title>")
	require.Contains(t, one, "Joined users of this server")
	require.Contains(t, one, "block it …")
	require.NotContains(t, clean(reader.get("/room?room="+url.QueryEscape(room))), "/room/block")
	require.Equal(t, http.StatusForbidden, reader.get("/room/block?room="+url.QueryEscape(room)).status)
	require.Equal(t, http.StatusNotFound, b.get("/room/block?room=!none:x").status)

	set := func(b *browser, do, proof string) page {
		return b.send("POST", root+"/room/block", url.Values{"proof": {proof}, "room": {room}, "do": {do}})
	}
	require.Equal(t, http.StatusForbidden, set(reader, "block", reader.proof()).status)
	require.Equal(t, http.StatusForbidden, set(b, "block", "").status)
	require.Equal(t, http.StatusBadRequest, set(b, "odd", b.proof()).status)
	require.Zero(t, storetest.One[int](l.Lab, `SELECT count(*)::int FROM blocked_rooms`))
	require.Contains(t, clean(b.get("/room/block?room="+url.QueryEscape(room))), "cannot join the room")
	p := set(b, "block", b.proof())
	require.Equal(t, http.StatusSeeOther, p.status, p.body)
	one = clean(b.send("GET", p.header.Get("Location"), nil))
	require.Contains(t, one, "The room is blocked. Users of this server cannot join it.")
	require.Contains(t, one, "blocked by @admin:x")
	require.Equal(t, "console", storetest.One[string](l.Lab, `SELECT way FROM lethe.audit WHERE action = 'block'`))
	require.Contains(t, clean(b.get("/room/block?room="+url.QueryEscape(room))), "End the block")
	require.Equal(t, http.StatusSeeOther, set(b, "unblock", b.proof()).status)
	require.Zero(t, storetest.One[int](l.Lab, `SELECT count(*)::int FROM blocked_rooms`))
}

// The longest ids and names that there are, of characters that take the most bytes in a page.
func TestPagesOfRoomsStaySmall(t *testing.T) {
	t.Parallel()
	l := setup(t)
	room := "!" + strings.Repeat(`"`, 252) + ":x"
	l.Exec(`INSERT INTO rooms (room_id, is_public, creator, room_version) SELECT '!' || n || right($1, 250), false, '@a:x', '10' FROM generate_series(10, 69) n`, room)
	l.Exec(`INSERT INTO state_groups (id, room_id, event_id) SELECT n, '!' || n || right($1, 250), '$e' FROM generate_series(10, 69) n`, room)
	l.Exec(`INSERT INTO room_stats_state (room_id, name, canonical_alias) SELECT '!' || n || right($1, 250), repeat('"', 255), '#' || right($1, 254) FROM generate_series(10, 69) n`, room)
	one := url.QueryEscape("!10" + room[len(room)-250:])
	l.Exec(`INSERT INTO local_current_membership (room_id, user_id, event_id, membership)
		SELECT '!10' || right($1, 250), '@' || n || repeat('"', 240) || ':x', '$m' || n, 'join' FROM generate_series(1, 500) n`, room)
	l.Exec(`INSERT INTO room_aliases (room_alias, room_id, creator)
		SELECT '#' || n || repeat('"', 240) || ':x', '!10' || right($1, 250), '@a:x' FROM generate_series(1, 500) n`, room)
	b := l.signedIn("syt_admin")
	for path, text := range map[string]string{"/rooms": "Smaller rooms", "/room?room=" + one: "Space by table", "/room/plan?kind=delete_room&room=" + one: "and others"} {
		p := b.get(path)
		require.Equal(t, http.StatusOK, p.status, "%s: %s", path, p.body)
		require.Less(t, len(p.body), maxPage, path)
		require.Contains(t, p.body, text, path)
	}
}

// What has a meaning to LIKE is looked for as it is.
func TestSearchIsLiteral(t *testing.T) {
	t.Parallel()
	l := setup(t)
	names := []string{"100 percent", "100% sure", "snake_case", "snakeXcase", `back\slash`, "backslash", "O'Neil", "naïve", "UPPER"}
	for i, name := range names {
		room := fmt.Sprintf("!r%d:x", i)
		l.Exec(`INSERT INTO rooms (room_id) VALUES ($1)`, room)
		l.Exec(`INSERT INTO room_stats_state (room_id, name) VALUES ($1, $2)`, room, name)
	}
	b := l.signedIn("syt_admin")
	for text, found := range map[string][]string{
		"%": {"100% sure"}, "_": {"snake_case"}, `\`: {`back\slash`}, "%%": nil, `\%`: nil, "%_": nil, "0%25": nil, "'": {"O'Neil"}, "e_c": {"snake_case"}, "ï": {"naïve"},
		"upper": {"UPPER"}, ".*": nil, strings.Repeat("%", 255): nil, strings.Repeat(`\`, 255): nil, strings.Repeat("𝕏", 255): nil, "' OR ''='": nil, "\u202e": nil,
	} {
		p := b.get("/rooms?search=" + url.QueryEscape(text))
		require.Equal(t, http.StatusOK, p.status, "%q: %s", text, p.body)
		var listed []string
		for _, row := range regexp.MustCompile(`<td data-label="Room"><a [^>]*>([^<]*)</a>`).FindAllStringSubmatch(p.body, -1) {
			listed = append(listed, html.UnescapeString(row[1]))
		}
		require.Equal(t, found, listed, "%q", text)
	}
	for _, text := range []string{strings.Repeat("a", 256), strings.Repeat("𝕏", 256), "\x00", "a\xff"} {
		require.Equal(t, http.StatusBadRequest, b.get("/rooms?search="+url.QueryEscape(text)).status, "%.20q", text)
	}
}
