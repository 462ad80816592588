package leftover_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"lethe/internal/schema"
	"lethe/internal/store/leftover"
	"lethe/internal/store/storetest"
)

const room = storetest.Room

// corpus returns a lab on the tables of the newest Synapse, and a checker of it.
func corpus(t *testing.T, options leftover.Options) (*storetest.Lab, *leftover.Checker) {
	t.Helper()
	l := storetest.On(t, storetest.Restored(t, "synapse-1.160-corpus.dump", storetest.Versions[0]))
	l.Exec(`SET session_replication_role = replica`) // rows of rooms that are gone
	return l, leftover.New(l.DB, options)
}

// shown are tables with their rows, keys and reasons.
func shown(tables []leftover.Table) []string {
	all := []string{}
	for _, t := range tables {
		all = append(all, fmt.Sprintf("%s %d %v %s %v: %s", t.Table, t.Rows, t.More, t.Column, t.Keys, t.Why))
	}
	return all
}

const (
	byProcess = "the delete should have deleted it: a process has written it during or after the delete, or an index is corrupt"
	again     = "the room exists again: a server or a user has come back to it since the delete"
)

// Rows are found by each kind of key, where an index leads with it, and in other tables
// only by a scan.
func TestCheck(t *testing.T) {
	t.Parallel()
	l, checker := corpus(t, leftover.Options{Tables: schema.Rules{"stars": schema.DeleteByRoom, "comets": schema.Keep}})
	l.Exec(`CREATE TABLE stars (room_id text); CREATE INDEX ON stars (room_id);
		CREATE TABLE comets (event_id varchar(9)); CREATE INDEX ON comets (event_id);
		INSERT INTO room_account_data (user_id, room_id, account_data_type, stream_id, content) VALUES ('@u:x', '!elsewhere:x', 't', 1, '')`)
	keys := leftover.Keys{Rooms: []string{"!nothing:x"}, Sample: leftover.Sample{Events: []string{"$none"}, StateGroups: []int64{1 << 40}}}
	report := checker.Check(l.Ctx, keys)
	require.Equal(t, leftover.Report{Left: []leftover.Table{}, NotChecked: []string{
		"application_services_txns", "appservice_room_list", "delayed_events", "device_lists_changes_converted_stream_position",
		"event_reports", "ex_outlier_stream", "pusher_throttle", "room_reports", "room_tags", "room_tags_revisions",
		"sliding_sync_connection_lazy_members", "sliding_sync_connection_room_configs", "sliding_sync_connection_streams",
	}}, report)

	l.Exec(`INSERT INTO room_depth (room_id, min_depth) VALUES ($1, 1)`, room)
	l.Exec(`INSERT INTO stars VALUES ($1), ($1)`, room)
	l.Exec(`INSERT INTO event_auth (event_id, auth_id, room_id) VALUES ('$e', '$a', $1)`, room)
	l.Exec(`INSERT INTO state_group_edges (state_group, prev_state_group) VALUES ($1, $2)`, 1<<40, 1<<40-1)
	l.Exec(`INSERT INTO blocked_rooms (room_id, user_id) VALUES ($1, '@admin:x')`, room)
	l.Exec(`INSERT INTO comets VALUES ('$e')`)
	l.Exec(`INSERT INTO room_tags (user_id, room_id, tag, content) VALUES ('@u:x', $1, 'm.favourite', '{}')`, room)
	keys.Rooms, keys.Events = append(keys.Rooms, room), append(keys.Events, "$e")
	report = checker.Check(l.Ctx, keys)
	require.Empty(t, report.Skipped)
	left := []string{
		"event_auth 1 false event_id [$e]: " + byProcess,
		"room_depth 1 false room_id [!room:x]: " + byProcess,
		"stars 2 false room_id [!room:x]: " + byProcess,
		fmt.Sprintf("state_group_edges 1 false state_group [%d]: %s", 1<<40, byProcess),
	}
	kept := []string{
		"blocked_rooms 1 false room_id [!room:x]: the block outlives the room",
		"comets 1 false event_id [$e]: the setting tables keeps it",
	}
	require.Equal(t, left, shown(report.Left))
	require.Equal(t, kept, shown(report.Kept))

	keys.Asked = []string{"room_depth", "event_auth"}
	report = checker.Check(l.Ctx, keys)
	require.Equal(t, []string{left[0], left[2], left[3]}, shown(report.Left), "what was asked by the room is still asked by events")
	require.NotContains(t, report.NotChecked, "room_depth")

	scan, err := checker.Scan(l.Ctx, keys)
	require.NoError(t, err)
	require.False(t, scan.Exists)
	require.Empty(t, scan.Failed)
	require.Equal(t, append([]string{left[0], left[1], "room_tags 1 false room_id [!room:x]: " + byProcess}, left[2:]...), shown(scan.Left))
	require.Equal(t, kept, shown(scan.Kept))
	require.Equal(t, []string{"application_services_txns"}, scan.NotChecked)

	// A room that is there again has rows for a reason.
	l.Exec(`INSERT INTO rooms (room_id, is_public, creator) VALUES ($1, false, '@u:x')`, room)
	for _, t := range checker.Check(l.Ctx, keys).Left {
		require.Equal(l.T, again, t.Why)
	}
	scan, err = checker.Scan(l.Ctx, keys)
	require.NoError(t, err)
	require.True(t, scan.Exists)
}

