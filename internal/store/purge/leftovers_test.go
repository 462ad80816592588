package purge_test

import (
	"encoding/json"
	"math"
	"os"
	"testing"

	"github.com/stretchr/testify/require"

	"lethe/internal/devstack/devstacktest"
	"lethe/internal/schema"
	"lethe/internal/store/journal"
	"lethe/internal/store/migrate"
	"lethe/internal/store/purge"
	"lethe/internal/store/storetest"
	"lethe/internal/store/timeline"
)

// TestPurgeRepointsThreads checks that a thread whose newest event is purged shows
// the newest one that is left, which is a local one here.
func TestPurgeRepointsThreads(t *testing.T) {
	t.Parallel()
	l := setup(t)
	l.Exec(`INSERT INTO rooms (room_id, room_version) VALUES ($1, '10')`, room)
	const local = "@u:" + storetest.ServerName
	l.insert(room, map[string]at{
		"$root": {depth: 1, stream: 1, sender: local}, "$old": {depth: 2, stream: 2, sender: local},
		"$new": {depth: 3, stream: 3, sender: local}, "$gone": {depth: 4, stream: 4},
		"$alone": {depth: 1, stream: 5, sender: local}, "$only": {depth: 2, stream: 6},
		"$dead": {depth: 1, stream: 7}, "$reply": {depth: 2, stream: 8, sender: local}, "$last": {depth: 10, stream: 9},
	})
	l.extremities(room, "$last")
	l.Exec(`INSERT INTO event_relations (event_id, relates_to_id, relation_type) VALUES
		('$old', '$root', 'm.thread'), ('$new', '$root', 'm.thread'), ('$gone', '$root', 'm.thread'),
		('$only', '$alone', 'm.thread'), ('$reply', '$dead', 'm.thread')`)
	l.Exec(`INSERT INTO threads (room_id, thread_id, latest_event_id, topological_ordering, stream_ordering) VALUES
		($1, '$root', '$gone', 4, 4), ($1, '$alone', '$only', 2, 6), ($1, '$dead', '$reply', 2, 8)`, room)
	_, err := l.PurgeBatch(l.Work(room), 9, 99)
	require.NoError(t, err)
	require.Equal(t, []string{"$root $new 3 3"}, storetest.All[string](l.Lab,
		`SELECT concat_ws(' ', thread_id, latest_event_id, topological_ordering, stream_ordering) FROM threads`))
	require.Equal(t, []string{"$new", "$old"}, storetest.All[string](l.Lab, `SELECT event_id FROM event_relations ORDER BY 1`))
}

// TestPurgeKeepsRedactedEventsRedacted checks that an event that stays when its
// redaction is purged is stored as Synapse stores an event that it censors.
func TestPurgeKeepsRedactedEventsRedacted(t *testing.T) {
	t.Parallel()
	l := setup(t)
	l.Exec(`INSERT INTO rooms (room_id, room_version) VALUES ($1, '10')`, room)
	events := map[string]at{"$last": {depth: 10, stream: 100}}
	names := []string{"counts", "confirmed", "rejected", "far", "message"}
	for i, name := range names {
		events["$"+name] = at{depth: 1, stream: int64(10*i + 1), state: name != "message"}
		events["$"+name+" by"] = at{depth: 2, stream: int64(10*i + 2)}
	}
	l.insert(room, events)
	l.extremities(room, "$last")
	l.Exec(`UPDATE events SET sender = '@z:other' WHERE event_id = '$far'`)
	l.Exec(`UPDATE events SET rejection_reason = 'why' WHERE event_id = '$rejected by'`)
	const secret = `{"type":"m.room.topic","content":{"topic":"secret"},"unsigned":{"age":1,"age_ts":2,"prev_content":{"topic":"secret"},"replaces_state":"$x"},"depth":1,"state_key":""}`
	l.Exec(`INSERT INTO event_json (event_id, room_id, internal_metadata, json)
		SELECT event_id, room_id, CASE event_id WHEN '$far by' THEN '{"recheck_redaction": true}' ELSE '{}' END, $1 FROM events`, secret)
	for _, name := range names {
		l.Exec(`INSERT INTO redactions (event_id, redacts, recheck) VALUES ('$' || $1 || ' by', '$' || $1, $1 <> 'confirmed')`, name)
	}
	work := l.Work(room)
	done, err := l.PurgeBatch(work, 2, 99)
	require.NoError(t, err)
	require.EqualValues(t, 1, done.Deleted, "the message; its redaction still exists")
	require.Len(t, storetest.All[string](l.Lab, `SELECT event_id FROM redactions`), 5)

	_, err = l.PurgeBatch(work, 9, 99)
	require.NoError(t, err)
	require.Equal(t, []string{"$confirmed by true", "$counts by true"}, storetest.All[string](l.Lab,
		`SELECT event_id || ' ' || have_censored FROM redactions ORDER BY 1`))
	const pruned = `{"type":"m.room.topic","content":{},"depth":1,"state_key":"","unsigned":{"age_ts":2,"replaces_state":"$x"}}`
	for name, want := range map[string]string{"counts": pruned, "confirmed": pruned, "rejected": secret, "far": secret} {
		require.Equal(t, want, storetest.One[string](l.Lab, `SELECT json FROM event_json WHERE event_id = '$' || $1`, name), name)
	}

	// A reader needs no redaction to see them so.
	read, err := timeline.Events(l.Ctx, storetest.OnAs(t, l.URL, schema.API).DB, room, []string{"$counts", "$confirmed"})
	require.NoError(t, err)
	require.Len(t, read, 2)
	for _, event := range read {
		require.Equal(t, pruned, string(event.JSON))
		require.Nil(t, event.Redaction)
	}

	require.NoError(t, l.Journal.EndJob(l.Ctx, work.Run, journal.Complete, ""))

	// What has outlived its redaction goes with the room.
	_, _, err = l.deleter(room, false).end(99)
	require.NoError(t, err)
	require.Empty(t, storetest.All[string](l.Lab, `SELECT event_id FROM redactions`))
}

