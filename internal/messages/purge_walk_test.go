package messages

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"lethe/internal/matrix"
	"lethe/internal/schema"
	"lethe/internal/store/journal"
	"lethe/internal/store/postgres"
	"lethe/internal/store/purge"
	"lethe/internal/store/storetest"
)

// TestPagesFollowEachOtherThroughAPurge walks through rooms of any shape, with branches,
// gaps, events of the same depth and such as were backfilled, from page to page, of any
// size and in either direction, while batches of a purge come between the pages: what
// the reader may see comes in its order and never twice, and all of it that stays. With a
// cache the pages are the same.
func TestPagesFollowEachOtherThroughAPurge(t *testing.T) {
	t.Parallel()
	b := setup(t)
	worker, err := postgres.Open(t.Context(), storetest.AsKnownColumns(t, b.url, schema.Worker), postgres.Options{})
	require.NoError(t, err)
	t.Cleanup(worker.Close)
	purger := purge.New(worker, purge.Options{SetWiseFrom: 1, SearchFrom: 1})
	m, rooms := New(b.db, Options{}), 0
	cached := New(b.db, Options{CacheBytes: 1 << 20})
	rapid.Check(t, func(rt *rapid.T) {
		rooms++
		r := drawRoom(rt, rooms)
		r.requireWrite(rt, b)
		request := Request{Room: r.id, Reader: Reader{UserID: "@alice:x"}, Backwards: rapid.Bool().Draw(rt, "backwards")}
		request.All = rapid.Bool().Draw(rt, "all")
		want := r.seen(request)
		if !request.Backwards {
			request.From = new(matrix.NewPageToken(matrix.Token{Stream: math.MinInt64}))
		}
		purge := r.requirePurge(rt, worker, purger)
		purged := rapid.SampledFrom([]bool{true, true, false}).Draw(rt, "purged")

		var got []string
		for pages := 0; ; pages++ {
			require.Less(rt, pages, 2*len(r.events)+2)
			request.Limit = rapid.IntRange(1, 9).Draw(rt, "limit")
			page, err := m.Page(t.Context(), request)
			require.NoError(rt, err)
			require.LessOrEqual(rt, len(page.Chunk), request.Limit)
			for range 2 { // the second one is warm
				same, err := cached.Page(t.Context(), request)
				require.NoError(rt, err)
				require.Equal(rt, withoutAges(page.Chunk), withoutAges(same.Chunk))
				require.Equal(rt, place(page.End), place(same.End))
			}
			for _, raw := range page.Chunk {
				got = append(got, requireDecoded(t, raw)["event_id"].(string))
			}
			if request.From = page.End; page.End == nil {
				break
			}
			if purged {
				for range rapid.IntRange(0, 3).Draw(rt, "batches") {
					purge()
				}
			}
		}
		if !purged {
			require.Equal(rt, want, got)
			return
		}
		for purge() {
		}
		stays := r.requireStays(rt, b)
		at := 0
		for _, id := range got {
			next := slices.Index(want[at:], id)
			require.GreaterOrEqual(rt, next, 0, "%s comes twice, or too late, or is not to be seen: %v of %v", id, got, want)
			for _, missed := range want[at : at+next] {
				require.NotContains(rt, stays, missed, "it stays, and was not shown")
			}
			at += next + 1
		}
		for _, missed := range want[at:] {
			require.NotContains(rt, stays, missed, "it stays, and was not shown")
		}
	})
}

// A drawnRoom is a room of any shape.
type drawnRoom struct {
	id     string
	events []drawnEvent
	edges  [][2]string

	// shared is the state group in which alice is joined and all may see what is
	// said; hidden one in which she is not, and only those who are may.
	shared, hidden int64
}

type drawnEvent struct {
	id, sender           string
	depth, stream        int64
	state, rejected, bad bool

	// group is its state group, 0 if nobody knows it.
	group int64
}

