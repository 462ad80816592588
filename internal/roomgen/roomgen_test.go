package roomgen_test

import (
	"context"
	"regexp"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"lethe/internal/devstack/devstacktest"
	"lethe/internal/matrix"
	"lethe/internal/roomgen"
	"lethe/internal/store/migrate"
)

func TestMain(m *testing.M) { devstacktest.Main(m) }

var end = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// connect returns a connection that is closed when the test ends, and a context that
// limits the test.
func connect(t *testing.T, url string) (context.Context, *pgx.Conn) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	t.Cleanup(cancel)
	conn, err := pgx.Connect(ctx, url)
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close(context.Background()) })
	return ctx, conn
}

func value[T any](t *testing.T, ctx context.Context, conn *pgx.Conn, sql string, args ...any) T {
	t.Helper()
	var v T
	require.NoError(t, conn.QueryRow(ctx, sql, args...).Scan(&v), sql)
	return v
}

// faults are queries that must find no rows, by the fault they look for.
var faults = map[string]string{
	"event without JSON": `
		SELECT FROM events e LEFT JOIN event_json j USING (event_id) WHERE e.room_id = $1 AND j.event_id IS NULL`,
	"JSON that tells another story": `
		SELECT FROM events e JOIN event_json j USING (event_id) WHERE e.room_id = $1 AND NOT (
			j.json::jsonb @> jsonb_build_object('type', e.type, 'sender', e.sender, 'depth', e.depth, 'room_id', e.room_id,
				'origin_server_ts', e.origin_server_ts)
			AND (j.json::jsonb ->> 'state_key') IS NOT DISTINCT FROM e.state_key
			AND (SELECT coalesce(array_agg(prev_event_id ORDER BY prev_event_id), '{}') FROM event_edges g WHERE g.event_id = e.event_id)
			  = (SELECT coalesce(array_agg(p ORDER BY p), '{}') FROM jsonb_array_elements_text(j.json::jsonb -> 'prev_events') p)
			AND (SELECT count(*) FROM event_auth a WHERE a.event_id = e.event_id) = jsonb_array_length(j.json::jsonb -> 'auth_events'))`,
	"event without an edge": `
		SELECT FROM events e WHERE e.room_id = $1 AND e.type <> 'm.room.create'
			AND NOT EXISTS (SELECT FROM event_edges g WHERE g.event_id = e.event_id)`,
	"edge to what is not above": `
		SELECT FROM events e JOIN event_edges g USING (event_id) LEFT JOIN events p ON p.event_id = g.prev_event_id
		WHERE e.room_id = $1 AND (p.event_id IS NULL OR p.depth >= e.depth OR p.stream_ordering >= e.stream_ordering)`,
	"tip that is no extremity, or the reverse": `
		SELECT FROM events e LEFT JOIN event_forward_extremities x USING (event_id)
		WHERE e.room_id = $1 AND (x.event_id IS NULL)
		    = NOT EXISTS (SELECT FROM event_edges g WHERE g.prev_event_id = e.event_id)`,
	"auth event that is not older": `
		SELECT FROM event_auth a JOIN events e USING (event_id) LEFT JOIN events p ON p.event_id = a.auth_id
		WHERE a.room_id = $1 AND (p.event_id IS NULL OR p.stream_ordering >= e.stream_ordering)`,
	"event without a state group": `
		SELECT FROM events e LEFT JOIN event_to_state_groups g USING (event_id) LEFT JOIN state_groups s ON s.id = g.state_group
		WHERE e.room_id = $1 AND s.id IS NULL`,
	"arrival out of order": `
		SELECT FROM (SELECT received_ts - lag(received_ts) OVER (ORDER BY stream_ordering) AS step
			FROM events WHERE room_id = $1) s WHERE step < 0`,
	"relation, redaction or thread of nothing": `
		SELECT FROM (
			SELECT event_id, relates_to_id AS other FROM event_relations
			UNION ALL SELECT event_id, redacts FROM redactions
			UNION ALL SELECT latest_event_id, thread_id FROM threads) r
		LEFT JOIN events e USING (event_id) LEFT JOIN events o ON o.event_id = r.other
		WHERE e.event_id IS NULL OR e.room_id = $1 AND (o.event_id IS NULL OR o.stream_ordering >= e.stream_ordering)`,
	"current state that differs from the last state group": `
		WITH RECURSIVE chain (state_group) AS (
			SELECT state_group FROM event_to_state_groups
			WHERE event_id = (SELECT event_id FROM events WHERE room_id = $1 ORDER BY stream_ordering DESC LIMIT 1)
			UNION SELECT e.prev_state_group FROM chain JOIN state_group_edges e USING (state_group)
		), resolved AS (
			SELECT DISTINCT ON (type, state_key) type, state_key, event_id
			FROM chain JOIN state_groups_state USING (state_group) ORDER BY type, state_key, state_group DESC
		)
		SELECT FROM resolved r FULL JOIN (SELECT * FROM current_state_events WHERE room_id = $1) c
			ON c.type = r.type AND c.state_key = r.state_key AND c.event_id = r.event_id
		WHERE c.event_id IS NULL OR r.event_id IS NULL`,
	"member who is not in the state": `
		SELECT FROM room_memberships m LEFT JOIN current_state_events c USING (event_id)
		WHERE m.room_id = $1 AND c.membership IS DISTINCT FROM m.membership`,
}

