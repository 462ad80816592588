package expiry

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"lethe/internal/matrix"
	"lethe/internal/store/postgres"
	"lethe/internal/store/timeline"
)

// RetentionNow returns the retention policy of a room's current state, as
// [timeline.Snapshot.RetentionPolicy] does, and the time of the database's clock.
// Without a policy both lifetimes are nil.
func (q *Queries) RetentionNow(ctx context.Context, room string) (minLifetime, maxLifetime *int64, now time.Time, err error) {
	const operation = "read the room's retention policy and the clock"
	if !postgres.Storable(room) {
		return nil, nil, time.Time{}, fmt.Errorf("%s: %w", operation, postgres.ErrNotFound)
	}
	err = q.db.ReadRow(ctx, []any{&minLifetime, &maxLifetime, &now}, `
		SELECT p.min_lifetime, p.max_lifetime, clock_timestamp()
		FROM (SELECT) AS one
		LEFT JOIN (
			SELECT r.min_lifetime, r.max_lifetime
			FROM current_state_events c
			JOIN room_retention r USING (room_id, event_id)
			WHERE c.room_id = $1 AND `+timeline.IsRetentionPolicy+`) p ON true`, room)
	if err != nil {
		return nil, nil, time.Time{}, fmt.Errorf("%s: %w", operation, err)
	}
	return minLifetime, maxLifetime, now, nil
}

// MaxRooms is the maximum number of rooms in one call of [Queries.RetentionRooms] or
// [Queries.RetentionCuts].
const MaxRooms = 1000

// A RoomRetention is what a retention sweep must know of a room.
type RoomRetention struct {
	Room string

	// MinLifetime and MaxLifetime are the lifetimes of the room's policy in ms, which
	// may be any number. They are nil if the policy leaves them out, or if there is no
	// policy.
	MinLifetime, MaxLifetime *int64

	// Deleting and Purging say that the room has a job of that kind that has not ended,
	// and Held that the room is held.
	Deleting, Purging, Held bool
}

// RetentionRooms returns up to limit rooms with a current state, ordered by id, from
// the first after the given id; "" begins with the first room. If there are fewer
// than limit, these are the last rooms. A limit below 1 or above [MaxRooms] is an
// error.
func (q *Queries) RetentionRooms(ctx context.Context, after string, limit int) ([]RoomRetention, error) {
	const operation = "list rooms for retention"
	if limit < 1 || limit > MaxRooms {
		return nil, fmt.Errorf("%s: the limit is %d", operation, limit)
	}
	if !postgres.Storable(after) {
		return nil, fmt.Errorf("%s: %w", operation, postgres.ErrNotFound)
	}
	// The query looks up one room after another in the index of the current state, each
	// time the next above the last. DISTINCT would read the state of all rooms, or at
	// least of all rooms of the page, and one of these may have a million members. The
	// table rooms does not help: it also has rooms that no local user was ever in.
	rooms, err := postgres.ReadAll(ctx, q.db, func(row pgx.CollectableRow) (r RoomRetention, err error) {
		return r, row.Scan(&r.Room, &r.MinLifetime, &r.MaxLifetime, &r.Deleting, &r.Purging, &r.Held)
	}, `
		WITH RECURSIVE page (room_id, number) AS (
			SELECT (SELECT room_id FROM current_state_events WHERE room_id > $1 ORDER BY room_id LIMIT 1), 1
			UNION ALL
			SELECT (SELECT c.room_id FROM current_state_events c WHERE c.room_id > page.room_id ORDER BY c.room_id LIMIT 1),
			       number + 1
			FROM page
			WHERE page.room_id IS NOT NULL AND number < $2
		)
		SELECT page.room_id, r.min_lifetime, r.max_lifetime, coalesce(open.deleting, false), coalesce(open.purging, false),
		       EXISTS (SELECT FROM lethe.holds h WHERE h.room_id = page.room_id AND h.released_at IS NULL)
		FROM page
		LEFT JOIN (current_state_events c JOIN room_retention r ON r.room_id = c.room_id AND r.event_id = c.event_id)
		       ON c.room_id = page.room_id AND `+timeline.IsRetentionPolicy+`
		CROSS JOIN LATERAL (
			SELECT bool_or(kind = 'delete_room') AS deleting, bool_or(kind = 'purge_history') AS purging
			FROM lethe.jobs
			WHERE jobs.room_id = page.room_id AND state IN ('scheduled', 'queued', 'running', 'held', 'paused')) open
		WHERE page.room_id IS NOT NULL
		ORDER BY number`, after, limit)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", operation, err)
	}
	return rooms, nil
}

