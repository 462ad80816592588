package store_test

import (
	"cmp"
	"context"
	"fmt"
	"math"
	"slices"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"lethe/internal/devstack/devstacktest"
	"lethe/internal/matrix"
	"lethe/internal/store"
)

func TestEventPosition(t *testing.T) {
	t.Parallel()
	ctx, s, conn := readerOf(t, devstacktest.Database(t, "embedded", store.MigrateEmbedded))
	seed(t, ctx, conn, `
		INSERT INTO events (event_id, room_id, type, topological_ordering, depth, stream_ordering, processed, outlier, rejection_reason)
		VALUES ('$plain', '!a', 't', 5, 5, 9, true, false, NULL),
		       ('$backfilled', '!b', 't', 3, 3, -9, true, false, NULL),
		       ('$outlier', '!a', 't', 4, 4, 10, true, true, NULL),
		       ('$rejected', '!a', 't', 6, 6, 11, true, false, NULL),
		       ('$rejected too', '!a', 't', 6, 6, 12, true, false, 'auth'),
		       ('$husk', '!a', 't', 6, 6, 13, true, false, NULL)`)
	seed(t, ctx, conn, `
		INSERT INTO event_json (event_id, room_id, internal_metadata, json)
		SELECT event_id, room_id, '{}', '{}' FROM events WHERE event_id <> '$husk'`)
	seed(t, ctx, conn, `INSERT INTO rejections (event_id, reason, last_check) VALUES ('$rejected', 'auth', '')`)

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
		require.ErrorIs(t, err, store.ErrNotFound, "%q", id)
	}
}

// A positioned is a row of events as far as TokenAtTimestamp cares.
type positioned struct {
	room     string
	topo     int64
	stream   int64
	received *int64
	outlier  bool
	rejected bool
}

// definedToken is the definition, step by step, over events in stream
// order.
func definedToken(events []positioned, room string, ts int64) (token matrix.Token, ok bool) {
	if len(events) == 0 {
		return matrix.Token{}, false
	}
	lastUpTo := func(m int64, fits func(positioned) bool) *positioned {
		for i := len(events) - 1; i >= 0; i-- {
			if events[i].stream <= m && fits(events[i]) {
				return &events[i]
			}
		}
		return nil
	}
	anything := func(positioned) bool { return true }
	low, high := int64(0), events[len(events)-1].stream+1
	for low < high {
		middle := (low + high) / 2
		if e := lastUpTo(middle, anything); e != nil && e.received != nil && *e.received >= ts {
			high = middle
		} else {
			low = middle + 1
		}
	}
	e := lastUpTo(high, func(e positioned) bool { return e.room == room && !e.outlier && !e.rejected })
	if e == nil {
		return matrix.Token{}, false
	}
	return matrix.Token{Topological: e.topo, Stream: e.stream}, true
}

// firstSince is the first step of the definition without its bisection, which
// it equals where arrival times grow with a stream that begins at 1.
func firstSince(events []positioned, ts int64) int64 {
	for _, e := range events {
		if *e.received >= ts {
			return e.stream
		}
	}
	return events[len(events)-1].stream + 1
}

func requireToken(t require.TestingT, ctx context.Context, s *store.Store, events []positioned, room string, ts int64) {
	want, ok := definedToken(events, room, ts)
	got, err := s.TokenAtTimestamp(ctx, room, ts)
	if !ok {
		require.ErrorIs(t, err, store.ErrNotFound, "%s %d", room, ts)
		return
	}
	require.NoError(t, err)
	require.Equal(t, want, got, "%s %d", room, ts)
}

