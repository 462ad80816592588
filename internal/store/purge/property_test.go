package purge_test

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"lethe/internal/devstack/devstacktest"
	"lethe/internal/store/journal"
	"lethe/internal/store/migrate"
	"lethe/internal/store/postgres"
	"lethe/internal/store/purge"
	"lethe/internal/store/storetest"
)

const (
	weirdRoom     = "!weird:my_server:8448"
	bystanderRoom = "!bystander:my_server:8448"
	serverName    = "my_server:8448"
)

// TestHistoryPurgeMatchesTheModel purges small rooms of every shape, in tiny batches
// and in a single one, and compares the database with the model after each commit. A
// flag such as -rapid.checks=5000 makes it try more rooms.
func TestHistoryPurgeMatchesTheModel(t *testing.T) {
	t.Parallel()
	url := devstacktest.Database(t, "embedded", migrate.UpEmbedded)
	purger := newPurger(t, url, url, purge.Options{SetWiseFrom: 1})
	require.Empty(t, purger.catalog.RowWise())
	purger.check(t)
}

// TestSearchedHistoryPurgeMatchesTheModel does the same in the way of large batches,
// whose rows another connection searches for.
func TestSearchedHistoryPurgeMatchesTheModel(t *testing.T) {
	t.Parallel()
	url := devstacktest.Database(t, "embedded", migrate.UpEmbedded)
	purger := newPurger(t, url, url, purge.Options{SetWiseFrom: 1, SearchFrom: 1})
	require.Empty(t, purger.catalog.RowWise())
	purger.check(t)
}

// TestRowWiseHistoryPurgeMatchesTheModel does the same with a role that may not turn
// triggers off, so that the server checks every row.
func TestRowWiseHistoryPurgeMatchesTheModel(t *testing.T) {
	t.Parallel()
	url := devstacktest.Database(t, "embedded", migrate.UpEmbedded)
	purger := newPurger(t, url, devstacktest.AsPlainRole(t, url), purge.Options{})
	require.NotEmpty(t, purger.catalog.RowWise())
	purger.check(t)
}

func (p *purger) check(t *testing.T) {
	t.Helper()
	rapid.Check(t, func(t *rapid.T) {
		rows := drawDatabase(t)
		request := purge.HistoryRequest{
			Room:        weirdRoom,
			Before:      drawCut(t, rows),
			DeleteLocal: rapid.Bool().Draw(t, "delete local"),
			ServerName:  serverName,
		}
		for _, size := range []int{rapid.IntRange(1, 5).Draw(t, "batch size"), math.MaxInt32} {
			p.fill(t, rows)
			p.purgeTwice(t, request, size)
		}
	})
}

// A purger purges rooms of one database, as a job does but without waiting, and
// compares each commit with the model.
type purger struct {
	ctx     context.Context
	journal *journal.Journal
	purger  *purge.Purger
	conn    *pgx.Conn
	catalog purge.Catalog
	jobs    int
}

// newPurger returns a purger that purges the database by one URL, and fills and
// reads it by the other.
func newPurger(t *testing.T, url, asPurger string, options purge.Options) *purger {
	t.Helper()
	ctx := t.Context() // without a deadline: a run with many checks takes its time
	db, err := postgres.Open(ctx, asPurger, postgres.Options{})
	require.NoError(t, err)
	t.Cleanup(db.Close)
	conn, err := pgx.Connect(ctx, url)
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close(context.Background()) })
	p := &purger{ctx: ctx, journal: journal.New(db), purger: purge.New(db, options), conn: conn}
	p.catalog, err = p.purger.HistoryCatalog(ctx)
	require.NoError(t, err)
	return p
}

