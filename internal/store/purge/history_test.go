package purge_test

import (
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"lethe/internal/store/journal"
	"lethe/internal/store/postgres"
	"lethe/internal/store/purge"
	"lethe/internal/store/storetest"
)

// at is an event at a depth.
type at struct {
	depth, stream int64
	sender        any // none: a remote one
	state         bool
}

// insert adds events without any relation to a room.
func (l *lab) insert(room string, events map[string]at) {
	l.T.Helper()
	for id, e := range events {
		if e.sender == nil {
			e.sender = "@zoe:far"
		}
		var stream any = e.stream
		if e.stream == 0 {
			stream = nil
		}
		l.Exec(`
			INSERT INTO events (event_id, room_id, type, topological_ordering, depth, stream_ordering, processed, outlier, sender)
			VALUES ($1, $2, 't', $3, $3, $4, true, false, $5)`, id, room, e.depth, stream, e.sender)
		if e.state {
			l.Exec(`INSERT INTO state_events (event_id, room_id, type, state_key) VALUES ($1, $2, 't', $1)`, id, room)
		}
	}
}

func (l *lab) extremities(room string, ids ...string) {
	l.T.Helper()
	l.Exec(`INSERT INTO event_forward_extremities (event_id, room_id) SELECT unnest($1::text[]), $2`, ids, room)
}

func TestPurgeStaysBelowTheHighestForwardExtremity(t *testing.T) {
	t.Parallel()
	l := setup(t)
	l.insert("!none:x", map[string]at{"$n": {depth: 5}})
	l.insert("!one:x", map[string]at{"$o": {depth: 5}})
	l.extremities("!one:x", "$o")
	l.insert("!two:x", map[string]at{"$low": {depth: 3}, "$high": {depth: 7}})
	l.extremities("!two:x", "$low", "$high")
	for _, c := range []struct {
		room    string
		before  int64
		allowed bool
	}{
		{"!none:x", math.MaxInt64, true},
		{"!one:x", 4, true},
		{"!one:x", 5, true},
		{"!one:x", 6, false},
		{"!one:x", math.MaxInt64, false},
		{"!two:x", 3, true},
		{"!two:x", 7, true},
		{"!two:x", 8, false},
		{"!unknown:x", 1, true},
	} {
		history, err := l.Purger.History(l.Ctx, storetest.PurgeRequest(c.room, c.before))
		require.NoError(t, err)
		err = history.Guard(l.Ctx)
		if c.allowed {
			require.NoError(t, err, c)
			continue
		}
		require.ErrorIs(t, err, purge.ErrBeyondExtremities, c)
		batch := l.Work(c.room)
		l.RequireUnchanged(func() {
			_, err := l.PurgeBatch(batch, c.before, 9)
			require.ErrorIs(t, err, purge.ErrBeyondExtremities, "as an extremity that moved since the guard")
		})
		require.NoError(t, l.Journal.EndJob(l.Ctx, batch.Run, journal.Failed, "why"))
	}
}

func TestBatchesAreOfWholeLevels(t *testing.T) {
	t.Parallel()
	// Levels of 3, 1, 2 and 1 events, 3 of them below zero, and the level that stays.
	depths := []int64{-4, -4, -4, 1, 5, 5, 6, 9}
	type step = purge.HistoryBatch
	for size, want := range map[int][]step{
		1:             {{Cut: -3, Deleted: 3}, {Cut: 5, Deleted: 1}, {Cut: 6, Deleted: 2}, {Cut: 8, Deleted: 1}},
		2:             {{Cut: -3, Deleted: 3}, {Cut: 5, Deleted: 1}, {Cut: 6, Deleted: 2}, {Cut: 8, Deleted: 1}},
		3:             {{Cut: 1, Deleted: 3}, {Cut: 6, Deleted: 3}, {Cut: 8, Deleted: 1}},
		4:             {{Cut: 5, Deleted: 4}, {Cut: 8, Deleted: 3}},
		6:             {{Cut: 6, Deleted: 6}, {Cut: 8, Deleted: 1}},
		7:             {{Cut: 8, Deleted: 7}},
		math.MaxInt32: {{Cut: 8, Deleted: 7}},
	} {
		l := setup(t)
		events := map[string]at{}
		for i, depth := range depths {
			events["$"+strings.Repeat("i", i+1)] = at{depth: depth}
		}
		l.insert(room, events)
		history, err := l.Purger.History(l.Ctx, storetest.PurgeRequest(room, 8))
		require.NoError(t, err)
		batch := l.Work(room)
		var got []step
		from := int64(math.MinInt64)
		for {
			next, err := history.NextDepth(l.Ctx, from)
			if err != nil {
				require.ErrorIs(t, err, postgres.ErrNotFound)
				break
			}
			require.Contains(t, depths, next)
			var done step
			err = l.InBatch(batch, func(b *journal.Batch) (_ any, err error) {
				done, err = history.Purge(l.Ctx, b, next, size)
				return done.Cut, err
			})
			require.NoError(t, err)
			require.Equal(t, storetest.RowWise(t, l.Conn), done.RowWise)
			done.RowWise = ""
			got = append(got, done)
			from = done.Cut
			require.Equal(t, done.Cut, storetest.One[int64](l.Lab, `SELECT checkpoint::bigint FROM lethe.jobs`))
			require.Zero(t, storetest.One[int](l.Lab, `SELECT count(*) FROM events WHERE depth < $1`, done.Cut), "nothing stays below the cut")
		}
		require.Equal(t, want, got, size)
	}
}

