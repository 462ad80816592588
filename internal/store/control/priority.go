package control

import (
	"context"

	"github.com/jackc/pgx/v5"

	"lethe/internal/store/journal"
)

// prioritise moves a job to another queue. One that is queued gets a new task there, and
// the old one does nothing any more. A running one is in the queue from its next task on.
func prioritise(ctx context.Context, tx pgx.Tx, job Job, request Request) error {
	switch {
	case job.State.Ended():
		return hasEnded(job)
	case job.Queue == request.Queue:
		return refusal("it is in the queue " + string(job.Queue) + " already")
	case job.Room == "" && request.Queue == journal.LowQueue:
		// It would wait there for the jobs that it has made.
		return refusal("a sweep cannot be in the queue of the jobs that sweeps make")
	}
	if err := note(ctx, tx, job, request, map[string]any{"queue": request.Queue}); err != nil {
		return err
	}
	_, err := tx.Exec(ctx, `
		UPDATE lethe.jobs
		SET queue = $2, updated_at = clock_timestamp(),
		    generation = CASE state WHEN 'queued' THEN generation + 1 ELSE generation END,
		    task_missing_since = CASE state WHEN 'queued' THEN timestamptz '-infinity' ELSE task_missing_since END
		WHERE id = $1`, job.ID, request.Queue)
	return occupied(err)
}