// A check uses no more than the columns that Lethe's role may read, and names the
// tables that it may not read.
func TestCheckReadsWhatTheRoleMay(t *testing.T) {
	t.Parallel()
	l := storetest.New(t, schema.Worker)
	l.Exec(`INSERT INTO room_depth (room_id, min_depth) VALUES ($1, 1)`, room)
	report := leftover.New(l.DB, leftover.Options{}).Check(l.Ctx, leftover.Keys{Rooms: []string{room}})
	require.Empty(t, report.Skipped)
	require.Equal(t, []string{"room_depth 1 false room_id [!room:x]: " + byProcess}, shown(report.Left))
	require.NotContains(t, report.NotChecked, "room_retention")

	l.Exec(`ALTER TABLE room_retention ENABLE ROW LEVEL SECURITY`)
	report = leftover.New(l.DB, leftover.Options{}).Check(l.Ctx, leftover.Keys{Rooms: []string{room}})
	require.Empty(t, report.Skipped)
	require.Contains(t, report.NotChecked, "room_retention")
}

// However many rows there are, so many are counted, of all rooms together.
func TestCheckIsBoundedInRows(t *testing.T) {
	t.Parallel()
	l, checker := corpus(t, leftover.Options{Rows: 7})
	l.Exec(`INSERT INTO timeline_gaps (room_id, instance_name, stream_ordering) SELECT '!' || i || ':x', 'master', i FROM generate_series(1, 7) i`)
	keys := leftover.Keys{Rooms: []string{room}}
	for i := range 9 {
		keys.Rooms = append(keys.Rooms, fmt.Sprintf("!%d:x", i))
	}
	const seven = "timeline_gaps 7 %v room_id [!1:x !2:x !3:x !4:x !5:x]: " + byProcess
	require.Equal(t, []string{fmt.Sprintf(seven, false)}, shown(checker.Check(l.Ctx, keys).Left))
	l.Exec(`INSERT INTO timeline_gaps (room_id, instance_name, stream_ordering) SELECT '!7:x', 'master', i FROM generate_series(8, 500) i`)
	require.Equal(t, []string{fmt.Sprintf(seven, true)}, shown(checker.Check(l.Ctx, keys).Left))
}