// purgeTwice purges the room, and once more, which must change nothing.
func (p *purger) purgeTwice(t *rapid.T, request purge.HistoryRequest, size int) {
	before, err := snapshotOf(p.ctx, p.conn)
	require.NoError(t, err)
	purged := func(cut int64) (*world, error) {
		w, err := before.world()
		require.NoError(t, err)
		return w, w.purge(request.Room, cut, request.DeleteLocal, request.ServerName)
	}

	want, refused := purged(request.Before)
	for range 2 {
		err := p.purge(t, request, size, func(cut int64) {
			want, err := purged(cut)
			require.NoError(t, err)
			require.Empty(t, diffButStateGroups(want, p.world(t)), "after the commit of the cut at %d", cut)
		})
		if refused != nil {
			require.ErrorIs(t, err, purge.ErrBeyondExtremities)
		} else {
			require.NoError(t, err)
		}
		kept, err := before.world()
		require.NoError(t, err)
		require.Empty(t, diffCollected(kept, want, p.world(t)), "at the end")
	}
}

// world is what the database holds now.
func (p *purger) world(t *rapid.T) *world {
	w, err := load(p.ctx, p.conn)
	require.NoError(t, err)
	return w
}

// purge runs a purge to its end, and calls committed with the cut of each batch
// of events.
func (p *purger) purge(t *rapid.T, request purge.HistoryRequest, size int, committed func(cut int64)) error {
	history, err := p.purger.History(p.ctx, request)
	require.NoError(t, err)
	if err := history.Guard(p.ctx); err != nil {
		return err
	}
	work := p.begin(t, request.Room)
	for from := int64(math.MinInt64); ; {
		next, err := history.NextDepth(p.ctx, from)
		if errors.Is(err, postgres.ErrNotFound) {
			break
		}
		require.NoError(t, err)
		require.GreaterOrEqual(t, next, from)
		var done purge.HistoryBatch
		if err := storetest.InBatch(p.ctx, p.journal, work, func(b *journal.Batch) (_ any, err error) {
			done, err = history.Purge(p.ctx, b, next, size)
			return nil, err
		}); err != nil {
			return err
		}
		require.Positive(t, done.Deleted+done.Kept)
		require.Greater(t, done.Cut, next)
		require.LessOrEqual(t, done.Cut, request.Before)
		committed(done.Cut)
		from = done.Cut
	}
	for {
		step, err := history.NextStateGroups(p.ctx)
		require.NoError(t, err)
		if step == purge.StateGroupsCollected {
			return p.journal.EndJob(p.ctx, work.Run, journal.Complete, "")
		}
		if err := storetest.InBatch(p.ctx, p.journal, work, func(b *journal.Batch) (any, error) {
			return history.CollectStateGroups(p.ctx, b, step, size)
		}); err != nil {
			return err
		}
	}
}

// begin makes a running job, for its batches.
func (p *purger) begin(t *rapid.T, room string) storetest.Work {
	p.jobs++
	id := strings.Map(func(digit rune) rune { return digit - '0' + 'a' }, fmt.Sprintf("%016d", p.jobs))
	require.NoError(t, p.journal.InsertJob(p.ctx, storetest.NewJob(id, room), false))
	job, err := p.journal.ClaimJob(p.ctx, id, 1, time.Minute, 0)
	require.NoError(t, err)
	fence, err := p.journal.NextFence(p.ctx, room)
	require.NoError(t, err)
	return storetest.Work{Run: storetest.RunOf(job), RoomLock: journal.RoomLock{Room: room, Fence: fence, Lease: time.Minute}}
}

// A row has a value for each column that is not null.
type row map[string]any

// rows are those of a database, by table.
type rows map[string][]row

// filled are the tables that a drawn database may have rows in, the referenced
// before those that reference them.
var filled = []string{
	"rooms", "users", "devices", "events",
	"current_state_events", "event_auth", "event_backward_extremities", "event_edges", "event_forward_extremities",
	"event_expiry", "event_failed_pull_attempts", "event_json", "event_labels", "event_push_actions",
	"event_push_actions_staging", "event_push_summary", "event_push_summary_stream_ordering", "event_relations",
	"event_search", "event_to_state_groups", "event_txn_id_device_id", "federation_inbound_events_staging", "local_current_membership",
	"redactions", "rejections", "room_depth", "room_memberships", "sliding_sync_joined_rooms", "state_events",
	"state_group_edges", "state_groups", "state_groups_pending_deletion", "state_groups_state", "sticky_events",
	"stream_ordering_to_exterm", "thread_subscriptions", "threads",
}

