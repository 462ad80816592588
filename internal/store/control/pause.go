package control

import (
	"context"
	"errors"

	"github.com/jackc/pgx/v5"

	"lethe/internal/store/journal"
	"lethe/internal/store/postgres"
)

// pause keeps a job from running. A queued one waits from now on, a running one stops
// before its next batch, and one that waits for something else does not begin after that.
func pause(ctx context.Context, tx pgx.Tx, job Job, request Request) error {
	if job.State.Ended() {
		return hasEnded(job)
	}
	detail := map[string]any{}
	if !request.Until.IsZero() {
		detail["until_ts"] = request.Until.UnixMilli()
	}
	if err := note(ctx, tx, job, request, detail); err != nil {
		return err
	}
	if _, err := setPause(ctx, tx, Pause{
		Scope: ScopeJob, Value: job.ID, Who: request.Who, Reason: request.Reason, Until: request.Until,
	}); err != nil {
		return err
	}
	_, err := tx.Exec(ctx, `
		UPDATE lethe.jobs
		SET state = 'paused', task_missing_since = NULL, waits_for = `+journal.PauseOrEnd+`, waits_since = clock_timestamp(),
		    updated_at = clock_timestamp()
		WHERE id = $1 AND state IN ('queued', 'paused')`, job.ID)
	return err
}

// resume ends the job's own pause. If another pause covers the job, it goes on waiting,
// and says for which.
func resume(ctx context.Context, tx pgx.Tx, job Job, request Request) error {
	_, lifted := liftPause(ctx, tx, ScopeJob, job.ID)
	if lifted != nil && !errors.Is(lifted, postgres.ErrNotFound) {
		return lifted
	}
	var other *string
	if err := tx.QueryRow(ctx, `SELECT `+journal.PauseOf+` FROM lethe.jobs WHERE id = $1`, job.ID).Scan(&other); err != nil {
		return err
	}
	switch {
	case job.State.Ended():
		return hasEnded(job)
	case lifted != nil && other != nil:
		return refusal("it has no pause of its own, but waits for the end of the " + *other)
	case lifted != nil && job.State == journal.Held:
		return refusal("it waits for the end of a hold, which must be lifted")
	case lifted != nil && job.State != journal.Paused:
		return refusal("it is not paused")
	}
	if err := note(ctx, tx, job, request, map[string]any{}); err != nil {
		return err
	}
	_, err := tx.Exec(ctx, `
		UPDATE lethe.jobs
		SET state = CASE WHEN $2::text IS NULL THEN 'queued' ELSE state END,
		    generation = CASE WHEN $2::text IS NULL THEN generation + 1 ELSE generation END,
		    task_missing_since = CASE WHEN $2::text IS NULL THEN timestamptz '-infinity' END,
		    waits_for = $2, waits_since = CASE WHEN $2::text IS NULL THEN NULL ELSE waits_since END, updated_at = clock_timestamp()
		WHERE id = $1 AND state = 'paused'`, job.ID, other)
	return err
}
