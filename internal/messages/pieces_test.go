package messages

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"lethe/internal/matrix"
	"lethe/internal/store/timeline"
)

// textOfSize is a text of n bytes.
func textOfSize(n int) string { return strings.Repeat("x", n) }

// newLargeRoom makes a room of which each kind of JSON that an event is shown with is large
// somewhere: its own, a thread's latest reply with an edit, an edit, a redaction, the state
// that it replaced, and the membership of its sender.
func newLargeRoom(t *testing.T, options Options) *writtenRoom {
	h := newHouse(t, options)
	r := h.newRoom("!large:x", "shared")
	random := rand.New(rand.NewPCG(1, 2))
	relate := func(relation, to string) {
		h.requireExec(`INSERT INTO event_relations (event_id, relates_to_id, relation_type) VALUES ($1, $2, $3)`, r.last().ID, to, relation)
	}
	for i := range 12 {
		user := fmt.Sprintf("@u%d:x", i)
		key := user
		r.requireWrite("m.room.member", user, &key, `{"membership":"join","x":"`+textOfSize(random.IntN(9000))+`"}`)
		r.belong(user, "join", r.last().ID)
	}
	for i := range 60 {
		user := fmt.Sprintf("@u%d:x", random.IntN(12))
		r.requireWrite("m.room.message", user, nil, `{"body":"`+textOfSize(random.IntN(6000))+`"}`)
		root := r.last().ID
		switch i % 6 {
		case 0:
			r.requireWrite("m.room.message", user, nil, `{"body":"`+textOfSize(random.IntN(8000))+`"}`)
			relate("m.thread", root)
			reply := r.last().ID
			r.requireWrite("m.room.message", user, nil, `{"body":"`+textOfSize(random.IntN(8000))+`"}`)
			relate("m.replace", reply)
		case 1:
			r.requireWrite("m.room.message", user, nil, `{"body":"`+textOfSize(random.IntN(8000))+`"}`)
			relate("m.replace", root)
		case 2:
			r.requireWrite("m.room.redaction", user, nil, `{"reason":"`+textOfSize(random.IntN(8000))+`","redacts":"`+root+`"}`)
			h.requireExec(`INSERT INTO redactions (event_id, redacts, recheck) VALUES ($1, $2, false)`, r.last().ID, root)
		case 3:
			r.set("m.room.topic", "", `{"topic":"`+textOfSize(random.IntN(8000))+`"}`)
		case 4:
			for range random.IntN(5) {
				r.requireWrite("m.room.message", user, nil, `{}`)
				relate("m.reference", root)
			}
		}
	}
	// Small events with much to show with them.
	var small []string
	for range 8 {
		r.requireWrite("m.room.message", "@u1:x", nil, `{}`)
		small = append(small, r.last().ID)
		r.set("m.room.topic", "", `{"topic":"short"}`)
	}
	for i, root := range small {
		for _, relation := range []string{"m.thread", "m.replace"} {
			r.requireWrite("m.room.message", "@u1:x", nil, `{"body":"`+textOfSize(6000+i)+`"}`)
			relate(relation, root)
			reply := r.last().ID
			if relation == "m.thread" {
				r.requireWrite("m.room.message", "@u1:x", nil, `{"body":"`+textOfSize(11000)+`"}`)
				relate("m.replace", reply)
			}
		}
	}
	return r
}

// requireWalk follows the pages to the last one.
func (r *writtenRoom) requireWalk(request Request) (events []event, state map[string]event, pages []Page) {
	r.t.Helper()
	state = map[string]event{}
	for range 10_000 {
		page, err := r.Page(r.ctx, request)
		require.NoError(r.t, err)
		pages = append(pages, page)
		events = append(events, decodedAll(r.t, page.Chunk)...)
		for _, e := range decodedAll(r.t, page.State) {
			state[e["state_key"].(string)] = e
		}
		if request.From = page.End; page.End == nil {
			return events, state, pages
		}
	}
	require.FailNow(r.t, "the walk does not end")
	return nil, nil, nil
}

func sizeOf(page Page) (size int) {
	for _, part := range [][]json.RawMessage{page.Chunk, page.State} {
		for _, e := range part {
			size += len(e) + 1
		}
	}
	return size
}

