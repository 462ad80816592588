package expiry_test

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"lethe/internal/devstack/devstacktest"
	"lethe/internal/matrix"
	"lethe/internal/schema"
	"lethe/internal/store/expiry"
	"lethe/internal/store/migrate"
	"lethe/internal/store/postgres"
	"lethe/internal/store/purge"
	"lethe/internal/store/storetest"
	"lethe/internal/store/timeline"
)

// retentionPolicy reads a room's policy in a snapshot of its own.
func retentionPolicy(ctx context.Context, db *postgres.DB, room string) (policy [2]*int64, err error) {
	err = timeline.Read(ctx, db, func(ctx context.Context, snapshot *timeline.Snapshot) error {
		policy[0], policy[1], err = snapshot.RetentionPolicy(ctx, room)
		return err
	})
	return policy, err
}

func TestRetentionPolicy(t *testing.T) {
	t.Parallel()
	l := storetest.New(t, schema.Worker)
	ctx := l.Ctx
	l.Exec(`
		INSERT INTO current_state_events (event_id, room_id, type, state_key) VALUES
			('$max', '!max', 'm.room.retention', ''),
			('$both', '!both', 'm.room.retention', ''),
			('$nulls', '!nulls', 'm.room.retention', ''),
			('$extreme', '!extreme', 'm.room.retention', ''),
			('$cancelled', '!cancelled', 'm.room.retention', ''),
			('$keyed', '!keyed', 'm.room.retention', 'x'),
			('$typed', '!typed', 'm.room.topic', ''),
			('$here', '!here', 'm.room.retention', ''), ('$there', '!there', 'm.room.topic', '')`)
	l.Exec(`
		INSERT INTO room_retention (room_id, event_id, min_lifetime, max_lifetime) VALUES
			('!max', '$max', NULL, 5), ('!max', '$older', NULL, 6),
			('!both', '$both', 1, 2),
			('!nulls', '$nulls', NULL, NULL),
			('!extreme', '$extreme', -9223372036854775808, 9223372036854775807),
			('!cancelled', '$set before', NULL, 7),
			('!keyed', '$keyed', NULL, 8),
			('!typed', '$typed', NULL, 9),
			('!there', '$here', NULL, 10)`)

	for room, want := range map[string][2]*int64{
		"!max":     {nil, new(int64(5))},
		"!both":    {new(int64(1)), new(int64(2))},
		"!nulls":   {nil, nil},
		"!extreme": {new(int64(math.MinInt64)), new(int64(math.MaxInt64))},
	} {
		got, err := retentionPolicy(ctx, l.DB, room)
		require.NoError(t, err, room)
		require.Equal(t, want, got, room)
	}
	for _, room := range []string{"!cancelled", "!keyed", "!typed", "!here", "!there", "!unknown", "", "!max\x00", "!\xff"} {
		_, err := retentionPolicy(ctx, l.DB, room)
		require.ErrorIs(t, err, postgres.ErrNotFound, "%q", room)
	}
}

// pages lists all rooms by pages of that size.
func pages(t require.TestingT, ctx context.Context, s *expiry.Queries, size int) []expiry.RoomRetention {
	var all []expiry.RoomRetention
	after := ""
	for {
		page, err := s.RetentionRooms(ctx, after, size)
		require.NoError(t, err)
		all = append(all, page...)
		if len(page) < size {
			return all
		}
		after = page[size-1].Room
	}
}

