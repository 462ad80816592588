package control

import (
	"context"
	"errors"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"lethe/internal/store/journal"
)

// retry queues a job again that has failed or was cancelled. It goes on at its
// checkpoint. One whose grace has not ended is scheduled again, until the same moment. A purge that was absorbed by a failed one does its work itself.
func retry(ctx context.Context, tx pgx.Tx, job Job, request Request) error {
	switch {
	case job.State == journal.Complete:
		return hasEnded(job)
	case !job.State.Ended():
		return refusal("it has not ended, and is " + string(job.State))
	}
	detail := map[string]any{}
	if job.Error != "" {
		detail["error"] = job.Error
	}
	if err := note(ctx, tx, job, request, detail); err != nil {
		return err
	}
	// It may have ended by itself while it was to be paused.
	if err := endPause(ctx, tx, job.ID); err != nil {
		return err
	}
	_, err := tx.Exec(ctx, `
		UPDATE lethe.jobs
		SET state = CASE WHEN due_at > clock_timestamp() THEN 'scheduled' ELSE 'queued' END, generation = generation + 1,
		    failures = 0, error = NULL, ended_at = NULL,
		    task_missing_since = CASE WHEN due_at > clock_timestamp() THEN NULL ELSE timestamptz '-infinity' END, waits_for = NULL, waits_since = NULL, updated_at = clock_timestamp(),
		    checkpoint = CASE WHEN checkpoint ? 'absorbed_by'::text THEN NULL ELSE checkpoint END
		WHERE id = $1`, job.ID)
	return occupied(err)
}

// occupied returns the refusal of a verb that would give a room two jobs of which it may
// have one. It returns other errors as they are.
func occupied(err error) error {
	var pg *pgconn.PgError
	if errors.As(err, &pg) && pg.Code == "23505" {
		switch pg.ConstraintName {
		case "jobs_one_delete_per_room":
			return refusal("its room has another delete that has not ended")
		case "jobs_one_low_purge_per_room":
			return refusal("its room has another purge in the queue low that has not ended")
		}
	}
	return err
}