// TestPagesAreBoundedInBytes: the pages have the same events as those of five events each, each
// once, with all that they are shown with, and none is larger than it may be, nor ends
// early without need.
func TestPagesAreBoundedInBytes(t *testing.T) {
	t.Parallel()
	const most = 64 << 10
	budget := NewBudget(1 << 30)
	r := newLargeRoom(t, Options{MaxPageBytes: most, Budget: budget})
	lazy, err := ParseFilter([]byte(`{"lazy_load_members":true}`))
	require.NoError(t, err)
	// What one event has, and the membership of its sender, is not bounded.
	const largest = 40 << 10
	for name, request := range map[string]Request{
		"admin": {All: true}, "member": {Reader: Reader{UserID: "@u1:x"}}, "lazy": {Reader: Reader{UserID: "@u1:x"}, Filter: lazy},
	} {
		for _, request.Backwards = range []bool{false, true} {
			request.Room = r.id
			request.Limit = 5
			r.Messages.piece = bounds{bytes: pieceBytes, rows: pieceRows}
			want, wantState, single := r.requireWalk(request)
			for _, page := range single {
				page.Release()
			}
			require.Greater(t, len(want), 100)
			request.Limit = 1000
			pieces := []bounds{{bytes: 30_000, rows: 3}, {bytes: pieceBytes, rows: pieceRows}}
			if name == "lazy" && request.Backwards {
				pieces = append(pieces, bounds{bytes: 1, rows: 1}) // slow: a statement for each event
			}
			for _, piece := range pieces {
				r.Messages.piece = piece
				got, state, pages := r.requireWalk(request)
				require.Equal(t, ageless(want), ageless(got), "%s, %v", name, piece)
				if name == "lazy" {
					require.Equal(t, ageless(wantState), ageless(state))
				}
				for i, page := range pages {
					size := sizeOf(page)
					if name == "lazy" {
						require.Less(t, size, most+12*2*9000)
					} else {
						require.LessOrEqual(t, size, most)
					}
					if i < len(pages)-2 { // the last one only says that there are no more
						require.NotEmpty(t, page.Chunk, "%s, %v: page %d of %d", name, piece, i, len(pages))
						require.Greater(t, size, most-largest, "%s, %v: page %d of %d", name, piece, i, len(pages))
					}
					page.Release()
					page.Release()
				}
				require.Zero(t, budget.Taken())
			}
		}
	}
}

// TestPagesShareABudget: a page takes what it needs until it is released, ends early if
// there is no more, and is refused if there is nothing.
func TestPagesShareABudget(t *testing.T) {
	t.Parallel()
	budget := NewBudget(pieceMemory + 150_000)
	r := newLargeRoom(t, Options{MaxPageBytes: 1 << 30, Budget: budget})
	r.Messages.piece.bytes = 20_000
	request := Request{Room: r.id, All: true, Limit: 1000}

	alone, err := r.Page(r.ctx, request)
	require.NoError(t, err)
	require.NotNil(t, alone.End, "it ends where the budget does")
	require.Greater(t, sizeOf(alone), 100_000)
	require.Less(t, sizeOf(alone), 250_000)
	require.GreaterOrEqual(t, budget.Taken(), int64(sizeOf(alone)-len(alone.Chunk)), "until the page is released")

	_, err = r.Page(r.ctx, request)
	require.ErrorIs(t, err, ErrBusy)
	_, err = r.Context(r.ctx, ContextRequest{Room: r.id, EventID: r.events[50].ID, Limit: 10})
	require.ErrorIs(t, err, ErrBusy)
	taken := budget.Taken()
	_, err = r.Page(r.ctx, Request{Room: "!no:x", Reader: Reader{UserID: "@no:x"}, Limit: 1})
	require.Error(t, err)
	require.Equal(t, taken, budget.Taken(), "what is refused takes nothing")
	alone.Release()
	require.Zero(t, budget.Taken())
	_, err = r.Page(r.ctx, Request{Room: "!no:x", Reader: Reader{UserID: "@no:x"}, Limit: 1})
	require.ErrorIs(t, err, ErrForbidden)
	require.Zero(t, budget.Taken())
	again, err := r.Page(r.ctx, request)
	require.NoError(t, err)
	again.Release()
	require.Equal(t, ageless(decodedAll(t, alone.Chunk)), ageless(decodedAll(t, again.Chunk)))
}