func TestBatchWithNothingToPurgeOnlyMovesTheCheckpoint(t *testing.T) {
	t.Parallel()
	l := setup(t)
	l.Chain(room, "", 3, 0)
	batch := l.Work(room)
	before := l.Dump("public")
	done, err := l.PurgeBatchWith(batch, 1, 9, func(done purge.HistoryBatch) any { return "here" })
	require.NoError(t, err)
	require.Equal(t, purge.HistoryBatch{Cut: 1, RowWise: storetest.RowWise(t, l.Conn)}, done)
	require.Equal(t, before, l.Dump("public"))
	require.JSONEq(t, `"here"`, string(l.Job(batch.Run.JobID).Checkpoint))
}

// A sender's domain is everything after the first colon, unchanged.
func TestLocalEventsStayUnlessAskedFor(t *testing.T) {
	t.Parallel()
	const ours = "my_server:8448"
	local := []string{"@a:my_server:8448", "", "nobody"}
	remote := []string{"@a:my_server", "@a:myXserver:8448", "@a:my_server:8448:1", "@a:far:my_server:8448", "@a:MY_server:8448", "@a:", ":"}
	for _, deleteLocal := range []bool{false, true} {
		l := setup(t)
		for _, sender := range slices.Concat(local, remote) {
			l.insert(room, map[string]at{sender: {depth: 1, sender: sender}})
		}
		l.insert(room, map[string]at{"null": {depth: 1}, "state": {depth: 1, state: true}})
		l.Exec(`UPDATE events SET sender = NULL WHERE event_id = 'null'`)

		want := append([]string{"state"}, local...)
		if want = append(want, "null"); deleteLocal {
			want = []string{"state"}
		}
		require.NoError(t, l.purge(purge.HistoryRequest{Room: room, Before: 2, DeleteLocal: deleteLocal, ServerName: ours}, 9))
		require.ElementsMatch(t, want, storetest.All[string](l.Lab, `SELECT event_id FROM events`))
		require.Empty(t, l.Timeline(room), "those that stay are outliers")
	}
}

// An index of state_events may have lost its entry. Then the event's own row says that it
// is a state event, unless it was rejected.
func TestOwnRowOfAStateEventIsEnough(t *testing.T) {
	t.Parallel()
	l := setup(t)
	l.insert(room, map[string]at{"state": {depth: 1}, "rejected": {depth: 1}, "message": {depth: 1}})
	l.Exec(`
		UPDATE events SET state_key = '', rejection_reason = CASE event_id WHEN 'rejected' THEN 'no' END
		WHERE event_id IN ('state', 'rejected')`)
	require.NoError(t, l.purge(purge.HistoryRequest{Room: room, Before: 2, DeleteLocal: true, ServerName: "x"}, 9))
	require.Equal(t, []string{"state"}, storetest.All[string](l.Lab, `SELECT event_id FROM events`))
}

