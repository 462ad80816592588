package journal

import (
	"context"
	"fmt"
	"time"

	"lethe/internal/store/postgres"
)

// neverEnqueued is the task_missing_since of a job whose current generation was
// never enqueued in asynq.
const neverEnqueued = `'-infinity'`

// ReleaseStale releases up to limit running jobs whose heartbeat is older than
// stale. It queues them under a new generation and returns them; the caller must
// enqueue a task for each. A job that has failed maxFailures times in a row,
// vanished workers included, is ended as failed instead, and returned too. Any
// number of callers may do this at once.
func (j *Journal) ReleaseStale(ctx context.Context, stale time.Duration, maxFailures, limit int) ([]Job, error) {
	// SKIP LOCKED: the run of a locked row is updating it at this moment.
	jobs, err := postgres.Collect(ctx, j.db, scanJob, `
		UPDATE lethe.jobs
		SET generation = generation + 1, failures = failures + 1, heartbeat_at = NULL, updated_at = clock_timestamp(),
		    last_failure = coalesce(last_failure, 'its worker vanished'),
		    task_missing_since = CASE WHEN failures + 1 < $2 THEN timestamptz `+neverEnqueued+` END,
		    state = CASE WHEN failures + 1 < $2 THEN 'queued' ELSE 'failed' END,
		    ended_at = CASE WHEN failures + 1 < $2 THEN NULL ELSE clock_timestamp() END,
		    error = CASE WHEN failures + 1 < $2 THEN NULL ELSE
		        pg_catalog.format('gave up after %s failures without progress: %s', failures + 1,
		               coalesce(last_failure, 'its worker vanished')) END
		WHERE id IN (
			SELECT id FROM lethe.jobs
			WHERE state = 'running' AND heartbeat_at < clock_timestamp() - $1::interval
			LIMIT $3 FOR UPDATE SKIP LOCKED)
		RETURNING `+jobColumns, stale, maxFailures, limit)
	if err != nil {
		return nil, fmt.Errorf("release stale jobs: %w", err)
	}
	return jobs, nil
}

// RequeueMissing returns up to limit queued jobs that asynq has had no task of for
// at least missing, or never. The caller must enqueue a task for each. A job that
// had a task gets a new generation.
func (j *Journal) RequeueMissing(ctx context.Context, missing time.Duration, limit int) ([]Job, error) {
	jobs, err := postgres.Collect(ctx, j.db, scanJob, `
		UPDATE lethe.jobs
		SET generation = generation + CASE WHEN task_missing_since = `+neverEnqueued+` THEN 0 ELSE 1 END,
		    task_missing_since = `+neverEnqueued+`, updated_at = clock_timestamp()
		WHERE id IN (
			SELECT id FROM lethe.jobs
			WHERE state = 'queued' AND task_missing_since < clock_timestamp() - $1::interval
			ORDER BY task_missing_since LIMIT $2 FOR UPDATE SKIP LOCKED)
		RETURNING `+jobColumns, missing, limit)
	if err != nil {
		return nil, fmt.Errorf("requeue jobs without a task: %w", err)
	}
	return jobs, nil
}

// QueuedJobs returns up to limit queued jobs in the order of their ids, from
// the first after the given id.
func (j *Journal) QueuedJobs(ctx context.Context, after string, limit int) ([]Job, error) {
	jobs, err := postgres.Collect(ctx, j.db, scanJob, `
		SELECT `+jobColumns+` FROM lethe.jobs WHERE state = 'queued' AND id > $1 ORDER BY id LIMIT $2`, after, limit)
	if err != nil {
		return nil, fmt.Errorf("list queued jobs: %w", err)
	}
	return jobs, nil
}

// MarkTaskEnqueued records that asynq has a task of the queued job's generation.
func (j *Journal) MarkTaskEnqueued(ctx context.Context, id string, generation int) error {
	return j.markTask(ctx, id, generation, `NULL`)
}

// MarkTaskMissing records that asynq has no such task. The time counts from the
// first such call.
func (j *Journal) MarkTaskMissing(ctx context.Context, id string, generation int) error {
	return j.markTask(ctx, id, generation, `coalesce(task_missing_since, clock_timestamp())`)
}

// MarkTaskNever records that asynq never got such a task, so that the reconciler
// enqueues it at once.
func (j *Journal) MarkTaskNever(ctx context.Context, id string, generation int) error {
	return j.markTask(ctx, id, generation, neverEnqueued)
}

// markTask does nothing for a job that is no longer queued under this generation.
func (j *Journal) markTask(ctx context.Context, id string, generation int, since string) error {
	_, err := j.db.Exec(ctx, `
		UPDATE lethe.jobs SET task_missing_since = `+since+`
		WHERE id = $1 AND generation = $2 AND state = 'queued'`, id, generation)
	if err != nil {
		return fmt.Errorf("record the job's task: %w", err)
	}
	return nil
}