// TestContextsAreBoundedInBytes: each list of a context ends in bytes, and its tokens lead to
// what is left out.
func TestContextsAreBoundedInBytes(t *testing.T) {
	t.Parallel()
	const most = 32 << 10
	r := newLargeRoom(t, Options{MaxPageBytes: most})
	at := len(r.events) / 2
	found, err := r.Context(r.ctx, ContextRequest{Room: r.id, EventID: r.events[at].ID, Limit: 1000})
	require.NoError(t, err)
	id := func(raw json.RawMessage) string { return requireDecoded(t, raw)["event_id"].(string) }
	for _, list := range [][]json.RawMessage{found.Before, found.After} {
		require.NotEmpty(t, list)
		require.LessOrEqual(t, sizeOf(Page{Chunk: list}), most+len(list))
	}
	require.NotEmpty(t, found.State)
	require.Less(t, sizeOf(Page{Chunk: found.State}), 3*most)
	for i, e := range found.Before {
		require.Equal(t, r.events[at-1-i].ID, id(e))
	}
	for i, e := range found.After {
		require.Equal(t, r.events[at+1+i].ID, id(e))
	}
	next := func(from matrix.PageToken, backwards bool) string {
		page, err := r.Page(r.ctx, Request{Room: r.id, All: true, Limit: 1, From: &from, Backwards: backwards})
		require.NoError(t, err)
		return id(page.Chunk[0])
	}
	require.Equal(t, r.events[at-1-len(found.Before)].ID, next(found.Start, true))
	require.Equal(t, r.events[at+1+len(found.After)].ID, next(found.End, false))
}

// TestReadsAreBoundedInBytes: no statement reads more than it may and one event, but each
// reads its first.
func TestReadsAreBoundedInBytes(t *testing.T) {
	t.Parallel()
	r := newLargeRoom(t, Options{})
	lengths := func(events ...timeline.Event) (n int) {
		for _, e := range events {
			n += len(e.JSON) + len(e.Redaction)
		}
		return n
	}
	require.NoError(t, timeline.Read(r.ctx, r.db, func(ctx context.Context, snapshot *timeline.Snapshot) error {
		whole, err := snapshot.Pages(ctx, timeline.PageQuery{Room: r.id, Limit: 1000})
		require.NoError(t, err)
		require.False(t, whole[0].Cut)
		all := whole[0].Events
		var query timeline.BundleQuery
		query.Room = r.id
		for _, e := range all {
			query.Replaced = append(query.Replaced, e.ID)
			if e.Related.Thread {
				query.Roots = append(query.Roots, e.ID)
			}
			if e.Related.Edited {
				query.Originals = append(query.Originals, e.ID)
			}
		}
		for _, most := range []int{1, 5000, 20_000} {
			for _, backwards := range []bool{false, true} {
				pages, err := snapshot.Pages(ctx, timeline.PageQuery{Room: r.id, Limit: 1000, Bytes: most, Backwards: backwards})
				require.NoError(t, err)
				page := pages[0]
				require.True(t, page.Cut)
				require.True(t, page.More)
				require.GreaterOrEqual(t, lengths(page.Events...), most)
				require.Less(t, lengths(page.Events[:len(page.Events)-1]...), most)
				last := page.Events[len(page.Events)-1]
				require.Equal(t, matrix.Token{Topological: last.Topological, Stream: last.Stream}, *page.Last)
			}
			query.Bytes = most
			found, err := snapshot.Bundles(ctx, query)
			require.NoError(t, err)
			requireCut := func(asked []string, read func(id string) (timeline.Event, bool)) {
				var n, before int
				for i, id := range asked {
					e, ok := read(id)
					require.NotEqual(t, ok, found.Cut[id], "%d of %d bytes: %d", n, most, i)
					if ok {
						before, n = n, n+lengths(e)
					}
				}
				require.Less(t, before, most)
				require.GreaterOrEqual(t, n, most)
			}
			cut := found.Cut
			for _, part := range []struct {
				asked []string
				read  func(id string) (timeline.Event, bool)
			}{
				{query.Replaced, func(id string) (timeline.Event, bool) { e, ok := found.Replaced[id]; return e, ok }},
				{query.Roots, func(id string) (timeline.Event, bool) { e, ok := found.Threads[id]; return e.Latest, ok }},
				{query.Originals, func(id string) (timeline.Event, bool) { e, ok := found.Edits[id]; return e, ok }},
			} {
				only := query
				only.Replaced, only.Roots, only.Originals = nil, nil, nil
				switch &part.asked[0] {
				case &query.Replaced[0]:
					only.Replaced = part.asked
				case &query.Roots[0]:
					only.Roots = part.asked
				default:
					only.Originals = part.asked
				}
				found, err = snapshot.Bundles(ctx, only)
				require.NoError(t, err)
				requireCut(part.asked, part.read)
				for id := range found.Cut {
					require.True(t, cut[id])
				}
			}
		}
		return nil
	}))
}