// allRooms lists them by one plain statement.
func allRooms(t require.TestingT, ctx context.Context, conn *pgx.Conn) []expiry.RoomRetention {
	rows, err := conn.Query(ctx, `
		SELECT room_id,
		       (SELECT min_lifetime FROM room_retention r JOIN current_state_events c USING (room_id, event_id)
		        WHERE room_id = rooms.room_id AND type = 'm.room.retention' AND state_key = ''),
		       (SELECT max_lifetime FROM room_retention r JOIN current_state_events c USING (room_id, event_id)
		        WHERE room_id = rooms.room_id AND type = 'm.room.retention' AND state_key = ''),
		       (SELECT count(*) > 0 FROM lethe.jobs j WHERE j.room_id = rooms.room_id AND kind = 'delete_room' AND ended_at IS NULL),
		       (SELECT count(*) > 0 FROM lethe.jobs j WHERE j.room_id = rooms.room_id AND kind = 'purge_history' AND ended_at IS NULL)
		FROM (SELECT DISTINCT room_id FROM current_state_events) rooms
		ORDER BY room_id`)
	require.NoError(t, err)
	var rooms []expiry.RoomRetention
	var r expiry.RoomRetention
	_, err = pgx.ForEachRow(rows, []any{&r.Room, &r.MinLifetime, &r.MaxLifetime, &r.Deleting, &r.Purging}, func() error {
		rooms = append(rooms, r)
		return nil
	})
	require.NoError(t, err)
	return rooms
}

func TestRetentionRooms(t *testing.T) {
	t.Parallel()
	l := storetest.New(t, schema.Worker)
	ctx, s, conn := l.Ctx, l.Expiry, l.Conn
	states := map[string]string{
		"queued":   `'queued', NULL, NULL, NULL`,
		"running":  `'running', now(), NULL, NULL`,
		"complete": `'complete', NULL, now(), NULL`,
		"failed":   `'failed', NULL, now(), 'why'`,
	}
	rapid.Check(t, func(t *rapid.T) {
		batch := &pgx.Batch{}
		batch.Queue(`DELETE FROM current_state_events`)
		batch.Queue(`DELETE FROM room_retention`)
		batch.Queue(`DELETE FROM lethe.jobs`)
		names := rapid.SliceOfNDistinct(rapid.StringMatching(`![a-cé☃A-C:]{0,3}`), 0, 12, rapid.ID[string]).Draw(t, "rooms")
		lifetime := rapid.OneOf(rapid.Just[*int64](nil), rapid.Custom(func(t *rapid.T) *int64 { return new(rapid.Int64().Draw(t, "ms")) }))
		var deleting []string
		for i, room := range names {
			for j := range rapid.IntRange(0, 3).Draw(t, "members") {
				batch.Queue(`INSERT INTO current_state_events (event_id, room_id, type, state_key) VALUES ($1, $2, 'm.room.member', $3)`,
					fmt.Sprint("$", i, "m", j), room, fmt.Sprint("@", j))
			}
			for _, kind := range rapid.SliceOfNDistinct(rapid.SampledFrom([]string{"current", "keyed", "old"}), 0, 3, rapid.ID[string]).Draw(t, "policies") {
				id := fmt.Sprint("$", i, kind)
				if kind != "old" {
					key := map[string]string{"current": "", "keyed": "x"}[kind]
					batch.Queue(`INSERT INTO current_state_events (event_id, room_id, type, state_key) VALUES ($1, $2, 'm.room.retention', $3)`,
						id, room, key)
				}
				if rapid.IntRange(0, 4).Draw(t, "stored") > 0 {
					batch.Queue(`INSERT INTO room_retention (room_id, event_id, min_lifetime, max_lifetime) VALUES ($1, $2, $3, $4)`,
						room, id, lifetime.Draw(t, "min"), lifetime.Draw(t, "max"))
				}
			}
			for j := range rapid.IntRange(0, 3).Draw(t, "jobs") {
				kind := rapid.SampledFrom([]string{"purge_history", "delete_room"}).Draw(t, "kind")
				state := rapid.SampledFrom([]string{"queued", "running", "complete", "failed"}).Draw(t, "state")
				if kind == "delete_room" && (state == "queued" || state == "running") {
					if slices.Contains(deleting, room) {
						continue
					}
					deleting = append(deleting, room)
				}
				id := []byte("aaaaaaaaaaaaaaaa")
				id[0], id[1] = byte('a'+i), byte('a'+j)
				batch.Queue(`INSERT INTO lethe.jobs (id, kind, room_id, parameters, requester, state, heartbeat_at, ended_at, error)
					VALUES ($1, $2, $3, '{}', '', `+states[state]+`)`, string(id), kind, room)
			}
		}
		require.NoError(t, conn.SendBatch(ctx, batch).Close())

		want := allRooms(t, ctx, conn)
		require.Equal(t, want, pages(t, ctx, s, rapid.IntRange(1, 13).Draw(t, "size")))
		if len(want) > 0 {
			// What is between two rooms is as good as a room to begin after.
			after := want[rapid.IntRange(0, len(want)-1).Draw(t, "after")].Room + "\x01"
			page, err := s.RetentionRooms(ctx, after, expiry.MaxRooms)
			require.NoError(t, err)
			i := slices.IndexFunc(want, func(r expiry.RoomRetention) bool { return r.Room > after })
			if i < 0 {
				i = len(want)
			}
			require.Equal(t, len(want)-i, len(page))
		}
	})

	for _, limit := range []int{math.MinInt, -1, 0, expiry.MaxRooms + 1} {
		_, err := s.RetentionRooms(ctx, "", limit)
		require.ErrorContains(t, err, "the limit is", limit)
	}
	_, err := s.RetentionRooms(ctx, "!\x00", 1)
	require.ErrorIs(t, err, postgres.ErrNotFound)
}

