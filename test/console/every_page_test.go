package console

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"net/http"
	"net/http/httptest"
	"net/url"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/chromedp/chromedp"
	"github.com/stretchr/testify/require"
)

// notPages are the routes that answer with no page of their own.
var notPages = map[string]string{
	"":               "leads to the overview",
	"/static/{name}": "a style, a script or a picture",
}

// pagesOf returns the routes of the console that answer GET with a page, as its source has
// them.
func pagesOf(t *testing.T) (routes []string) {
	t.Helper()
	files, err := filepath.Glob("../../internal/console/*.go")
	require.NoError(t, err)
	for _, file := range files {
		parsed, err := parser.ParseFile(token.NewFileSet(), file, nil, 0)
		require.NoError(t, err)
		ast.Inspect(parsed, func(node ast.Node) bool {
			call, ok := node.(*ast.CallExpr)
			if !ok || nameOf(call.Fun) != "handle" || len(call.Args) != 3 {
				return true
			}
			method, err := strconv.Unquote(call.Args[0].(*ast.BasicLit).Value)
			require.NoError(t, err)
			path, err := strconv.Unquote(call.Args[1].(*ast.BasicLit).Value)
			require.NoError(t, err)
			handler, isCall := call.Args[2].(*ast.CallExpr)
			if method == http.MethodGet && notPages[path] == "" && (!isCall || nameOf(handler.Fun) != "follower") {
				routes = append(routes, path)
			}
			return true
		})
	}
	require.Greater(t, len(routes), 10)
	return routes
}

// nameOf returns the name of a method that is called.
func nameOf(called ast.Expr) string {
	if selector, ok := called.(*ast.SelectorExpr); ok {
		return selector.Sel.Name
	}
	return ""
}

// visits are the pages that a test has seen, by the routes that they match.
type visits struct {
	mux  *http.ServeMux
	seen map[string]bool
}

func newVisits(routes []string) *visits {
	v := &visits{http.NewServeMux(), map[string]bool{}}
	for _, route := range routes {
		v.mux.HandleFunc("GET "+root+route, func(http.ResponseWriter, *http.Request) {})
	}
	return v
}

// note notes the page of a path.
func (v *visits) note(path string) {
	_, pattern := v.mux.Handler(httptest.NewRequest(http.MethodGet, root+path, nil))
	v.seen[strings.TrimPrefix(pattern, "GET "+root)] = true
}

// The longest id that Matrix allows, of a room and of a user, and a name without a space.
var (
	longRoom = "!" + strings.Repeat("R", 242) + ":example.org"
	longUser = "@" + strings.Repeat("u", 242) + ":example.org"
	longName = strings.Repeat("Wörter", 42)
)