func TestTokenAtTimestamp(t *testing.T) {
	t.Parallel()
	ctx, s, conn := readerOf(t, devstacktest.Database(t, "embedded", store.MigrateEmbedded))
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
		var events []positioned
		for i, stream := range streams {
			e := positioned{
				room: rooms.Draw(t, "room"), topo: rapid.Int64Range(1, 20).Draw(t, "topo"), stream: stream,
				received: arrivals.Draw(t, "received"),
				outlier:  rapid.IntRange(0, 5).Draw(t, "outlier") == 0,
				rejected: rapid.IntRange(0, 5).Draw(t, "rejected") == 0,
			}
			if ordered {
				e.received = new(int64(i) * 50 / int64(len(streams)))
			}
			events = append(events, e)
		}
		replaceEvents(t, ctx, conn, events)
		for range 5 {
			ts := rapid.Int64Range(-1, 52).Draw(t, "ts")
			requireToken(t, ctx, s, events, rooms.Draw(t, "room"), ts)
			if ordered && len(events) > 0 && events[0].stream > 0 {
				// The model itself does what it is a model of.
				want, _ := definedToken(slices.DeleteFunc(slices.Clone(events), func(e positioned) bool {
					return e.stream > firstSince(events, ts)
				}), "!a:x", math.MaxInt64)
				got, _ := definedToken(events, "!a:x", ts)
				require.Equal(t, want, got)
			}
		}
	})

	replaceEvents(t, ctx, conn, nil)
	requireToken(t, ctx, s, nil, "!a:x", 0)
	replaceEvents(t, ctx, conn, []positioned{
		{room: "!b:x", topo: 1, stream: 2, received: new(int64(5))},
		{room: "!a:x", topo: 7, stream: 3, received: new(int64(5))},
	})
	_, err := s.TokenAtTimestamp(ctx, "!a:x", math.MinInt64)
	require.ErrorIs(t, err, store.ErrNotFound)
	token, err := s.TokenAtTimestamp(ctx, "!a:x", math.MaxInt64)
	require.NoError(t, err)
	require.Equal(t, matrix.Token{Topological: 7, Stream: 3}, token)
	for _, room := range []string{"", "!A:x", "!a:x\x00", "!\xff"} {
		_, err := s.TokenAtTimestamp(ctx, room, math.MaxInt64)
		require.ErrorIs(t, err, store.ErrNotFound, "%q", room)
	}
}

// replaceEvents makes these all the events that there are.
func replaceEvents(t require.TestingT, ctx context.Context, conn *pgx.Conn, events []positioned) {
	batch := &pgx.Batch{}
	batch.Queue(`DELETE FROM rejections`)
	batch.Queue(`DELETE FROM events`)
	for i, e := range events {
		// Synapse has two ways to say so, of which newer versions use the second.
		var reason *string
		if e.rejected && i%2 == 0 {
			batch.Queue(`INSERT INTO rejections (event_id, reason, last_check) VALUES ($1, 'auth', '')`, fmt.Sprint("$", e.stream))
		} else if e.rejected {
			reason = new("auth")
		}
		batch.Queue(`
			INSERT INTO events (event_id, room_id, type, topological_ordering, depth, stream_ordering, processed, outlier,
				received_ts, rejection_reason)
			VALUES ($1, $2, 't', $3, $3, $4, true, $5, $6, $7)`,
			fmt.Sprint("$", e.stream), e.room, e.topo, e.stream, e.outlier, e.received, reason)
	}
	require.NoError(t, conn.SendBatch(ctx, batch).Close())
}

func TestTokenAtTimestampOnCorpus(t *testing.T) {
	t.Parallel()
	ctx, s, conn := readerOf(t, devstacktest.Restored(t, devstacktest.Shared(t, "fixtures", "synapse-1.160-corpus.dump")))
	rows, err := conn.Query(ctx, `
		SELECT room_id, topological_ordering, stream_ordering, received_ts, outlier,
		       rejection_reason IS NOT NULL OR EXISTS (SELECT FROM rejections r WHERE r.event_id = e.event_id)
		FROM events e`)
	require.NoError(t, err)
	events, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (e positioned, err error) {
		return e, row.Scan(&e.room, &e.topo, &e.stream, &e.received, &e.outlier, &e.rejected)
	})
	require.NoError(t, err)
	require.NotEmpty(t, events)
	slices.SortFunc(events, func(a, b positioned) int { return cmp.Compare(a.stream, b.stream) })
	rooms := map[string]bool{"!unknown:lab.test": true}
	for _, e := range events {
		rooms[e.room] = true
	}
	for room := range rooms {
		requireToken(t, ctx, s, events, room, 0)
		requireToken(t, ctx, s, events, room, math.MaxInt64)
		for i := 0; i < len(events); i += 61 {
			requireToken(t, ctx, s, events, room, *events[i].received-1)
			requireToken(t, ctx, s, events, room, *events[i].received)
			requireToken(t, ctx, s, events, room, *events[i].received+1)
		}
	}
}