// tokensOf are the tokens of the cuts.
func tokensOf(cuts []expiry.FoundCut) []*matrix.Token {
	var tokens []*matrix.Token
	for _, cut := range cuts {
		tokens = append(tokens, cut.Token)
	}
	return tokens
}

// requireCuts compares the cuts of many rooms with the cut of each room, and with
// the first depth of the purge itself.
func requireCuts(t require.TestingT, l *storetest.Lab, cuts []expiry.RoomCut) (some int) {
	got, err := l.Expiry.RetentionCuts(l.Ctx, cuts)
	require.NoError(t, err)
	require.Len(t, got, len(cuts))
	for i, cut := range cuts {
		token, err := l.Admin.TokenAtTimestamp(l.Ctx, cut.Room, cut.Before)
		if errors.Is(err, postgres.ErrNotFound) {
			require.Nil(t, got[i].Before, "%+v", cut)
		}
		if err == nil {
			require.Equal(t, &token, got[i].Before, "%+v", cut)
			require.GreaterOrEqual(t, got[i].Stream, token.Stream, "%+v", cut)
			history, historyErr := l.Purger.History(l.Ctx, purge.HistoryRequest{
				Room: cut.Room, Before: token.Topological, DeleteLocal: true, ServerName: "x",
			})
			require.NoError(t, historyErr)
			_, err = history.NextDepth(l.Ctx, math.MinInt64)
		}
		if errors.Is(err, postgres.ErrNotFound) {
			require.Nil(t, got[i].Token, "%+v", cut)
			continue
		}
		require.NoError(t, err)
		require.Equal(t, &token, got[i].Token, "%+v", cut)
		some++
	}
	return some
}