func TestGenerate(t *testing.T) {
	t.Parallel()
	ctx, conn := connect(t, devstacktest.Database(t, "embedded", migrate.UpEmbedded))
	room := roomgen.Room{Server: "lab.test", Seed: 7, Events: 5000, StateEvery: 20, End: end, Span: time.Hour}
	summary, err := roomgen.Generate(ctx, conn, room)
	require.NoError(t, err)

	require.Regexp(t, regexp.MustCompile(`^![a-z]{18}:lab\.test$`), summary.Room)
	require.Equal(t, "@alice:lab.test", summary.Creator)
	require.Equal(t, 5000, summary.Events)
	require.EqualValues(t, 5000, summary.LastStream)
	require.Greater(t, summary.StateGroups, 200, "some groups must be stored in full")
	counts := map[string]int{
		`events WHERE NOT outlier AND topological_ordering = depth AND event_id ~ '^\$[A-Za-z0-9_-]{43}$'`: summary.Events,
		`state_events`:         summary.StateEvents,
		`state_groups`:         summary.StateGroups,
		`room_memberships`:     7,
		`current_state_events`: 5 + 1 + 7, // and the topic
		`local_current_membership JOIN users ON name = user_id`:                                                  4,
		`event_forward_extremities`:                                                                              1,
		`room_depth WHERE min_depth = 1`:                                                                         1,
		`sliding_sync_joined_rooms WHERE event_stream_ordering = 5000`:                                           1,
		`room_stats_current WHERE joined_members = 7 AND local_users_in_room = 4`:                                1,
		`room_stats_state WHERE topic IS NOT NULL`:                                                               1,
		`(SELECT FROM events GROUP BY depth HAVING count(*) > 2) t`:                                              0,
		`events WHERE received_ts = 1772366400000 AND stream_ordering = 5000`:                                    1,
		`events WHERE received_ts = 1772366400000 - 3600000 AND stream_ordering = 1 AND depth = 1`:               1,
		`(SELECT last_value FROM events_stream_seq WHERE last_value = 5000) t`:                                   1,
		`(SELECT FROM state_groups LEFT JOIN state_group_edges ON state_group = id WHERE state_group IS NULL) t`: (summary.StateGroups + 99) / 100,
	}
	for from, want := range counts {
		require.Equal(t, want, value[int](t, ctx, conn, `SELECT count(*) FROM `+from), from)
	}
	for _, table := range []string{
		"event_relations", "redactions", "threads", "event_push_actions", "event_search", "event_txn_id_device_id",
	} {
		require.Greater(t, value[int](t, ctx, conn, `SELECT count(*) FROM `+table), 10, table)
	}
	require.Greater(t, value[int](t, ctx, conn, `
		SELECT count(*) FROM (SELECT FROM event_edges GROUP BY event_id HAVING count(*) = 2) t`), 10, "merges")
	for what, sql := range faults {
		require.Zero(t, value[int](t, ctx, conn, `SELECT count(*) FROM (`+sql+`) f`, summary.Room), what)
	}

	_, err = roomgen.Generate(ctx, conn, room)
	require.ErrorIs(t, err, roomgen.ErrExists)
	_, err = roomgen.Generate(ctx, conn, roomgen.Room{})
	require.ErrorContains(t, err, "Server")

	// A second room's events follow the first's.
	room.Seed, room.Events, room.RemoteMembers, room.Creator = 8, 1, -1, "@zoe:lab.test"
	second, err := roomgen.Generate(ctx, conn, room)
	require.NoError(t, err)
	require.Equal(t, 9, second.Events, "a room has at least the events that set it up")
	require.EqualValues(t, 5009, second.LastStream)
	require.Equal(t, summary.Events, value[int](t, ctx, conn, `SELECT count(*) FROM events WHERE room_id = $1`, summary.Room))
}

// TestIDsAreTrue computes the id and the hash of each event again, from its JSON as another
// server would parse it.
func TestIDsAreTrue(t *testing.T) {
	t.Parallel()
	ctx, conn := connect(t, devstacktest.Database(t, "embedded", migrate.UpEmbedded))
	_, err := roomgen.Generate(ctx, conn, roomgen.Room{Server: "lab.test", Events: 3000, StateEvery: 20, Name: `<"Tom" & \ "Jerry" é>`})
	require.NoError(t, err)
	rows, err := conn.Query(ctx, `
		SELECT event_id, type, json, room_version
		FROM event_json JOIN events USING (event_id) JOIN rooms ON rooms.room_id = events.room_id`)
	require.NoError(t, err)
	kinds := map[string]bool{}
	var id, kind, text string
	var version matrix.RoomVersion
	_, err = pgx.ForEachRow(rows, []any{&id, &kind, &text, &version}, func() error {
		kinds[kind] = true
		again, err := matrix.EventID(version, []byte(text))
		if err != nil {
			return err
		}
		require.Equal(t, again, id, text)
		hash, err := matrix.ContentHash(version, []byte(text))
		if err != nil {
			return err
		}
		require.Contains(t, text, `"hashes":{"sha256":"`+hash+`"}`)
		canonical, err := matrix.CanonicalJSON([]byte(text))
		require.Equal(t, string(canonical), text)
		return err
	})
	require.NoError(t, err)
	for _, kind := range []string{"create", "member", "power_levels", "join_rules", "history_visibility", "name", "topic", "message", "redaction"} {
		require.True(t, kinds["m.room."+kind], kind)
	}
}