// TestMarkedTextsAreDeleted checks on a real Synapse's database in which tables a
// text that users wrote is left. In the marked rooms every such text has the mark.
func TestMarkedTextsAreDeleted(t *testing.T) {
	t.Parallel()
	encoded, err := os.ReadFile(devstacktest.Shared(t, "fixtures", "versions.json"))
	require.NoError(t, err)
	var fixture struct {
		Marked map[string]struct {
			Room   string            `json:"room"`
			Events map[string]string `json:"e"`
		} `json:"marked"`
	}
	require.NoError(t, json.Unmarshal(encoded, &fixture))
	l := setupOn(t, devstacktest.Restored(t, devstacktest.Shared(t, "fixtures", "synapse-1.160-versions.dump")))
	require.NoError(t, migrate.Up(l.Ctx, l.URL))

	hist := fixture.Marked["hist"]
	before := storetest.One[int64](l.Lab, `SELECT topological_ordering FROM events WHERE event_id = $1`, hist.Events["cut"])
	history, err := l.Purger.History(l.Ctx, purge.HistoryRequest{Room: hist.Room, Before: before, DeleteLocal: true, ServerName: "lab.test"})
	require.NoError(t, err)
	require.NoError(t, l.InBatch(l.Work(hist.Room), func(b *journal.Batch) (any, error) {
		done, err := history.Purge(l.Ctx, b, math.MinInt64, 999)
		require.Positive(t, done.Deleted)
		return nil, err
	}))
	// The state of the room, what its users keep of it, and what waits are not its
	// history.
	require.Equal(t, []string{
		"appservice_room_list", "delayed_events", "device_lists_changes_in_room", "e2e_room_keys", "event_json",
		"event_reports", "federation_inbound_events_staging", "room_account_data", "room_ban_redactions", "room_memberships",
		"room_reports", "room_stats_state", "room_tags", "sliding_sync_joined_rooms", "sliding_sync_membership_snapshots",
		"timeline_gaps",
	}, l.markedOf(hist.Room))
	for _, name := range []string{"topic2", "member"} {
		text := storetest.One[string](l.Lab, `SELECT json FROM event_json WHERE event_id = $1`, hist.Events[name])
		require.NotContains(t, text, "GDPRMARK", "redacted, so it stays redacted")
	}

	del := fixture.Marked["del"]
	_, _, err = l.deleter(del.Room, false).end(999)
	require.NoError(t, err)
	require.Equal(t, []string{"device_lists_changes_in_room", "event_reports", "room_reports"}, l.markedOf(del.Room))
}

// markedOf returns the tables that have the mark in a row that names the room.
func (l *lab) markedOf(room string) (tables []string) {
	for _, table := range storetest.All[string](l.Lab, `SELECT tablename::text FROM pg_tables WHERE schemaname = 'public' ORDER BY 1`) {
		if storetest.One[bool](l.Lab, `SELECT EXISTS (SELECT FROM `+table+` t
			WHERE to_jsonb(t)::text LIKE '%GDPRMARK%' AND strpos(to_jsonb(t)::text, $1) > 0)`, room) {
			tables = append(tables, table)
		}
	}
	return tables
}
