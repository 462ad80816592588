package journal

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"

	"lethe/internal/store/postgres"
)

// ErrPaused is returned instead of running a job that is paused. The error's text ends
// with who has paused what, and why.
var ErrPaused = errors.New("the job is paused")

// PauseOf selects from the row of a job which pause keeps it from running, in words, NULL
// if none does. The words of lethe.pause_of end with a colon if the pause has no reason.
const PauseOf = `regexp_replace(lethe.pause_of(id, room_id, kind), ': $', '')`

// checkPause makes the pipeline fail with [ErrPaused] if the job is paused at this
// moment. A pause that is set later waits for no batch, and stops the next one.
func checkPause(pipeline *pgx.Batch, id string) {
	pipeline.Queue(`SELECT coalesce(`+PauseOf+`, '') FROM lethe.jobs WHERE id = $1`, id).QueryRow(func(row pgx.Row) error {
		var pause string
		err := row.Scan(&pause)
		switch {
		case errors.Is(err, pgx.ErrNoRows):
			return ErrSuperseded
		case err != nil:
			return fmt.Errorf("look for a pause of the job: %w", err)
		case pause != "":
			return fmt.Errorf("%w: %s", ErrPaused, pause)
		}
		return nil
	})
}

// Pauses makes jobs wait for the end of pauses, and of their grace. It is safe for
// concurrent use.
type Pauses struct {
	db      *postgres.DB
	journal *Journal
}

// NewPauses returns the Pauses in the database.
func NewPauses(db *postgres.DB) *Pauses { return &Pauses{db: db, journal: New(db)} }

// PauseOrEnd is [PauseOf] for a job that becomes paused. The pause may have ended
// meanwhile: then the reconciler resumes the job.
const PauseOrEnd = `coalesce(` + PauseOf + `, 'pause that has just ended')`

// becomePaused are the assignments that make a job wait for the end of its pause.
const becomePaused = `
	state = 'paused', heartbeat_at = NULL, task_missing_since = NULL, waits_for = ` + PauseOrEnd + `, waits_since = clock_timestamp()`

// PauseRun makes the run's job wait until it is no longer paused. A run that no longer
// owns its job gets [ErrSuperseded].
func (p *Pauses) PauseRun(ctx context.Context, run Run) error {
	return p.journal.moveJob(ctx, "pause the job", run, becomePaused)
}

// PauseQueued makes up to limit queued jobs that are paused wait for the end of the
// pause, and returns them. Their tasks in asynq do nothing any more. Any number of callers
// may do this at once.
func (p *Pauses) PauseQueued(ctx context.Context, limit int) ([]Job, error) {
	jobs, err := postgres.Collect(ctx, p.db, scanJob, `
		UPDATE lethe.jobs SET updated_at = clock_timestamp(), `+becomePaused+`
		WHERE id IN (
			SELECT id FROM lethe.jobs
			WHERE state = 'queued' AND EXISTS (SELECT FROM lethe.pauses) AND `+PauseOf+` IS NOT NULL
			LIMIT $1 FOR UPDATE SKIP LOCKED)
		RETURNING `+jobColumns, limit)
	if err != nil {
		return nil, fmt.Errorf("pause queued jobs: %w", err)
	}
	return jobs, nil
}

// PauseQueuedJob is [Pauses.PauseQueued] for one job of the generation. It reports
// whether the job waits now.
func (p *Pauses) PauseQueuedJob(ctx context.Context, id string, generation int) (bool, error) {
	tag, err := p.db.Exec(ctx, `
		UPDATE lethe.jobs SET updated_at = clock_timestamp(), `+becomePaused+`
		WHERE id = $1 AND generation = $2 AND state = 'queued' AND `+PauseOf+` IS NOT NULL`, id, generation)
	if err != nil {
		return false, fmt.Errorf("pause the job: %w", err)
	}
	return tag.RowsAffected() > 0, nil
}

// Resume puts up to limit jobs that are no longer paused back in the queue under a
// new generation, and returns them. The caller must enqueue a task for each. Any number of
// callers may do this at once.
func (p *Pauses) Resume(ctx context.Context, limit int) ([]Job, error) {
	jobs, err := postgres.Collect(ctx, p.db, scanJob, `
		UPDATE lethe.jobs
		SET state = 'queued', generation = generation + 1, task_missing_since = `+neverEnqueued+`, waits_for = NULL, waits_since = NULL,
		    updated_at = clock_timestamp()
		WHERE id IN (
			SELECT id FROM lethe.jobs WHERE state = 'paused' AND `+PauseOf+` IS NULL LIMIT $1 FOR UPDATE SKIP LOCKED)
		RETURNING `+jobColumns, limit)
	if err != nil {
		return nil, fmt.Errorf("resume paused jobs: %w", err)
	}
	return jobs, nil
}

// QueueDue queues up to limit scheduled jobs whose grace has ended, and returns them. The
// caller must enqueue a task for each. Any number of callers may do this at once.
func (p *Pauses) QueueDue(ctx context.Context, limit int) ([]Job, error) {
	jobs, err := postgres.Collect(ctx, p.db, scanJob, `
		UPDATE lethe.jobs SET state = 'queued', task_missing_since = `+neverEnqueued+`, updated_at = clock_timestamp()
		WHERE id IN (
			SELECT id FROM lethe.jobs WHERE state = 'scheduled' AND due_at <= clock_timestamp()
			ORDER BY due_at LIMIT $1 FOR UPDATE SKIP LOCKED)
		RETURNING `+jobColumns, limit)
	if err != nil {
		return nil, fmt.Errorf("queue jobs whose grace has ended: %w", err)
	}
	return jobs, nil
}
