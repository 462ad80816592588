package beside

import (
	"context"
	"fmt"
	"slices"

	"github.com/jackc/pgx/v5"

	"lethe/internal/store/postgres"
)

// A CacheFunc names caches of the homeserver.
type CacheFunc string

// The caches that Lethe's writes make stale.
const (
	// PurgedHistory clears what is cached of the events of a room. It also clears some
	// caches of all rooms.
	PurgedHistory CacheFunc = "ph_cache_fake"

	// DeletedRoom clears all that is cached of a room.
	DeletedRoom CacheFunc = "dr_cache_fake"

	// BlockedRoom clears whether a room is blocked.
	BlockedRoom CacheFunc = "is_room_blocked"
)

// lockStream keeps the order in which the ids of the stream are taken and committed the
// same for all processes of Lethe. A homeserver that has read an id never looks for a
// lower one.
const lockStream = `SELECT pg_advisory_xact_lock(724001::bigint)`

// nextID takes an id of the stream.
const nextID = `nextval('cache_invalidation_stream_seq'::regclass)`

// Invalidate returns the statements that write a row into the stream of invalidations,
// for one room. The row's id goes to id. They must be the last of their transaction,
// which holds up all others that invalidate from here on. The homeserver reads the row
// when it hears of the id, after the commit.
//
// The statements of locked run between the wait for the others and the row: what must
// not be older than that wait.
func Invalidate(caches CacheFunc, room string, id *int64, locked ...postgres.Statement) []postgres.Statement {
	return slices.Concat(
		[]postgres.Statement{{What: "lock the stream of invalidations", SQL: lockStream}},
		locked,
		[]postgres.Statement{{
			What: "invalidate the homeserver's caches",
			// Without the room's id the row would be poison: the homeserver fails at it
			// again and again.
			SQL: `
				INSERT INTO cache_invalidation_stream_by_instance (stream_id, instance_name, cache_func, keys, invalidation_ts)
				VALUES (` + nextID + `, $1, $2, ARRAY[$3::text], (extract(epoch FROM clock_timestamp())::numeric * 1000.0)::bigint)
				RETURNING stream_id`,
			Args: []any{InstanceName, string(caches), room},
			Row:  func(row pgx.Row) error { return row.Scan(id) },
		}},
	)
}

// NextPosition takes an id of the stream that is above all ids that Lethe has
// committed, and below all that it will. A homeserver may be told of it at any time.
func NextPosition(ctx context.Context, db *postgres.DB) (id int64, err error) {
	err = db.InOneTrip(ctx, func(pipeline *pgx.Batch) {
		// Under the lock, because a lower id whose row is not committed yet would never
		// be read.
		pipeline.Queue(lockStream)
		pipeline.Queue(`SELECT ` + nextID).QueryRow(func(row pgx.Row) error { return row.Scan(&id) })
	})
	if err != nil {
		return 0, fmt.Errorf("take a position in the stream of invalidations: %w", err)
	}
	return id, nil
}