// crowd fills the database with 100 jobs in all states, 100 rooms and 60 holds, with the
// longest ids and texts. All jobs are paused, so that they stay as they are.
const crowd = `
INSERT INTO lethe.pauses (scope, value, who, reason, until) VALUES
	('all', 'all', :'user', 'The database is being moved to another disk, ' || repeat('and this takes long ', 20), NULL),
	('kind', 'delete_room', :'user', repeat('W', 300), now() + interval '1 day');
CREATE TEMP TABLE new AS
	SELECT n, lpad(translate(n::text, '0123456789', 'abcdefghij'), 16, 'Q') AS id,
		(ARRAY['paused', 'scheduled', 'held', 'running', 'complete', 'failed', 'cancelled'])[1 + n % 7] AS state,
		(ARRAY['purge_history', 'retention_sweep', 'abandoned_sweep'])[1 + n % 3] AS kind
	FROM generate_series(1, 100) n;
INSERT INTO lethe.jobs (id, kind, room_id, parameters, requester, state, created_at, started_at, heartbeat_at, updated_at, ended_at, error,
	last_failure, waits_for, waits_since, reason, worker, total, due_at, queue, deleted, checkpoint)
SELECT id, kind, CASE kind WHEN 'purge_history' THEN CASE WHEN n % 2 = 0 THEN :'room' ELSE '!short' || n || ':example.org' END ELSE '' END, '{}',
	CASE WHEN n % 3 = 0 THEN '' WHEN n % 2 = 0 THEN :'user' ELSE '@admin:example.org' END, state, now() - n * interval '1 minute',
	CASE WHEN state IN ('running', 'complete', 'failed', 'cancelled') THEN now() - n * interval '30 seconds' END,
	CASE state WHEN 'running' THEN now() + interval '1 day' END, now(),
	CASE WHEN state IN ('complete', 'failed', 'cancelled') THEN now() - n * interval '20 seconds' END,
	CASE state WHEN 'failed' THEN 'delete a batch: ERROR: deadlock detected (SQLSTATE 40P01) ' || repeat('E', 400 * (n % 2)) END,
	CASE WHEN n % 5 = 0 THEN repeat('connection reset by peer; ', 20) END,
	CASE WHEN state IN ('paused', 'held') THEN 'a lease of ' || :'room' END, CASE WHEN state IN ('paused', 'held') THEN now() - interval '3 days' END,
	repeat('why ', 200), CASE state WHEN 'running' THEN repeat('worker', 20) || n END, CASE WHEN n % 4 > 0 THEN 9000000000 END,
	CASE state WHEN 'scheduled' THEN now() + interval '30 days' END, 'default',
	jsonb_build_object('events', 123456789012, 'event_json', 123456789012, 'e2e_room_keys_of_a_long_table_name', 7),
	jsonb_build_object('purge', jsonb_build_object('deleted_events', 123456789))
FROM new;
INSERT INTO lethe.job_events (job_id, at, event, who, reason, detail)
SELECT new.id, now() - (100 - i) * interval '1 minute', (ARRAY['queued', 'running', 'paused', 'priority'])[1 + i % 4], :'user', repeat('reason ', 100),
	jsonb_build_object('queue', 'low', 'until', 1790000000000)
FROM new, generate_series(1, 60) i WHERE n <= 7;
INSERT INTO lethe.holds (room_id, reason, placed_by)
SELECT '!' || n || right(:'room', 250), CASE WHEN n % 2 = 0 THEN repeat('Aktenzeichen', 60) ELSE 'Court order ' || n END, :'user' FROM generate_series(1, 60) n;
INSERT INTO lethe.holds (room_id, reason, placed_by, released_by, released_at) SELECT '!old' || :'room', 'over', :'user', :'user', now();
INSERT INTO rooms (room_id, is_public, creator, room_version) SELECT '!' || n || right(:'room', 250), false, :'user', '10' FROM generate_series(1, 100) n;
INSERT INTO state_groups (id, room_id, event_id) SELECT 1000000 + n * 100 + i, '!' || n || right(:'room', 250), '$e' FROM generate_series(1, 100) n, generate_series(1, 20) i;
INSERT INTO room_stats_state (room_id, name, canonical_alias) SELECT '!' || n || right(:'room', 250), CASE WHEN n % 2 = 0 THEN :'name' END, '#' || substr(:'room', 2) FROM generate_series(1, 100) n;
INSERT INTO blocked_rooms (room_id, user_id) SELECT '!1' || right(:'room', 250), :'user';
INSERT INTO local_current_membership (room_id, user_id, event_id, membership)
SELECT '!1' || right(:'room', 250), '@' || n || right(:'user', 250), '$m' || n, 'join' FROM generate_series(1, 60) n;
INSERT INTO current_state_events (event_id, room_id, type, state_key, membership)
SELECT '$crowd' || n, '!1' || right(:'room', 250), 'm.room.member', '@' || n || right(:'user', 250), (ARRAY['join', 'leave', 'ban', 'invite', 'knock'])[1 + n % 5] FROM generate_series(1, 90) n;
INSERT INTO events (event_id, room_id, type, topological_ordering, depth, stream_ordering, processed, outlier, received_ts, origin_server_ts)
SELECT '$crowd' || n, '!1' || right(:'room', 250), 'm.room.message', n, n, 100000000 + n, true, false, 0, 1000 * extract(epoch FROM now() - sqrt(n) * interval '2 months')::bigint
FROM generate_series(1, 900) n;
INSERT INTO lethe.audit (at, who, way, action, subject, room_id, job_id, reason, detail)
SELECT now() - n * interval '1 hour', CASE WHEN n % 2 = 0 THEN :'user' ELSE '@admin:example.org' END, (ARRAY['api', 'cli', 'console', NULL])[1 + n % 4],
	(ARRAY['request', 'cancel', 'hold', 'set_limits', 'block'])[1 + n % 5], CASE WHEN n % 5 < 2 THEN 'purge_history' END, CASE WHEN n % 3 > 0 THEN :'room' END,
	CASE WHEN n % 5 < 2 THEN 'QQQQQQQQQQQQQQQd' END, CASE WHEN n % 2 = 0 THEN repeat('Aktenzeichen', 80) ELSE 'asked for by their owner' END,
	CASE n % 5 WHEN 3 THEN '{"jobs": 3, "rows_per_second": null, "before": {"jobs": null, "rows_per_second": 5000}}' ELSE '{}' END::jsonb
FROM generate_series(1, 100) n;
INSERT INTO lethe.schedules (job, last_tick, next_tick, outcome, skipped)
SELECT 'not_in_the_settings_any_more_' || n, now() - n * interval '1 day', NULL, (ARRAY['noted', 'skipped'])[1 + n % 2], n % 2 FROM generate_series(1, 40) n;
INSERT INTO lethe.jobs (id, kind, room_id, parameters, requester, state, created_at, updated_at, waits_for, waits_since, checkpoint)
SELECT 'SSSSSSSSSSSSSSSa', 'retention_sweep', '', '{"job": "leap-day"}'::jsonb, :'user', 'paused', now(), now(), 'a lease of ' || :'room', now() - interval '3 days', '{}'::jsonb UNION ALL
SELECT 'SSSSSSSSSSSSSSSb', 'retention_sweep', '', jsonb_build_object('job', repeat('long-name', 7)), :'user', 'paused', now(), now(), 'its turn', now(),
	'{"after": "!z:x", "sweep": {"rooms": 9000000, "enqueued": 2000, "skipped": {"held": 100, "nothing_expired": 6000000, "too_many_waiting": 2999900}}}';
INSERT INTO users (name, admin, is_guest, locked, deactivated) VALUES (:'user', 1, 0, false, 0), ('@reader:lethe.test', 0, 0, false, 0);
INSERT INTO access_tokens (id, user_id, token) VALUES (1000001, :'user', 'long'), (1000002, '@reader:lethe.test', 'reader');
`

