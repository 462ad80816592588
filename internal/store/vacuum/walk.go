package vacuum

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"lethe/internal/store/postgres"
)

// walkTime bounds a statement of a walk. It is also how old the walk's own snapshot gets.
const walkTime = 10 * time.Second

// The walks read the index entries of the room $1 below a place: the depth $2, and the
// stream position of the first event at that depth. No row is left there but those of
// events that the purge has kept.
var walks = []string{
	`SELECT count(*) FROM events WHERE room_id = $1 AND topological_ordering < $2`,
	`SELECT count(*) FROM events WHERE room_id = $1 AND stream_ordering < (
		SELECT e.stream_ordering FROM events e WHERE e.room_id = $1 AND e.topological_ordering >= $2
		ORDER BY e.topological_ordering, e.stream_ordering LIMIT 1)`,
}

// Walk reads the index entries of a room's purged events, those below the depth, once. An
// index scan that comes to an entry of a row that no snapshot can see any more marks the
// entry as dead, and later scans skip it without a look at the table. A walk that was cut
// short by the context has marked what it came to. A second walk soon comes to its end.
// The context should have a deadline.
func (q *Queries) Walk(ctx context.Context, room string, below int64) error {
	for _, walk := range walks {
		for {
			err := q.walk(ctx, walk, room, below)
			if err == nil {
				break
			}
			// The next one begins with a new snapshot, and skips what this one has marked.
			if ctx.Err() == nil && postgres.HasCode(err, "57014") {
				continue
			}
			return fmt.Errorf("walk through the index entries of purged events: %w", err)
		}
	}
	return nil
}

func (q *Queries) walk(ctx context.Context, walk, room string, below int64) error {
	return q.db.InTransaction(ctx, func(tx pgx.Tx) error {
		// A scan of the whole table, or of a bitmap, marks nothing, and parallel workers would
		// take more of the machine.
		if _, err := tx.Exec(ctx, `
			SELECT set_config(s.name, s.value, true)
			FROM (VALUES ('enable_seqscan', 'off'), ('enable_bitmapscan', 'off'), ('max_parallel_workers_per_gather', '0'),
			             ('jit', 'off'), ('statement_timeout', $1)) AS s (name, value)`,
			postgres.Milliseconds(walkTime)); err != nil {
			return err
		}
		var kept int64
		return tx.QueryRow(ctx, walk, room, below).Scan(&kept)
	})
}