// fill makes the rows all that the database holds.
func (p *purger) fill(t *rapid.T, rows rows) {
	require.ElementsMatch(t, filled, slices.Collect(maps.Keys(rows)))
	var pipeline pgx.Batch
	pipeline.Queue(`DELETE FROM lethe.jobs`)
	pipeline.Queue(`DELETE FROM lethe.state_group_candidates`)
	for _, table := range slices.Backward(filled) {
		pipeline.Queue(`DELETE FROM ` + table)
	}
	for _, table := range filled {
		pipeline.Queue(fmt.Sprintf(`
			INSERT INTO %s OVERRIDING SYSTEM VALUE SELECT * FROM jsonb_populate_recordset(NULL::%[1]s, $1)`, table),
			rows[table])
	}
	require.NoError(t, p.conn.SendBatch(p.ctx, &pipeline).Close())
}

// drawCut draws the first depth that stays: that of an event, or next to it.
func drawCut(t *rapid.T, rows rows) int64 {
	var depths []int64
	for _, e := range rows["events"] {
		if e["room_id"] == weirdRoom {
			depths = append(depths, e["depth"].(int64))
		}
	}
	// The deepest first, since what is drawn is mostly near the beginning and a
	// purge of next to nothing finds nothing.
	slices.SortFunc(depths, func(a, b int64) int { return cmp.Compare(b, a) })
	return rapid.SampledFrom(depths).Draw(t, "cut") + rapid.SampledFrom([]int64{0, 1, -1}).Draw(t, "beside")
}

// drawDatabase draws a database with a room of any shape, and another one that
// a purge must not touch.
func drawDatabase(t *rapid.T) rows {
	rows := rows{}
	for _, table := range filled {
		rows[table] = []row{}
	}
	for _, user := range localUsers {
		rows.add("users", row{
			"name": user, "admin": 0, "is_guest": 0, "deactivated": 0, "locked": false, "suspended": false,
		})
		rows.add("devices", row{"user_id": user, "device_id": "PHONE"})
	}
	drawRoom(t, rows, weirdRoom, 60, 0)
	rotated := append(notified(rows, weirdRoom), 0)
	drawRoom(t, rows, bystanderRoom, 5, 1000)
	rows.add("event_push_summary_stream_ordering", row{
		"lock": "X", "stream_ordering": rapid.SampledFrom(rotated).Draw(t, "rotated up to"),
	})
	return rows
}

// notified returns the places in the stream where a user in the room was notified, the
// newest first.
func notified(rows rows, room string) []int {
	var streams []int
	for _, action := range rows["event_push_actions"] {
		if stream, ok := action["stream_ordering"].(int); ok && action["room_id"] == room {
			streams = append(streams, stream)
		}
	}
	slices.SortFunc(streams, func(a, b int) int { return cmp.Compare(b, a) })
	return streams
}

func (r rows) add(table string, row row) { r[table] = append(r[table], row) }