// drawRoom draws the n-th room. No two have a place in the stream, or a state group, in
// common.
func drawRoom(t *rapid.T, n int) *drawnRoom {
	r := &drawnRoom{id: fmt.Sprintf("!walk%d:x", n), shared: int64(2*n - 1), hidden: int64(2 * n)}
	depth := int64(rapid.IntRange(0, 3).Draw(t, "least depth"))
	for i := range rapid.IntRange(3, 30).Draw(t, "events") {
		e := drawnEvent{id: fmt.Sprintf("$%d/%d", n, i), depth: depth, stream: int64(1000*n + 10 + i)}
		e.sender = rapid.SampledFrom([]string{"@alice:x", "@bob:y"}).Draw(t, "sender")
		e.state = rapid.SampledFrom([]bool{false, false, false, true}).Draw(t, "state")
		// Most can be seen.
		e.group = rapid.SampledFrom([]int64{r.shared, r.shared, r.shared, r.hidden, 0}).Draw(t, "state group")
		switch rapid.IntRange(0, 9).Draw(t, "kind") {
		case 0:
			e.rejected = true
		case 1:
			e.bad = true
		case 2, 3, 4:
			e.stream = -e.stream
		}
		for range rapid.IntRange(0, 2).Draw(t, "edges") {
			before := rapid.IntRange(-1, i-1).Draw(t, "edge")
			edge := [2]string{e.id, fmt.Sprintf("$%d/%d", n, before)}
			if !slices.Contains(r.edges, edge) {
				r.edges = append(r.edges, edge)
			}
		}
		r.events = append(r.events, e)
		depth += rapid.SampledFrom([]int64{0, 0, 1, 1, 1, 2, 7}).Draw(t, "higher by")
	}
	slices.SortFunc(r.events, func(a, b drawnEvent) int {
		return cmp.Or(cmp.Compare(a.depth, b.depth), cmp.Compare(a.stream, b.stream))
	})
	return r
}

// seen are the events that come, in the order in which they do.
func (r *drawnRoom) seen(request Request) (ids []string) {
	for _, e := range r.events {
		if !e.rejected && (request.All || e.group == r.shared && !e.bad) {
			ids = append(ids, e.id)
		}
	}
	if request.Backwards {
		slices.Reverse(ids)
	}
	return ids
}

// requireWrite writes the room to the database. Its state came before its timeline.
func (r *drawnRoom) requireWrite(t *rapid.T, b *testBundle) {
	var batch pgx.Batch
	batch.Queue(`INSERT INTO rooms (room_id, room_version) VALUES ($1, '11')`, r.id)
	batch.Queue(`INSERT INTO state_groups (id, room_id, event_id) VALUES ($2, $1, ''), ($3, $1, '')`, r.id, r.shared, r.hidden)
	add := func(e drawnEvent, kind string, key *string, outlier bool, content string) {
		metadata := `{}`
		if e.bad {
			metadata = `{"soft_failed":true}`
		}
		batch.Queue(`
			INSERT INTO events (event_id, room_id, type, state_key, sender, topological_ordering, depth, stream_ordering, processed, outlier)
			VALUES ($1, $2, $3, $4, $5, $6, $6, $7, true, $8)`, e.id, r.id, kind, key, e.sender, e.depth, e.stream, outlier)
		batch.Queue(`INSERT INTO event_json (event_id, room_id, internal_metadata, json, format_version) VALUES ($1, $2, $3, $4, 3)`,
			e.id, r.id, metadata, fmt.Sprintf(`{"type":%q,"sender":%q,"origin_server_ts":1,"depth":1,"content":%s}`, kind, e.sender, content))
		if key != nil {
			batch.Queue(`INSERT INTO state_events (event_id, room_id, type, state_key) VALUES ($1, $2, $3, $4)`, e.id, r.id, kind, *key)
		}
		if e.rejected {
			batch.Queue(`INSERT INTO rejections (event_id, reason, last_check) VALUES ($1, '', '')`, e.id)
		}
		if e.group != 0 {
			batch.Queue(`INSERT INTO event_to_state_groups (event_id, state_group) VALUES ($1, $2)`, e.id, e.group)
		}
	}
	for i, s := range []struct {
		kind, key, content string
		groups             []int64
	}{
		{"m.room.create", "", `{}`, []int64{r.shared, r.hidden}},
		{"m.room.history_visibility", "", `{"history_visibility":"shared"}`, []int64{r.shared}},
		{"m.room.history_visibility", "", `{"history_visibility":"joined"}`, []int64{r.hidden}},
		{"m.room.member", "@alice:x", `{"membership":"join"}`, []int64{r.shared}},
	} {
		e := drawnEvent{id: fmt.Sprintf("%s state %d", r.id, i), sender: "@alice:x", depth: 1, stream: 500*(r.shared+1) + int64(i)}
		add(e, s.kind, &s.key, true, s.content)
		for _, group := range s.groups {
			batch.Queue(`INSERT INTO state_groups_state (state_group, room_id, type, state_key, event_id) VALUES ($1, $2, $3, $4, $5)`,
				group, r.id, s.kind, s.key, e.id)
		}
	}
	batch.Queue(`INSERT INTO local_current_membership (room_id, user_id, event_id, membership) VALUES ($1, '@alice:x', $2, 'join')`,
		r.id, r.id+" state 3")
	for _, e := range r.events {
		var key *string
		kind := "m.room.message"
		if e.state {
			key, kind = new(""), "m.room.topic"
		}
		add(e, kind, key, false, `{}`)
	}
	for _, edge := range r.edges {
		batch.Queue(`INSERT INTO event_edges (event_id, prev_event_id, is_state) VALUES ($1, $2, false)`, edge[0], edge[1])
	}
	batch.Queue(`INSERT INTO event_forward_extremities (event_id, room_id) VALUES ($1, $2)`, r.events[len(r.events)-1].id, r.id)
	require.NoError(t, b.conn.SendBatch(t.Context(), &batch).Close())
}