func TestGenerateTwice(t *testing.T) {
	t.Parallel()
	generate := func() (roomgen.Summary, string) {
		ctx, conn := connect(t, devstacktest.Database(t, "embedded", migrate.UpEmbedded))
		summary, err := roomgen.Generate(ctx, conn, roomgen.Room{Server: "lab.test", Events: 300, End: end})
		require.NoError(t, err)
		return summary, value[string](t, ctx, conn, `SELECT string_agg(json, chr(10) ORDER BY event_id) FROM event_json`)
	}
	one, oneJSON := generate()
	other, otherJSON := generate()
	require.Equal(t, one, other)
	require.Equal(t, oneJSON, otherJSON)
}

// TestGenerateInSynapsesDatabase generates a room in a real homeserver's database, which
// has more constraints and triggers than ours.
func TestGenerateInSynapsesDatabase(t *testing.T) {
	t.Parallel()
	ctx, conn := connect(t, devstacktest.Restored(t, devstacktest.Shared(t, "fixtures", "synapse-1.160-corpus.dump")))
	newest := value[int64](t, ctx, conn, `SELECT max(stream_ordering) FROM events`)
	summary, err := roomgen.Generate(ctx, conn, roomgen.Room{Server: "lab.test", End: end})
	require.NoError(t, err)
	require.Equal(t, newest+200, summary.LastStream)
	require.Equal(t, summary.LastStream+1, value[int64](t, ctx, conn, `SELECT nextval('events_stream_seq')`))
	for what, sql := range faults {
		require.Zero(t, value[int](t, ctx, conn, `SELECT count(*) FROM (`+sql+`) f`, summary.Room), what)
	}
}

func TestDemo(t *testing.T) {
	t.Parallel()
	ctx, conn := connect(t, devstacktest.Database(t, "embedded", migrate.UpEmbedded))
	started := time.Now()
	made, err := roomgen.Demo(ctx, conn, "lab.test", end)
	require.NoError(t, err)
	t.Logf("22,200 events took %s", time.Since(started))
	require.Len(t, made, 3)
	for i, want := range []int{20_000, 2_000, 200} {
		require.Equal(t, want, made[i].Events)
		require.Equal(t, want, value[int](t, ctx, conn, `SELECT count(*) FROM events WHERE room_id = $1`, made[i].Room))
	}
	require.Zero(t, value[int](t, ctx, conn, `
		SELECT count(*) FROM (SELECT received_ts - lag(received_ts) OVER (ORDER BY stream_ordering) AS step FROM events) s
		WHERE step < 0`), "events of any room that arrived later than the next")
	require.Equal(t, end.UnixMilli(), value[int64](t, ctx, conn, `SELECT max(received_ts) FROM events`))
	for what, sql := range faults {
		for _, room := range made {
			require.Zero(t, value[int](t, ctx, conn, `SELECT count(*) FROM (`+sql+`) f`, room.Room), what)
		}
	}
	_, err = roomgen.Demo(ctx, conn, "lab.test", end)
	require.ErrorIs(t, err, roomgen.ErrExists)
}

func TestAccount(t *testing.T) {
	t.Parallel()
	ctx, conn := connect(t, devstacktest.Database(t, "embedded", migrate.UpEmbedded))
	const holder = `
		SELECT name || ' ' || admin || ' ' || d.device_id FROM users
		JOIN access_tokens t ON t.user_id = name JOIN devices d ON d.user_id = name AND d.device_id = t.device_id
		WHERE token = $1`
	for range 2 {
		require.NoError(t, roomgen.Account(ctx, conn, "@admin:lab.test", "one", true))
		require.Equal(t, "@admin:lab.test 1 DEMO", value[string](t, ctx, conn, holder, "one"))
	}
	require.NoError(t, roomgen.Account(ctx, conn, "@user:lab.test", "two", false))
	require.NoError(t, roomgen.Account(ctx, conn, "@admin:lab.test", "three", false))
	require.Equal(t, "@user:lab.test 0 DEMO", value[string](t, ctx, conn, holder, "two"))
	require.Equal(t, "@admin:lab.test 0 DEMO", value[string](t, ctx, conn, holder, "three"))
	require.Error(t, roomgen.Account(ctx, conn, "@user:lab.test", "one", false), "the token belongs to another user")
	require.Equal(t, 3, value[int](t, ctx, conn, `SELECT count(*) FROM access_tokens`))
}