var (
	localUsers = []string{"@alice:" + serverName, "@bob:" + serverName}

	// What is after the first colon is the domain, all of it; an underscore is
	// no wildcard; and one may be unknown.
	senders = []any{
		localUsers[0], localUsers[1], "@zoe:far.test", "@zoe:far.test:8448", "@zoe:my_server", "@zoe:myXserver:8448",
		"@zoe:" + serverName + ":1", "@zoe:far.test:" + serverName, "zoe", nil,
	}

	// What an event id may end in, to trip who puts one into a pattern, a JSON
	// or an array.
	endings = []string{"", "'", `"`, "%", "_", `\`, "{a,b}", "é", "忘れる", " ", "$1"}
)

// drawRoom draws a room of up to so many events. Numbers that are unique in a
// database are taken from base on.
func drawRoom(t *rapid.T, rows rows, room string, most, base int) {
	n := rapid.IntRange(1, most).Draw(t, "events")
	number := func(low, high int, label string) int { return rapid.IntRange(low, high).Draw(t, label) }
	// chance is true in roughly so many of a hundred cases, and false when a
	// failing one is made simple.
	chance := func(percent int, label string) bool { return number(0, 99, label) >= 100-percent }
	perhaps := func(percent int, value any, label string) any {
		if chance(percent, label) {
			return value
		}
		return nil
	}
	bit := func(label string) any { return rapid.SampledFrom([]any{0, 1, nil}).Draw(t, label) }

	ids := make([]string, n)
	for i := range ids {
		ids[i] = fmt.Sprintf("$%d%s", base+i, rapid.SampledFrom(endings).Draw(t, "ending"))
	}
	anyID := func(label string) string { return rapid.SampledFrom(ids).Draw(t, label) }
	gap := func() string { return fmt.Sprintf("$gap%d", base+number(0, 3, "gap")) }

	rows.add("rooms", row{"room_id": room, "room_version": "10"})
	if !chance(10, "without depth") {
		rows.add("room_depth", row{"room_id": room, "min_depth": number(0, 5, "min depth")})
	}

	// State groups, each perhaps a difference to an older one. Some are never
	// used by an event.
	groups := number(0, 15, "state groups")
	var usable []int
	for i := range groups {
		group := base + i + 1
		rows.add("state_groups", row{"id": group, "room_id": room, "event_id": ids[0]})
		if i > 0 && !chance(25, "in full") {
			prev := base + number(max(1, i-2), i, "previous group")
			rows.add("state_group_edges", row{"state_group": group, "prev_state_group": prev})
		}
		for _, key := range []string{"a", "b", "c"} {
			if chance(50, "sets") {
				rows.add("state_groups_state", row{
					"state_group": group, "room_id": room, "type": "t", "state_key": key, "event_id": anyID("sets to"),
				})
			}
		}
		if chance(10, "pending deletion") {
			rows.add("state_groups_pending_deletion", row{
				"sequence_number": group, "state_group": group, "insertion_ts": 0,
			})
		}
		if !chance(30, "unused") {
			usable = append(usable, group)
		}
	}

	var streams []int
	var level, highest int64
	tip := ids[0]
	isCurrent := map[string]bool{}
	isMember := false
	depths, threads := map[string]int64{}, map[string]string{}
	for i, id := range ids {
		// Depths mostly grow with the stream, but need not: events come late,
		// and side by side.
		level += rapid.SampledFrom([]int64{1, 1, 0, 3}).Draw(t, "step")
		depth := level
		if chance(20, "out of order") {
			depth = rapid.Int64Range(0, level+3).Draw(t, "depth")
		}
		depths[id] = depth
		e := row{
			"event_id": id, "room_id": room, "type": "m.room.message", "depth": depth, "topological_ordering": depth,
			"processed": true, "outlier": chance(15, "outlier"),
			"sender":           rapid.SampledFrom(senders).Draw(t, "sender"),
			"rejection_reason": perhaps(8, "auth_error", "rejected"),
			"received_ts":      i,
		}
		switch kind := number(0, 19, "stream"); {
		case kind < 16:
			e["stream_ordering"] = base + i + 1
		case kind < 19:
			e["stream_ordering"] = -(base + i + 1) // backfilled
		}
		stream, hasStream := e["stream_ordering"].(int)
		if hasStream {
			streams = append(streams, stream)
		}
		if depth >= highest {
			tip, highest = id, depth
		}

		if chance(35, "sets state") {
			key := rapid.SampledFrom([]string{"", "a", "b", "c"}).Draw(t, "state key")
			e["type"], e["state_key"] = "t", key
			// A rejected event sets no state, whatever it says.
			if chance(10, "in vain") {
				e["rejection_reason"] = "auth_error"
			} else {
				rows.add("state_events", row{"event_id": id, "room_id": room, "type": "t", "state_key": key})
				if !isCurrent[key] {
					isCurrent[key] = true
					rows.add("current_state_events", row{
						"event_id": id, "room_id": room, "type": "t", "state_key": key,
						"event_stream_ordering": e["stream_ordering"],
					})
				}
				if chance(30, "membership") {
					membership := row{
						"event_id": id, "user_id": localUsers[0], "sender": localUsers[0], "room_id": room,
						"membership": "join", "event_stream_ordering": e["stream_ordering"],
					}
					rows.add("room_memberships", membership)
					if !isMember {
						isMember = true
						membership = maps.Clone(membership)
						delete(membership, "sender")
						rows.add("local_current_membership", membership)
					}
				}
			}
		}
		rows.add("events", e)
		rows.add("event_json", row{
			"event_id": id, "room_id": room, "json": `{"content":{"body": "secret"}}`,
			"internal_metadata": rapid.SampledFrom([]string{`{}`, `{"soft_failed":true}`, `{"recheck_redaction":true}`}).Draw(t, "metadata"),
		})

		// Edges may go anywhere: to the event before, over many depths, up
		// instead of down, and to what was never received.
		prevs := map[string]bool{id: true}
		for range rapid.SampledFrom([]int{1, 1, 1, 2, 3, 0}).Draw(t, "edges") {
			prev := ids[max(i-1, 0)]
			if chance(45, "long edge") {
				prev = anyID("previous event")
			} else if chance(15, "gap") {
				prev = gap()
			}
			if !prevs[prev] {
				prevs[prev] = true
				rows.add("event_edges", row{"event_id": id, "prev_event_id": prev, "is_state": chance(12, "state edge")})
			}
		}

		inTimeline := !e["outlier"].(bool)
		if len(usable) > 0 && chance(map[bool]int{true: 85, false: 15}[inTimeline], "state group") {
			// Mostly later groups for later events, as time goes.
			near := min(i*len(usable)/n+number(0, 1, "ahead"), len(usable)-1)
			rows.add("event_to_state_groups", row{"event_id": id, "state_group": usable[near]})
		}

		if chance(20, "auth") {
			rows.add("event_auth", row{"event_id": id, "auth_id": ids[0], "room_id": room})
			rows.add("event_auth", row{"event_id": id, "auth_id": anyID("auth"), "room_id": room})
		}
		if chance(15, "relation") {
			rows.add("event_relations", row{
				"event_id": id, "relates_to_id": anyID("relates to"), "relation_type": "m.annotation", "aggregation_key": "👍",
			})
		} else if root := ids[i/4*4]; root != id && chance(30, "in a thread") {
			rows.add("event_relations", row{"event_id": id, "relates_to_id": root, "relation_type": "m.thread"})
		}
		if chance(15, "redaction") {
			rows.add("redactions", row{
				"event_id": id, "redacts": anyID("redacts"), "have_censored": chance(20, "censored"), "recheck": !chance(30, "confirmed"),
			})
		}
		if chance(15, "searchable") {
			rows.add("event_search", row{"event_id": id, "room_id": room, "key": "content.body", "vector": "'lethe':1"})
		}
		if e["rejection_reason"] != nil || chance(3, "rejection") {
			rows.add("rejections", row{"event_id": id, "reason": "auth_error", "last_check": ""})
		}
		if chance(15, "transaction") {
			rows.add("event_txn_id_device_id", row{
				"event_id": id, "room_id": room, "user_id": localUsers[0], "device_id": "PHONE", "txn_id": id, "inserted_ts": 0,
			})
		}
		if chance(25, "thread") {
			threads[id] = anyID("latest")
			rows.add("thread_subscriptions", row{
				"stream_id": base + i, "instance_name": "master", "room_id": room, "event_id": id,
				"user_id": localUsers[0], "subscribed": true, "automatic": false,
			})
		}
		if chance(10, "label") {
			rows.add("event_labels", row{"event_id": id, "label": "l", "room_id": room, "topological_ordering": depth})
		}
		for _, f := range []struct {
			table string
			row   row
		}{
			{"event_expiry", row{"expiry_ts": 1}},
			{"event_failed_pull_attempts", row{"room_id": room, "num_attempts": 1, "last_attempt_ts": 1, "last_cause": ""}},
			{"event_push_actions_staging", row{"user_id": localUsers[0], "actions": "", "notif": 1, "highlight": 0, "thread_id": "main"}},
			{"federation_inbound_events_staging", row{
				"origin": "far.test", "room_id": room, "received_ts": 1, "event_json": "", "internal_metadata": "",
			}},
			{"stream_ordering_to_exterm", row{"room_id": room, "stream_ordering": base + number(0, n, "newest then")}},
		} {
			if chance(10, f.table) {
				f.row["event_id"] = id
				rows.add(f.table, f.row)
			}
		}
		if hasStream && chance(10, "sticky") {
			rows.add("sticky_events", row{
				"stream_id": base + i, "instance_name": "master", "event_id": id, "room_id": room,
				"event_stream_ordering": stream, "sender": localUsers[0], "expires_at": 1,
			})
		}
		for _, user := range localUsers {
			if chance(35, "push action") {
				rows.add("event_push_actions", row{
					"room_id": room, "event_id": id, "user_id": user, "actions": "", "stream_ordering": e["stream_ordering"],
					"notif": bit("notif"), "highlight": 0, "unread": bit("unread"),
					"thread_id": rapid.SampledFrom([]string{"main", "$thread"}).Draw(t, "thread"),
				})
			}
		}
	}

	for id, latest := range threads {
		rows.add("threads", row{
			"room_id": room, "thread_id": id, "latest_event_id": latest,
			"topological_ordering": depths[latest], "stream_ordering": 0,
		})
	}
	receipts := append(notified(rows, room), base)
	slices.Sort(receipts)
	for _, user := range localUsers {
		for _, thread := range []string{"main", "$thread"} {
			if chance(70, "summary") {
				rows.add("event_push_summary", row{
					"user_id": user, "room_id": room, "thread_id": thread, "stream_ordering": 0,
					"notif_count":                  number(0, 6, "notif count"),
					"unread_count":                 perhaps(75, number(0, 6, "unread count"), "counts unread"),
					"last_receipt_stream_ordering": perhaps(60, rapid.SampledFrom(receipts).Draw(t, "receipt"), "has receipt"),
				})
			}
		}
	}
	if len(streams) > 0 && chance(75, "sliding sync") {
		rows.add("sliding_sync_joined_rooms", row{
			"room_id": room, "event_stream_ordering": rapid.SampledFrom(streams).Draw(t, "newest event"),
			"bump_stamp": perhaps(75, rapid.SampledFrom(streams).Draw(t, "bump stamp"), "has bump stamp"), "is_encrypted": false,
		})
	}

	forward := map[string]bool{}
	if !chance(15, "no tip") {
		forward[tip] = true
	}
	for range number(0, 2, "forward extremities") {
		forward[anyID("forward extremity")] = true
	}
	for _, id := range slices.Sorted(maps.Keys(forward)) {
		rows.add("event_forward_extremities", row{"event_id": id, "room_id": room})
	}
	backward := map[string]bool{}
	for range number(0, 3, "backward extremities") {
		if chance(30, "that we have") {
			backward[anyID("backward extremity")] = true
		} else {
			backward[gap()] = true
		}
	}
	for _, id := range slices.Sorted(maps.Keys(backward)) {
		rows.add("event_backward_extremities", row{"event_id": id, "room_id": room})
	}
}