// A check whose time is over ends, says so and leaves no transaction behind.
func TestCheckIsBoundedInTime(t *testing.T) {
	t.Parallel()
	l, checker := corpus(t, leftover.Options{Time: 100 * time.Millisecond, ScanTime: 100 * time.Millisecond})
	l.Exec(`BEGIN`)
	l.Exec(`LOCK TABLE room_depth IN ACCESS EXCLUSIVE MODE`)
	ctx, cancel := context.WithTimeout(l.Ctx, 20*time.Second)
	defer cancel()
	started := time.Now()
	require.Equal(t, leftover.Report{Skipped: "the check took longer than 100ms"}, checker.Check(ctx, leftover.Keys{Rooms: []string{room}}))
	require.Less(t, time.Since(started), 10*time.Second)
	scan, err := checker.Scan(ctx, leftover.Keys{Rooms: []string{room}})
	require.NoError(t, err)
	require.Len(t, scan.Failed, 1, "the other tables were scanned")
	require.Error(t, scan.Failed["room_depth"])
	l.Exec(`ROLLBACK`)
	require.Empty(t, checker.Check(ctx, leftover.Keys{Rooms: []string{room}}).Skipped)
}

// A check finds rows by indexes even if the server would rather read a whole table.
func TestCheckReadsNoWholeTable(t *testing.T) {
	t.Parallel()
	l, checker := corpus(t, leftover.Options{})
	l.Exec(`ANALYZE`)
	scans := func() int64 {
		l.Exec(`SELECT pg_stat_clear_snapshot()`)
		return storetest.One[int64](l, `SELECT coalesce(sum(seq_scan), 0)::bigint FROM pg_stat_user_tables WHERE schemaname = 'public'`)
	}
	db := l.DB
	before := scans()
	for range 10 {
		require.Empty(t, checker.Check(l.Ctx, leftover.Keys{Rooms: []string{room}, Sample: leftover.Sample{Events: []string{"$e"}}}).Skipped)
	}
	// Closing the sessions sends their statistics.
	db.Close()
	require.Eventually(t, func() bool {
		return storetest.One[int64](l, `SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()`) == 0
	}, 10*time.Second, 5*time.Millisecond)
	require.Equal(t, before, scans())
}

// Ids of any text are keys and no part of a statement.
func TestKeysMayBeAnyText(t *testing.T) {
	t.Parallel()
	l, checker := corpus(t, leftover.Options{})
	hostile := []string{`!'; DROP TABLE rooms; --:x`, `!\:x`, "!\x1b[2J\n:x", `!$1"{}:x`, "!" + strings.Repeat("ü", 200) + ":x", "!\x00:x", "!\xff:x"}
	for _, id := range hostile[:5] {
		l.Exec(`INSERT INTO room_depth (room_id, min_depth) VALUES ($1, 1)`, id)
	}
	for i, id := range hostile {
		report := checker.Check(l.Ctx, leftover.Keys{Rooms: []string{id}, Sample: leftover.Sample{Events: []string{id}}})
		require.Empty(t, report.Skipped, id)
		require.Len(t, report.Left, map[bool]int{true: 1, false: 0}[i < 5], id)
		if i < 5 {
			statement, err := leftover.Delete(l.Ctx, l.DB, report.Left[0])
			require.NoError(t, err)
			l.Exec(statement)
			require.Empty(t, checker.Check(l.Ctx, leftover.Keys{Rooms: []string{id}}).Left, id)
		}
	}
	require.NotEmpty(t, storetest.All[string](l, `SELECT room_id FROM rooms`))
}

// A sample stays small, has keys of all batches, and shares no memory with what it
// was made of.
func TestSample(t *testing.T) {
	t.Parallel()
	var sample leftover.Sample
	for batch := range int64(50) {
		var more leftover.Sample
		for i := range int64(leftover.PerBatch) {
			more.StateGroups, more.Events = append(more.StateGroups, 100*batch+i), append(more.Events, fmt.Sprint(100*batch+i))
		}
		next := sample.With(more)
		before := fmt.Sprint(sample)
		_ = sample.With(leftover.Sample{StateGroups: []int64{-1}, Events: []string{"-1"}})
		require.Equal(t, before, fmt.Sprint(sample))
		sample = next
		require.LessOrEqual(t, len(sample.Events), 64)
		require.Len(t, sample.Events, len(sample.StateGroups))
	}
	require.Greater(t, len(sample.Events), 30)
	require.Contains(t, sample.Events, "0", "of the first batch")
	require.Contains(t, sample.Events, "4900", "of the last batch")
}
