package extent

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"lethe/internal/store/postgres"
)

// countTime bounds one count. A million events take about a second.
const countTime = 5 * time.Second

// OfPurge counts the events of a room's history below a depth. known is false if that
// takes longer than 5 s.
func OfPurge(ctx context.Context, db *postgres.DB, room string, before int64) (events int64, known bool, err error) {
	return count(ctx, db, `
		SELECT count(*) FROM events WHERE room_id = $1 AND topological_ordering < $2 AND NOT outlier`, room, before)
}

// OfDelete is [OfPurge] for all events of a room, including those outside of its history.
func OfDelete(ctx context.Context, db *postgres.DB, room string) (events int64, known bool, err error) {
	return count(ctx, db, `SELECT count(*) FROM events WHERE room_id = $1`, room)
}

// OfSweep counts the rooms of the homeserver. known is false if that takes longer than 5 s.
func OfSweep(ctx context.Context, db *postgres.DB) (rooms int64, known bool, err error) {
	return count(ctx, db, `SELECT count(*) FROM rooms`)
}

func count(ctx context.Context, db *postgres.DB, sql string, args ...any) (n int64, known bool, err error) {
	err = db.InTransaction(ctx, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, `SELECT set_config('statement_timeout', $1, true), set_config('jit', 'off', true)`,
			postgres.Milliseconds(countTime)); err != nil {
			return err
		}
		return tx.QueryRow(ctx, sql, args...).Scan(&n)
	})
	if postgres.HasCode(err, "57014") && ctx.Err() == nil { // cancelled by the timeout
		return 0, false, nil
	}
	if err != nil {
		return 0, false, fmt.Errorf("count what the job will go through: %w", err)
	}
	return n, true, nil
}
