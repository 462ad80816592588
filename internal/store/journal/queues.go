package journal

import (
	"context"
	"fmt"
	"time"

	"lethe/internal/store/postgres"

	"github.com/jackc/pgx/v5"
)

// maxCounted bounds how many jobs one look at the queues counts.
const maxCounted = 100_000

// OpenJobs are those jobs that have not ended of one queue and kind.
type OpenJobs struct {
	// Queue is the queue that was named for them, "" for that of their kind.
	Queue Queue
	Kind  Kind

	// Queued and Running count them by state.
	Queued, Running int

	// Oldest is how long that one has been waiting for a worker that waits longest:
	// from when it was made or, if it has run, from when its last run gave it back.
	// One does not wait for a worker whose room has another job that runs, nor one
	// that its purge delay keeps. 0 if none waits.
	Oldest time.Duration

	// Stalled is for how long that running one has committed nothing, nor failed to,
	// for which that is longest. 0 if none runs.
	Stalled time.Duration
}

// Queues counts the jobs that have not ended, by queue and kind; what has none is
// left out. It looks at 100,000 of them at most, and then counts no more.
func (j *Journal) Queues(ctx context.Context) ([]OpenJobs, error) {
	// All that have not ended are in an index of their own, however many have. The
	// rooms of those that run are few, so to compare with them costs nothing.
	open, err := postgres.Collect(ctx, j.db, pgx.RowToStructByPos[OpenJobs], `
		WITH clock AS (
			SELECT clock_timestamp() AS now
		), open AS (
			SELECT room_id, kind, queue, state, created_at, started_at, updated_at,
			       jsonb_path_exists(checkpoint, '$.purge_at ? (@ > $now)',
			           jsonb_build_object('now', floor(extract(epoch FROM clock_timestamp()) * 1000))) AS delayed
			FROM lethe.jobs WHERE state IN ('queued', 'running') LIMIT $1
		)
		SELECT coalesce(queue, ''), kind,
		       count(*) FILTER (WHERE state = 'queued'),
		       count(*) FILTER (WHERE state = 'running'),
		       greatest('0', coalesce(max(now - CASE WHEN started_at IS NULL THEN created_at ELSE updated_at END) FILTER (
		           WHERE state = 'queued' AND delayed IS NOT TRUE
		             AND room_id NOT IN (SELECT room_id FROM open WHERE state = 'running')), '0')),
		       greatest('0', coalesce(max(now - updated_at) FILTER (WHERE state = 'running'), '0'))
		FROM open, clock GROUP BY queue, kind`, maxCounted)
	if err != nil {
		return nil, fmt.Errorf("count the open jobs: %w", err)
	}
	return open, nil
}