// A RoomCut asks where to cut a room.
type RoomCut struct {
	Room string

	// Before is a moment of arrival here, in Unix milliseconds. Events that arrived
	// before it are to be purged.
	Before int64
}

// The rooms are selected by ranges that hold only one room, for the reason given in
// TokenAtTimestamp. But the planner does not know how large a range is, and may
// expect sorting a whole room by arrival to be cheaper than reading it in that
// order. So it must not sort.
const (
	neverSort = `
	SELECT set_config('enable_sort', 'off', true), set_config('enable_incremental_sort', 'off', true),
	       set_config('jit', 'off', true)`

	// What a purge would delete is searched for from the token downwards: the newly
	// expired events are there. The last purge has left only state events below its own
	// token, but these may be many.
	retentionCuts = `
	WITH RECURSIVE cuts AS (
		SELECT * FROM unnest($1::text[], $2::bigint[], $3::integer[]) AS c (room_id, ts, number)
	),
	moments (ts) AS (SELECT DISTINCT ts FROM cuts),` + postgres.Bisection + `
	SELECT c.number, b.high, first.topological_ordering, first.stream_ordering, EXISTS (
		SELECT FROM (
			SELECT
			FROM events e
			LEFT JOIN state_events s USING (event_id)
			WHERE (e.room_id, e.topological_ordering) < (c.room_id, first.topological_ordering)
			  AND e.room_id >= c.room_id
			  AND (NOT e.outlier OR s.event_id IS NULL)
			ORDER BY e.room_id DESC, e.topological_ordering DESC
			LIMIT 1) something)
	FROM cuts c
	JOIN bisection b ON b.ts = c.ts AND b.low >= b.high
	LEFT JOIN LATERAL (
		SELECT e.topological_ordering, e.stream_ordering
		FROM events e
		LEFT JOIN rejections r USING (event_id)
		WHERE (e.room_id, e.stream_ordering) <= (c.room_id, b.high)
		  AND e.room_id >= c.room_id
		  AND NOT e.outlier AND e.rejection_reason IS NULL AND r.event_id IS NULL
		ORDER BY e.room_id DESC, e.stream_ordering DESC
		LIMIT 1) first ON true`
)

// A FoundCut says where a room is cut.
type FoundCut struct {
	// Stream is the place of the moment in the stream of all rooms: the stream_ordering
	// of the first event that has arrived since, in any room. It is 0 if there are no
	// events.
	Stream int64

	// Before, unless nil, is the newest event of the room up to that place. A purge keeps
	// it.
	Before *matrix.Token

	// Token is Before if a purge up to it, local events included, would delete anything.
	// Otherwise it is nil.
	Token *matrix.Token
}

// RetentionCuts returns where to cut each of many rooms, in the order of the cuts, as
// [admin.Queries.TokenAtTimestamp] does for one room. More cuts than [MaxRooms] are an
// error.
//
// Each distinct moment is searched for once, so cuts with the same moment cost less.
func (q *Queries) RetentionCuts(ctx context.Context, cuts []RoomCut) ([]FoundCut, error) {
	const operation = "find the tokens of moments"
	if len(cuts) > MaxRooms {
		return nil, fmt.Errorf("%s: %d are too many", operation, len(cuts))
	}
	rooms, moments, numbers := []string{}, []int64{}, []int32{}
	for i, cut := range cuts {
		if postgres.Storable(cut.Room) {
			rooms, moments, numbers = append(rooms, cut.Room), append(moments, cut.Before), append(numbers, int32(i))
		}
	}
	var found []FoundCut
	err := postgres.RetryRead(ctx, func() error {
		found = make([]FoundCut, len(cuts))
		// Both statements are one transaction and one round trip.
		pipeline := &pgx.Batch{}
		pipeline.Queue(neverSort)
		pipeline.Queue(retentionCuts, rooms, moments, numbers).Query(func(rows pgx.Rows) error {
			var number int32
			var cut FoundCut
			var topological, stream *int64
			var deletes bool
			_, err := pgx.ForEachRow(rows, []any{&number, &cut.Stream, &topological, &stream, &deletes}, func() error {
				if cut.Before, cut.Token = nil, nil; topological != nil && stream != nil {
					cut.Before = &matrix.Token{Topological: *topological, Stream: *stream}
				}
				if deletes {
					cut.Token = cut.Before
				}
				found[number] = cut
				return nil
			})
			return err
		})
		return q.db.Send(ctx, pipeline)
	})
	if err != nil {
		return nil, fmt.Errorf("%s: %w", operation, err)
	}
	return found, nil
}