func TestSlidingSyncRowMovesOffDeletedEvents(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		events         map[string]at
		newest         int64
		bump           any
		want, wantBump any // nil: none
	}{
		"the newest came late and lies deep": {
			events: map[string]at{"$late": {depth: 2, stream: 100}, "$tip": {depth: 9, stream: 50}, "$x": {depth: 8, stream: 40}},
			newest: 100, bump: int64(100), want: int64(50), wantBump: int64(100), // it orders the lists of clients
		},
		"only the bump stamp points there": {
			events: map[string]at{"$old": {depth: 2, stream: 10}, "$tip": {depth: 9, stream: 50}},
			newest: 50, bump: int64(10), want: int64(50), wantBump: int64(10),
		},
		"the bump stamp is NULL, or no event's": {
			events: map[string]at{"$late": {depth: 2, stream: 100}, "$tip": {depth: 9, stream: 50}},
			newest: 100, bump: nil, want: int64(50), wantBump: nil,
		},
		"a state event stays": {
			events: map[string]at{"$late": {depth: 2, stream: 100, state: true}, "$tip": {depth: 9, stream: 50}},
			newest: 100, bump: int64(100), want: int64(100), wantBump: int64(100),
		},
		"the rest was never streamed": {
			events: map[string]at{"$late": {depth: 2, stream: 100}, "$tip": {depth: 9}},
			newest: 100, bump: int64(100),
		},
		"the room becomes empty": {
			events: map[string]at{"$late": {depth: 2, stream: 100}}, newest: 100, bump: int64(100),
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := setup(t)
			l.Exec(`INSERT INTO rooms (room_id) VALUES ($1), ('!other:x')`, room)
			l.insert(room, c.events)
			l.insert("!other:x", map[string]at{"$other": {depth: 1, stream: 200}})
			l.Exec(`INSERT INTO sliding_sync_joined_rooms (room_id, event_stream_ordering, bump_stamp)
				VALUES ($1, $2, $3), ('!other:x', 200, 10)`, room, c.newest, c.bump)
			require.NoError(t, l.purge(storetest.PurgeRequest(room, 5), 1))
			require.Equal(t, []int64{200, 10}, storetest.One[[]int64](l.Lab, `
				SELECT ARRAY[event_stream_ordering, bump_stamp] FROM sliding_sync_joined_rooms WHERE room_id = '!other:x'`))
			got := storetest.All[[]any](l.Lab, `
				SELECT ARRAY[event_stream_ordering, bump_stamp] FROM sliding_sync_joined_rooms WHERE room_id = $1`, room)
			if c.want == nil {
				require.Empty(t, got)
				return
			}
			require.Equal(t, [][]any{{c.want, c.wantBump}}, got)
		})
	}
}

func TestPushSummariesLoseWhatTheyCounted(t *testing.T) {
	t.Parallel()
	l := setup(t)
	l.insert(room, map[string]at{
		"$1": {depth: 1, stream: 1}, "$2": {depth: 2, stream: 2}, "$3": {depth: 3, stream: 3},
		"$kept": {depth: 3, stream: 4, state: true}, "$tip": {depth: 9, stream: 9},
	})
	l.Exec(`UPDATE event_push_summary_stream_ordering SET stream_ordering = 8`)
	for _, a := range []struct {
		user, event, thread string
		stream              int64
		notif, unread       any
	}{
		{"@a", "$1", "main", 1, 1, 1},
		{"@a", "$2", "main", 2, 1, nil},
		{"@a", "$3", "$1", 3, 1, 1}, // in a thread
		{"@a", "$kept", "main", 4, 1, 1},
		{"@a", "$tip", "main", 9, 1, 1},
		{"@b", "$1", "main", 1, 1, 1},
		{"@b", "$2", "main", 2, 1, 1}, // read
		{"@b", "$3", "main", 3, 0, 1},
		{"@c", "$1", "main", 1, 1, 1},
		{"@c", "$2", "main", 2, 1, 1},
	} {
		l.Exec(`INSERT INTO event_push_actions (room_id, event_id, user_id, thread_id, stream_ordering, notif, unread, actions)
			VALUES ($1, $2, $3, $4, $5, $6, $7, '')`, room, a.event, a.user, a.thread, a.stream, a.notif, a.unread)
	}
	l.Exec(`INSERT INTO event_push_summary (room_id, user_id, thread_id, stream_ordering, notif_count, unread_count, last_receipt_stream_ordering) VALUES
		($1, '@a', 'main', 0, 3, 5, NULL),
		($1, '@a', '$1', 0, 4, NULL, NULL),
		($1, '@b', 'main', 0, 7, 7, 2),
		($1, '@c', 'main', 0, 1, 0, NULL),
		($1, '@d', 'main', 0, 6, 6, NULL),
		('!other:x', '@a', 'main', 0, 6, 6, NULL)`, room)

	require.NoError(t, l.purge(storetest.PurgeRequest(room, 5), 1))
	require.Equal(t, []string{
		"!other:x @a main 6 6",
		"!room:x @a $1 3 0",   // its own thread's, and a null counts as 0
		"!room:x @a main 1 4", // not that of the state event, which stays
		"!room:x @b main 7 6", // not what was read
		"!room:x @c main 0 0", // never below zero
		"!room:x @d main 6 6",
	}, storetest.All[string](l.Lab, `
		SELECT concat_ws(' ', room_id, user_id, thread_id, notif_count, unread_count)
		FROM event_push_summary ORDER BY room_id, user_id, thread_id COLLATE "C"`))
	require.Equal(t, []string{"$kept", "$tip"}, storetest.All[string](l.Lab, `SELECT event_id FROM event_push_actions ORDER BY 1`))
}

