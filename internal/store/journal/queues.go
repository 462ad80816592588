package journal

import (
	"context"
	"fmt"
	"time"

	"lethe/internal/store/postgres"

	"github.com/jackc/pgx/v5"
)

// maxCounted bounds how many jobs [Journal.Queues] counts.
const maxCounted = 100_000

// OpenJobs describes the jobs of one queue and kind that have not ended, or were cancelled
// in the last hour.
type OpenJobs struct {
	// Queue is the queue that the jobs name, "" for the default of their kind.
	Queue Queue
	Kind  Kind

	// Queued and Running are the numbers of jobs by state, and so are Scheduled, Held,
	// Paused and Absorbed, the jobs that wait for something other than a worker.
	Queued, Running, Scheduled, Held, Paused, Absorbed int

	// Cancelled is the number of jobs that were cancelled in the last hour.
	Cancelled int

	// Oldest is the longest time that a queued job has been waiting for a worker, 0 if
	// no job waits. The wait begins when the job is made, or when its last run has put
	// it back. A job does not count while another job of its room is running, and a delete
	// not while it waits between its shutdown and its purge.
	Oldest time.Duration

	// Stalled is the longest time since a running job has committed or failed a batch,
	// 0 if no job runs.
	Stalled time.Duration
}

// Queues counts the jobs that have not ended, and those that were cancelled in the last
// hour, by queue and kind. It leaves out kinds
// without a job. It counts at most 100,000 jobs.
func (j *Journal) Queues(ctx context.Context) ([]OpenJobs, error) {
	// The open jobs have an index of their own, however many jobs have ended. Few rooms
	// have a running job, so comparing with these costs nothing.
	open, err := postgres.Collect(ctx, j.db, pgx.RowToStructByPos[OpenJobs], `
		WITH clock AS (
			SELECT clock_timestamp() AS now
		), open AS (
			SELECT room_id, kind, queue, state, created_at, started_at, updated_at,
			       jsonb_path_exists(checkpoint, '$.purge_at ? (@ > $now)'::jsonpath,
			           pg_catalog.jsonb_build_object('now', floor(extract(epoch FROM clock_timestamp())::numeric * 1000.0)))
			       OR checkpoint @> '{"phase": "shutting_down"}' AND checkpoint ? 'leaves_at'::text AS delayed
			FROM (
				SELECT * FROM lethe.jobs WHERE state IN ('scheduled', 'queued', 'running', 'held', 'paused')
				UNION ALL
				SELECT * FROM lethe.jobs WHERE state = 'absorbed'
				UNION ALL
				SELECT * FROM lethe.jobs WHERE ended_at > clock_timestamp() - interval '1 hour' AND state = 'cancelled') AS jobs
			LIMIT $1
		)
		SELECT coalesce(queue, ''), kind,
		       count(*) FILTER (WHERE state = 'queued'),
		       count(*) FILTER (WHERE state = 'running'),
		       count(*) FILTER (WHERE state = 'scheduled'),
		       count(*) FILTER (WHERE state = 'held'),
		       count(*) FILTER (WHERE state = 'paused'),
		       count(*) FILTER (WHERE state = 'absorbed'),
		       count(*) FILTER (WHERE state = 'cancelled'),
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
