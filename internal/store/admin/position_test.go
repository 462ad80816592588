package admin_test

import (
	"cmp"
	"context"
	"math"
	"slices"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"lethe/internal/devstack/devstacktest"
	"lethe/internal/matrix"
	"lethe/internal/schema"
	"lethe/internal/store/admin"
	"lethe/internal/store/postgres"
	"lethe/internal/store/storetest"
)

func TestEventPosition(t *testing.T) {
	t.Parallel()
	l := storetest.New(t, schema.API)
	ctx, s := l.Ctx, l.Admin
	l.Exec(`
		INSERT INTO events (event_id, room_id, type, topological_ordering, depth, stream_ordering, processed, outlier, rejection_reason)
		VALUES ('$plain', '!a', 't', 5, 5, 9, true, false, NULL),
		       ('$backfilled', '!b', 't', 3, 3, -9, true, false, NULL),
		       ('$outlier', '!a', 't', 4, 4, 10, true, true, NULL),
		       ('$rejected', '!a', 't', 6, 6, 11, true, false, NULL),
		       ('$rejected too', '!a', 't', 6, 6, 12, true, false, 'auth'),
		       ('$husk', '!a', 't', 6, 6, 13, true, false, NULL)`)
	l.Exec(`
		INSERT INTO event_json (event_id, room_id, internal_metadata, json)
		SELECT event_id, room_id, '{}', '{}' FROM events WHERE event_id <> '$husk'`)
	l.Exec(`INSERT INTO rejections (event_id, reason, last_check) VALUES ('$rejected', 'auth', '')`)

	for id, want := range map[string]struct{ room, token string }{
		"$plain":      {"!a", "t5-9"},
		"$backfilled": {"!b", "t3--9"},
		"$outlier":    {"!a", "t4-10"},
	} {
		room, token, err := s.EventPosition(ctx, id)
		require.NoError(t, err, id)
		require.Equal(t, want.room, room, id)
		require.Equal(t, want.token, token.String(), id)
	}
	for _, id := range []string{"", "$rejected", "$rejected too", "$husk", "$PLAIN", "$unknown", "$plain\x00", "$\xff"} {
		_, _, err := s.EventPosition(ctx, id)
		require.ErrorIs(t, err, postgres.ErrNotFound, "%q", id)
	}
}

// definedToken is the definition, step by step, over events in stream
// order.
func definedToken(events []storetest.Positioned, room string, ts int64) (token matrix.Token, ok bool) {
	if len(events) == 0 {
		return matrix.Token{}, false
	}
	lastUpTo := func(m int64, fits func(storetest.Positioned) bool) *storetest.Positioned {
		for i := len(events) - 1; i >= 0; i-- {
			if events[i].Stream <= m && fits(events[i]) {
				return &events[i]
			}
		}
		return nil
	}
	anything := func(storetest.Positioned) bool { return true }
	low, high := int64(0), events[len(events)-1].Stream+1
	for low < high {
		middle := (low + high) / 2
		if e := lastUpTo(middle, anything); e != nil && e.Received != nil && *e.Received >= ts {
			high = middle
		} else {
			low = middle + 1
		}
	}
	e := lastUpTo(high, func(e storetest.Positioned) bool { return e.Room == room && !e.Outlier && !e.Rejected })
	if e == nil {
		return matrix.Token{}, false
	}
	return matrix.Token{Topological: e.Topological, Stream: e.Stream}, true
}

// firstSince is the first step of the definition without its bisection, which
// it equals where arrival times grow with a stream that begins at 1.
func firstSince(events []storetest.Positioned, ts int64) int64 {
	for _, e := range events {
		if *e.Received >= ts {
			return e.Stream
		}
	}
	return events[len(events)-1].Stream + 1
}

func requireToken(t require.TestingT, ctx context.Context, s *admin.Queries, events []storetest.Positioned, room string, ts int64) {
	want, ok := definedToken(events, room, ts)
	got, err := s.TokenAtTimestamp(ctx, room, ts)
	if !ok {
		require.ErrorIs(t, err, postgres.ErrNotFound, "%s %d", room, ts)
		return
	}
	require.NoError(t, err)
	require.Equal(t, want, got, "%s %d", room, ts)
}

