package extent

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"lethe/internal/store/journal"
	"lethe/internal/store/postgres"
)

// countTime bounds one count. A million events take about a second.
const countTime = 5 * time.Second

// RecordPurge records how many events of the room's history below the depth a purge will
// go through, before its first batch. It records nothing if that takes longer than 5 s.
func RecordPurge(ctx context.Context, db *postgres.DB, job journal.Job, run journal.Run, before int64) error {
	return record(ctx, db, job, run, `
		SELECT count(*) FROM events WHERE room_id = $1 AND topological_ordering < $2 AND NOT outlier`, job.Room, before)
}

// RecordDelete is [RecordPurge] for all events of a room, including those outside of its
// history.
func RecordDelete(ctx context.Context, db *postgres.DB, job journal.Job, run journal.Run) error {
	return record(ctx, db, job, run, `SELECT count(*) FROM events WHERE room_id = $1`, job.Room)
}

// RecordSweep is [RecordPurge] for the rooms of the homeserver.
func RecordSweep(ctx context.Context, db *postgres.DB, job journal.Job, run journal.Run) error {
	return record(ctx, db, job, run, `SELECT count(*) FROM rooms`)
}

func record(ctx context.Context, db *postgres.DB, job journal.Job, run journal.Run, sql string, args ...any) error {
	if job.Total != nil || len(job.Checkpoint) > 0 {
		return nil
	}
	var total int64
	err := db.InOneTrip(ctx, func(pipeline *pgx.Batch) {
		pipeline.Queue(`SELECT set_config('statement_timeout', $1, true), set_config('jit', 'off', true)`, postgres.Milliseconds(countTime))
		pipeline.Queue(sql, args...).QueryRow(func(row pgx.Row) error { return row.Scan(&total) })
	})
	if postgres.HasCode(err, "57014") && ctx.Err() == nil { // cancelled by the timeout
		return nil
	}
	if err != nil {
		return fmt.Errorf("count what the job will go through: %w", err)
	}
	return journal.RecordTotal(ctx, db, run, total)
}