// requirePurge begins a job that purges the room to some depth. It returns a function
// that runs one batch, of events or of state groups, and reports false if there was
// nothing left.
func (r *drawnRoom) requirePurge(t *rapid.T, worker *postgres.DB, purger *purge.Purger) (batch func() bool) {
	ctx := t.Context()
	history, err := purger.History(ctx, purge.HistoryRequest{
		Room: r.id, ServerName: "x", DeleteLocal: rapid.Bool().Draw(t, "delete local"),
		// Mostly much of it.
		Before: r.events[len(r.events)-1-rapid.IntRange(0, len(r.events)-1).Draw(t, "kept")].depth,
	})
	require.NoError(t, err)
	size := rapid.IntRange(1, 6).Draw(t, "batch size")
	id := strings.Map(func(c rune) rune { return c - '0' + 'a' }, fmt.Sprintf("%016d", r.hidden))
	jobs := journal.New(worker)
	require.NoError(t, jobs.InsertJob(ctx, storetest.NewJob(id, r.id), false))
	job, err := jobs.ClaimJob(ctx, id, 1, time.Minute, 0)
	require.NoError(t, err)
	fence, err := jobs.NextFence(ctx, r.id)
	require.NoError(t, err)
	work := storetest.Work{Run: storetest.RunOf(job), RoomLock: journal.RoomLock{Room: r.id, Fence: fence, Lease: time.Minute}}
	from, events := int64(math.MinInt64), true
	return func() bool {
		if events {
			next, err := history.NextDepth(ctx, from)
			if err == nil {
				require.NoError(t, storetest.InBatch(ctx, jobs, work, func(b *journal.Batch) (any, error) {
					done, err := history.Purge(ctx, b, next, size)
					from = done.Cut
					return nil, err
				}))
				return true
			}
			require.True(t, errors.Is(err, postgres.ErrNotFound), "%v", err)
			events = false
		}
		step, err := history.NextStateGroups(ctx)
		require.NoError(t, err)
		if step == purge.StateGroupsCollected {
			return false
		}
		require.NoError(t, storetest.InBatch(ctx, jobs, work, func(b *journal.Batch) (any, error) {
			return history.CollectStateGroups(ctx, b, step, size)
		}))
		return true
	}
}

// requireStays returns the events of the timeline that are still in the database.
func (r *drawnRoom) requireStays(t *rapid.T, b *testBundle) []string {
	rows, err := b.conn.Query(t.Context(), `SELECT event_id FROM events WHERE room_id = $1 AND NOT outlier`, r.id)
	require.NoError(t, err)
	ids, err := pgx.CollectRows(rows, pgx.RowTo[string])
	require.NoError(t, err)
	return ids
}