func TestPushActionsThatWereNotRotatedWereNotCounted(t *testing.T) {
	t.Parallel()
	l := setup(t)
	l.insert(room, map[string]at{"$5": {depth: 1, stream: 5}, "$6": {depth: 1, stream: 6}})
	l.Exec(`UPDATE event_push_summary_stream_ordering SET stream_ordering = 5`)
	l.Exec(`INSERT INTO event_push_actions (room_id, event_id, user_id, thread_id, stream_ordering, notif, actions)
		SELECT room_id, event_id, '@a', 'main', stream_ordering, 1, '' FROM events`)
	l.Exec(`INSERT INTO event_push_summary (room_id, user_id, thread_id, stream_ordering, notif_count) VALUES ($1, '@a', 'main', 0, 9)`, room)
	require.NoError(t, l.purge(storetest.PurgeRequest(room, 5), 9))
	require.Equal(t, 8, storetest.One[int](l.Lab, `SELECT notif_count FROM event_push_summary`))
}

func TestPurgeLeavesOtherRoomsAlone(t *testing.T) {
	t.Parallel()
	l := setup(t)
	l.Chain(room, "", 6, 0)
	l.Chain("!other:x", "other", 6, 100)
	others := func() []string {
		var rows []string
		for _, table := range l.Dump("public") {
			for _, row := range table {
				if strings.Contains(row, "other") {
					rows = append(rows, row)
				}
			}
		}
		slices.Sort(rows)
		return rows
	}
	before := others()
	require.Greater(t, len(before), 30)
	require.NoError(t, l.purge(storetest.PurgeRequest(room, 6), 2))
	require.Equal(t, []string{"$6"}, l.Timeline(room))
	require.Equal(t, before, others())
}

func TestSecondPurgeChangesNothing(t *testing.T) {
	t.Parallel()
	l := setup(t)
	l.Chain(room, "", 6, 0)
	require.NoError(t, l.purge(storetest.PurgeRequest(room, 4), 1))
	require.Equal(t, []string{"$3"}, storetest.All[string](l.Lab, `SELECT event_id FROM event_backward_extremities`))
	require.Equal(t, 4, storetest.One[int](l.Lab, `SELECT min_depth FROM room_depth`))
	before := l.Dump("public")
	for _, size := range []int{1, 99} {
		require.NoError(t, l.purge(storetest.PurgeRequest(room, 4), size))
		require.Equal(t, before, l.Dump("public"))
	}
}

// A state event that a purge has kept is not selected again, also if only state_events says
// what it is.
func TestSecondPurgeSelectsNothing(t *testing.T) {
	t.Parallel()
	l := setup(t)
	l.insert(room, map[string]at{"state": {depth: 1, state: true}, "message": {depth: 2}})
	request := purge.HistoryRequest{Room: room, Before: 3, DeleteLocal: true, ServerName: "x"}
	require.NoError(t, l.purge(request, 9))
	require.Equal(t, []string{"state"}, storetest.All[string](l.Lab, `SELECT event_id FROM events WHERE outlier`))
	again, err := l.Purger.History(l.Ctx, request)
	require.NoError(t, err)
	_, err = again.NextDepth(l.Ctx, math.MinInt64)
	require.ErrorIs(t, err, postgres.ErrNotFound)
}

// A room without its whole state is not purged: rows of Synapse's that reference its
// events come and go until it has the state.
func TestPartiallyJoinedRoomIsRefused(t *testing.T) {
	t.Parallel()
	l := setup(t)
	l.Chain(room, "", 5, 0)
	l.Exec(`INSERT INTO partial_state_rooms (room_id, join_event_id) VALUES ($1, '$1')`, room)
	work := l.Work(room)
	l.RequireUnchanged(func() {
		history, err := l.Purger.History(l.Ctx, storetest.PurgeRequest(room, 4))
		require.NoError(t, err)
		require.ErrorIs(t, history.Guard(l.Ctx), purge.ErrPartialState)
		_, err = l.PurgeBatch(work, 4, 10)
		require.ErrorIs(t, err, purge.ErrPartialState)
	})
	l.Exec(`DELETE FROM partial_state_rooms`)
	done, err := l.PurgeBatch(work, 4, 10)
	require.NoError(t, err)
	require.EqualValues(t, 3, done.Deleted)
}