// Each page is visited empty, with the usual, and crowded, in both themes and widths:
// axe-core finds nothing, and no page is wider than the window.
func TestEveryPage(t *testing.T) {
	t.Parallel()
	tab := browser(t)
	// The schedules have no tick for long.
	d := start(t, "LETHE_CONSOLE_READERS=@reader:lethe.test", "LETHE_RETENTION_ENABLED=true",
		`LETHE_RETENTION_PURGE_JOBS=[{cron: "0 4 29 2 *", name: leap-day}, {cron: "0 5 29 2 *", shortest_max_lifetime: 1d, name: `+strings.Repeat("long-name", 7)+`}]`)
	routes := pagesOf(t)
	seen := newVisits(routes)
	look := func(name, path, text string) {
		t.Helper()
		seen.note(path)
		run(t, tab, chromedp.Navigate(d.url+root+path), sees(text), picture(t, name), accessible(t, name))
	}
	room := "?room=" + url.QueryEscape(d.room)
	plan := "/room/plan" + room + "&kind="

	look("sign-in", "/sign-in", "Access token of a server admin")
	look("sign-in-ended", "/sign-in?ended=1", "Your session has ended")
	run(t, tab, chromedp.SendKeys("#token", "wrong\r", chromedp.ByID), sees("Invalid access token passed."), picture(t, "sign-in-wrong"), accessible(t, "sign-in-wrong"))
	run(t, tab, signIn(d))
	look("overview-empty", "/", "No job runs.")
	look("jobs-empty", "/jobs", "No job matches.")
	look("holds-empty", "/holds", "No room is held.")
	look("schedules-new", "/schedules", "leap-day")
	look("schedules-run", "/schedules/run?name=leap-day", "looks at all rooms")
	look("audit-empty", "/audit", "Nothing of that kind is recorded.")
	look("rooms-few", "/rooms", "State groups")
	look("rooms-found", "/rooms?search="+url.QueryEscape(d.room[1:9]), "State groups")
	look("rooms-not-found", "/rooms?search=!none:example.org", "What is left of it")
	look("room-block", "/room/block"+room, "Block the room")
	look("room", "/room"+room, "Space by table")
	look("plan-purge", plan+"purge_history&before=2030-01-31T12%3A00&local=true", "are deleted")
	look("plan-delete", plan+"delete_room", "leave")
	look("hold-place", "/holds/place"+room, "Hold the room")
	look("not-found", "/nothing", "There is no such page")
	look("not-understood", "/rooms?from=odd", "Go back and correct what was entered.")

	d.sql(t, fmt.Sprintf("\\set room '%s'\n\\set user '%s'\n\\set name '%s'\n", longRoom, longUser, longName)+crowd)
	run(t, tab, click("Sign out"), has("#token"), chromedp.SendKeys("#token", "long\r", chromedp.ByID), has("#running"))
	look("overview", "/", "30+")
	look("jobs", "/jobs", "Older jobs")
	look("jobs-next", "/jobs?state=paused&room="+url.QueryEscape(longRoom)+"&requester="+url.QueryEscape(longUser), "paused")
	for i, state := range []string{"scheduled", "held", "running", "complete", "failed", "cancelled", "paused"} {
		job := "QQQQQQQQQQQQQQQ" + string(rune('b'+i))
		look("job-"+state, "/jobs/"+job, state)
	}
	const running, paused = "QQQQQQQQQQQQQQQd", "QQQQQQQQQQQQQQQh"
	for _, verb := range []string{"cancel", "pause", "priority", "retry"} {
		look("verb-"+verb, "/jobs/"+running+"/"+verb, "purge history")
	}
	look("verb-resume", "/jobs/"+paused+"/resume", "paused")
	look("rooms", "/rooms", "Smaller rooms")
	look("rooms-search", "/rooms?search="+url.QueryEscape(longRoom[5:]), "More rooms")
	look("room-unblock", "/room/block?room="+url.QueryEscape("!1"+longRoom[5:]), "End the block")
	look("schedules", "/schedules", "more are not shown")
	look("schedules-run-open", "/schedules/run?name=leap-day", "has not ended")
	look("audit", "/audit", "Older")
	look("audit-next", "/audit?action=hold&way=cli&who="+url.QueryEscape(longUser)+"&room="+url.QueryEscape(longRoom)+"&since=2020-01-01T00:00", "Show")
	look("room-long", "/room?room="+url.QueryEscape("!1"+longRoom[5:]), "Space by table")
	look("plan-delete-long", "/room/plan?kind=delete_room&room="+url.QueryEscape("!1"+longRoom[5:]), "leave")
	look("holds", "/holds", "more match")
	look("holds-released", "/holds?released=true&room=old", "over")
	look("hold-lift", "/holds/lift?room="+url.QueryEscape("!2"+longRoom[5:]), "Lift the hold")

	run(t, tab, click("Sign out"), has("#token"), chromedp.SendKeys("#token", "reader\r", chromedp.ByID), has("#running"))
	look("job-reader", "/jobs/"+running, "look and not touch")
	look("schedules-reader", "/schedules", "look and not touch")
	look("schedules-run-reader", "/schedules/run?name=leap-day", "Ask a server admin")
	look("room-block-reader", "/room/block?room="+url.QueryEscape("!1"+longRoom[5:]), "Ask a server admin")
	look("verb-reader", "/jobs/"+running+"/cancel", "Ask a server admin")

	for _, route := range routes {
		if !seen.seen[route] {
			t.Errorf("the page %s is visited by no step of this test: add one", route)
		}
	}
}