func TestRetentionCuts(t *testing.T) {
	t.Parallel()
	l := storetest.New(t, schema.Worker)
	ctx, s, conn := l.Ctx, l.Expiry, l.Conn
	rooms := rapid.SampledFrom([]string{"!a:x", "!b:x", "!c:x", "!d:x"})
	rapid.Check(t, func(t *rapid.T) {
		streams := rapid.SliceOfNDistinct(rapid.Int64Range(-10, 60), 0, 30, rapid.ID[int64]).Draw(t, "streams")
		slices.Sort(streams)
		var events []storetest.Positioned
		state := &pgx.Batch{}
		state.Queue(`DELETE FROM state_events`)
		for i, stream := range streams {
			e := storetest.Positioned{
				Room: rooms.Draw(t, "room"), Topological: rapid.Int64Range(1, 12).Draw(t, "topo"), Stream: stream,
				Received: new(int64(i)),
				Outlier:  rapid.IntRange(0, 2).Draw(t, "outlier") == 0,
				Rejected: rapid.IntRange(0, 5).Draw(t, "rejected") == 0,
			}
			events = append(events, e)
			if rapid.IntRange(0, 2).Draw(t, "state") > 0 {
				state.Queue(`INSERT INTO state_events (event_id, room_id, type, state_key) VALUES ($1, $2, 't', '')`,
					fmt.Sprint("$", stream), e.Room)
			}
		}
		storetest.ReplaceEvents(t, ctx, conn, events)
		require.NoError(t, conn.SendBatch(ctx, state).Close())
		var cuts []expiry.RoomCut
		for range rapid.IntRange(0, 8).Draw(t, "cuts") {
			cuts = append(cuts, expiry.RoomCut{Room: rooms.Draw(t, "cut room"), Before: rapid.Int64Range(-1, 32).Draw(t, "before")})
		}
		requireCuts(t, l, cuts)
	})

	storetest.ReplaceEvents(t, ctx, conn, nil)
	requireCuts(t, l, []expiry.RoomCut{{Room: "!a:x", Before: math.MaxInt64}})
	storetest.ReplaceEvents(t, ctx, conn, []storetest.Positioned{
		{Room: "!a:x", Topological: math.MinInt64, Stream: 1, Received: new(int64(math.MinInt64))},
		{Room: "!a:x", Topological: 1, Stream: 2, Received: new(int64(0))},
		{Room: "!a:x", Topological: math.MaxInt64, Stream: 3, Received: new(int64(math.MaxInt64))},
	})
	found, err := s.RetentionCuts(ctx, []expiry.RoomCut{
		{Room: "!a:x\x00", Before: math.MaxInt64},
		{Room: "!a:x", Before: math.MinInt64},
		{Room: "!\xff", Before: 0},
		{Room: "!a:x", Before: math.MaxInt64},
		{Room: "", Before: 0},
		{Room: "!a:x", Before: 0},
		{Room: "!a:x", Before: 0},
	})
	require.NoError(t, err)
	second, third := &matrix.Token{Topological: 1, Stream: 2}, &matrix.Token{Topological: math.MaxInt64, Stream: 3}
	require.Equal(t, []*matrix.Token{nil, nil, nil, third, nil, second, second}, tokensOf(found))
	require.EqualValues(t, 2, found[5].Stream, "the first event that has arrived since")

	_, err = s.RetentionCuts(ctx, make([]expiry.RoomCut, expiry.MaxRooms+1))
	require.ErrorContains(t, err, "are too many")
	found, err = s.RetentionCuts(ctx, nil)
	require.NoError(t, err)
	require.Empty(t, found)
}

// TestRetentionCutsReadNoWholeRoom is for a large room among many small ones, which
// the planner does not tell from them.
func TestRetentionCutsReadNoWholeRoom(t *testing.T) {
	t.Parallel()
	l := storetest.New(t, schema.Worker)
	ctx, s, conn := l.Ctx, l.Expiry, l.Conn
	// Small rooms and what is outside of timelines, as the planner knows them, and
	// a large room that it has not heard of.
	const large = 50_000
	const insert = `
		INSERT INTO events (event_id, room_id, type, topological_ordering, depth, stream_ordering, processed, outlier, received_ts, origin_server_ts)
		SELECT '$' || n, `
	l.Exec(insert + `'!' || n / 6 || ':x', 't', n, n, n, true, n % 2 = 0, n, 0 FROM generate_series(1, 20000) n`)
	l.Exec(`ANALYZE events`)
	l.Exec(insert+`'!large:x', 't', n, n, n, true, false, n, 0 FROM generate_series(20001, $1) n`, large)

	tx, err := conn.Begin(ctx)
	require.NoError(t, err)
	_, err = tx.Exec(ctx, expiry.NeverSort)
	require.NoError(t, err)
	var plan []struct{ Plan storetest.PlanNode }
	var rooms []string
	var moments []int64
	var numbers []int32
	for i := range int32(100) {
		rooms, moments, numbers = append(rooms, "!large:x"), append(moments, large), append(numbers, i)
	}
	require.NoError(t, tx.QueryRow(ctx, `EXPLAIN (ANALYZE, FORMAT JSON) `+expiry.RetentionCuts, rooms, moments, numbers).Scan(&plan))
	read := map[string]float64{}
	plan[0].Plan.Count(read)
	require.Less(t, read["events"], float64(10*len(rooms)))
	require.Positive(t, read["events"])
	require.NoError(t, tx.Rollback(ctx))

	found, err := s.RetentionCuts(ctx, []expiry.RoomCut{{Room: "!large:x", Before: large}})
	require.NoError(t, err)
	require.Equal(t, []*matrix.Token{{Topological: large, Stream: large}}, tokensOf(found))
}