func TestTokenAtTimestamp(t *testing.T) {
	t.Parallel()
	l := storetest.New(t, schema.API)
	ctx, s, conn := l.Ctx, l.Admin, l.Conn
	rooms := rapid.SampledFrom([]string{"!a:x", "!b:x", "!c:x"})
	rapid.Check(t, func(t *rapid.T) {
		streams := rapid.SliceOfNDistinct(rapid.Int64Range(-20, 60), 0, 40, rapid.ID[int64]).Draw(t, "streams")
		slices.Sort(streams)
		arrivals := rapid.Custom(func(t *rapid.T) *int64 {
			if rapid.IntRange(0, 9).Draw(t, "unknown") == 0 {
				return nil
			}
			return new(rapid.Int64Range(0, 50).Draw(t, "received"))
		})
		ordered := rapid.Bool().Draw(t, "ordered")
		var events []storetest.Positioned
		for i, stream := range streams {
			e := storetest.Positioned{
				Room: rooms.Draw(t, "room"), Topological: rapid.Int64Range(1, 20).Draw(t, "topo"), Stream: stream,
				Received: arrivals.Draw(t, "received"),
				Outlier:  rapid.IntRange(0, 5).Draw(t, "outlier") == 0,
				Rejected: rapid.IntRange(0, 5).Draw(t, "rejected") == 0,
			}
			if ordered {
				e.Received = new(int64(i) * 50 / int64(len(streams)))
			}
			events = append(events, e)
		}
		storetest.ReplaceEvents(t, ctx, conn, events)
		for range 5 {
			ts := rapid.Int64Range(-1, 52).Draw(t, "ts")
			requireToken(t, ctx, s, events, rooms.Draw(t, "room"), ts)
			if ordered && len(events) > 0 && events[0].Stream > 0 {
				// The model itself does what it is a model of.
				want, _ := definedToken(slices.DeleteFunc(slices.Clone(events), func(e storetest.Positioned) bool {
					return e.Stream > firstSince(events, ts)
				}), "!a:x", math.MaxInt64)
				got, _ := definedToken(events, "!a:x", ts)
				require.Equal(t, want, got)
			}
		}
	})

	storetest.ReplaceEvents(t, ctx, conn, nil)
	requireToken(t, ctx, s, nil, "!a:x", 0)
	storetest.ReplaceEvents(t, ctx, conn, []storetest.Positioned{
		{Room: "!b:x", Topological: 1, Stream: 2, Received: new(int64(5))},
		{Room: "!a:x", Topological: 7, Stream: 3, Received: new(int64(5))},
	})
	_, err := s.TokenAtTimestamp(ctx, "!a:x", math.MinInt64)
	require.ErrorIs(t, err, postgres.ErrNotFound)
	token, err := s.TokenAtTimestamp(ctx, "!a:x", math.MaxInt64)
	require.NoError(t, err)
	require.Equal(t, matrix.Token{Topological: 7, Stream: 3}, token)
	for _, room := range []string{"", "!A:x", "!a:x\x00", "!\xff"} {
		_, err := s.TokenAtTimestamp(ctx, room, math.MaxInt64)
		require.ErrorIs(t, err, postgres.ErrNotFound, "%q", room)
	}
}

func TestTokenAtTimestampOnCorpus(t *testing.T) {
	t.Parallel()
	l := storetest.On(t, devstacktest.Restored(t, devstacktest.Shared(t, "fixtures", "synapse-1.160-corpus.dump")))
	ctx, s, conn := l.Ctx, l.Admin, l.Conn
	rows, err := conn.Query(ctx, `
		SELECT room_id, topological_ordering, stream_ordering, received_ts, outlier,
		       rejection_reason IS NOT NULL OR EXISTS (SELECT FROM rejections r WHERE r.event_id = e.event_id)
		FROM events e`)
	require.NoError(t, err)
	events, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (e storetest.Positioned, err error) {
		return e, row.Scan(&e.Room, &e.Topological, &e.Stream, &e.Received, &e.Outlier, &e.Rejected)
	})
	require.NoError(t, err)
	require.NotEmpty(t, events)
	slices.SortFunc(events, func(a, b storetest.Positioned) int { return cmp.Compare(a.Stream, b.Stream) })
	rooms := map[string]bool{"!unknown:lab.test": true}
	for _, e := range events {
		rooms[e.Room] = true
	}
	for room := range rooms {
		requireToken(t, ctx, s, events, room, 0)
		requireToken(t, ctx, s, events, room, math.MaxInt64)
		for i := 0; i < len(events); i += 61 {
			requireToken(t, ctx, s, events, room, *events[i].Received-1)
			requireToken(t, ctx, s, events, room, *events[i].Received)
			requireToken(t, ctx, s, events, room, *events[i].Received+1)
		}
	}
}