func TestRetentionOnCorpus(t *testing.T) {
	t.Parallel()
	url := devstacktest.Restored(t, devstacktest.Shared(t, "fixtures", "synapse-1.160-corpus.dump"))
	l := storetest.On(t, url)
	ctx, s, conn := l.Ctx, l.Expiry, l.Conn
	require.NoError(t, migrate.Up(ctx, url))
	rooms := allRooms(t, ctx, conn)
	require.Equal(t, rooms, pages(t, ctx, s, 3))
	require.Equal(t, rooms, pages(t, ctx, s, expiry.MaxRooms))
	policies := 0
	var cuts []expiry.RoomCut
	var moments []int64
	require.NoError(t, conn.QueryRow(ctx, `
		SELECT array_agg(received_ts) FROM (SELECT received_ts FROM events ORDER BY stream_ordering) e`).Scan(&moments))
	for _, room := range rooms {
		policy, err := retentionPolicy(ctx, l.DB, room.Room)
		if err == nil {
			policies++
		} else {
			require.ErrorIs(t, err, postgres.ErrNotFound)
		}
		require.Equal(t, [2]*int64{room.MinLifetime, room.MaxLifetime}, policy)
		cuts = append(cuts, expiry.RoomCut{Room: room.Room, Before: 0}, expiry.RoomCut{Room: room.Room, Before: math.MaxInt64})
		for i := 0; i < len(moments); i += 61 {
			cuts = append(cuts, expiry.RoomCut{Room: room.Room, Before: moments[i]}, expiry.RoomCut{Room: room.Room, Before: moments[i] + 1})
		}
	}
	require.Equal(t, 5, policies)
	some := requireCuts(t, l, cuts)
	require.NotZero(t, some)
	require.Less(t, some, len(cuts))
}

func TestRetentionNow(t *testing.T) {
	t.Parallel()
	l := storetest.New(t, schema.Worker)
	for _, sql := range []string{
		`INSERT INTO current_state_events (event_id, room_id, type, state_key) VALUES
			('$a', '!a', 'm.room.retention', ''), ('$b', '!b', 'm.room.retention', 'b'), ('$c', '!c', 'm.room.retention', '')`,
		`INSERT INTO room_retention (room_id, event_id, min_lifetime, max_lifetime) VALUES
			('!a', '$a', 1, 2), ('!a', '$old', 3, 4), ('!b', '$b', 5, 6)`,
	} {
		l.Exec(sql)
	}
	for room, want := range map[string][2]*int64{
		"!a": {new(int64(1)), new(int64(2))}, "!b": {}, "!c": {}, "!nowhere": {}, "": {},
	} {
		least, most, now, err := l.Expiry.RetentionNow(l.Ctx, room)
		require.NoError(t, err, room)
		require.Equal(t, want, [2]*int64{least, most}, room)
		require.WithinDuration(t, time.Now(), now, time.Minute)
	}
	_, _, _, err := l.Expiry.RetentionNow(l.Ctx, "!\x00")
	require.ErrorIs(t, err, postgres.ErrNotFound)
}
