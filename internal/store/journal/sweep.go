package journal

import (
	"cmp"
	"context"
	"fmt"

	"lethe/internal/store/postgres"
)

// OpenLowJobs counts the jobs of [LowQueue] that are a load: those that are queued or
// running, and have more to do than to wait for mappings.
func (j *Journal) OpenLowJobs(ctx context.Context) (int, error) {
	var open int
	if err := j.db.ReadRow(ctx, []any{&open}, openLowJobs); err != nil {
		return 0, fmt.Errorf("count the open jobs of the low queue: %w", err)
	}
	return open, nil
}

// openLowJobs leaves out held jobs: they are no load, and may stay for years. It also
// leaves out purges that wait until the mappings of their events may go: each does so for
// seconds, and a sweep that waited for them would make few purges a second.
const openLowJobs = `
	SELECT count(*) FROM lethe.jobs
	WHERE queue = 'low' AND state IN ('queued', 'running') AND coalesce(checkpoint ->> 'phase'::text, '') <> 'mappings'`

// SweptJobs says which jobs of a sweep were written.
type SweptJobs struct {
	// Accepted are the ids of the jobs that were written.
	Accepted []string

	// Refused are the errors of the jobs that the database refused, by their ids. A job
	// in neither field was left out, as [Journal.InsertJobs] does.
	Refused map[string]error
}

// InsertSwept writes the rows of a sweep's jobs as part of the sweep's batch, as
// [Journal.InsertJobs] does. So the sweep neither loses a room nor handles it twice,
// wherever it is interrupted. If the database refuses a job, the others are still
// written.
//
// It fails with [ErrLowQueue] if more than maxOpen jobs of [LowQueue] would be open.
func InsertSwept(ctx context.Context, b *Batch, jobs []Job, maxOpen int) (SweptJobs, error) {
	swept, err := insertSwept(ctx, b, jobs, maxOpen)
	if err != nil {
		return SweptJobs{}, fmt.Errorf("insert the jobs of a sweep: %w", err)
	}
	return swept, nil
}

func insertSwept(ctx context.Context, b *Batch, jobs []Job, maxOpen int) (swept SweptJobs, err error) {
	if len(jobs) == 0 {
		return SweptJobs{}, nil
	}
	// Sweeps take turns, but a stopped one may wake while another runs.
	if _, err := b.Exec(ctx, `SELECT pg_advisory_xact_lock(hashtextextended('lethe.jobs of sweeps', 0::bigint))`); err != nil {
		return SweptJobs{}, fmt.Errorf("wait for other sweeps: %w", err)
	}
	var open int
	if err := b.QueryRow(ctx, openLowJobs).Scan(&open); err != nil {
		return SweptJobs{}, fmt.Errorf("count the open jobs: %w", err)
	}
	if open+len(jobs) > maxOpen {
		return SweptJobs{}, ErrLowQueue
	}
	// Insert all at once, and one by one if the database refuses that.
	insert := func(some []Job) (accepted []string, undone, err error) {
		undone, err = b.Savepoint(ctx, func() (err error) {
			accepted, err = insertJobs(ctx, b, some)
			return err
		})
		return accepted, undone, err
	}
	accepted, undone, err := insert(jobs)
	if err == nil && undone == nil {
		return SweptJobs{Accepted: accepted}, nil
	}
	if err != nil || !postgres.IsRowError(undone) {
		return SweptJobs{}, cmp.Or(err, undone)
	}
	swept.Refused = map[string]error{}
	for i, job := range jobs {
		accepted, undone, err := insert(jobs[i : i+1])
		switch {
		case err != nil:
			return SweptJobs{}, err
		case postgres.IsRowError(undone):
			swept.Refused[job.ID] = undone
		case undone != nil:
			return SweptJobs{}, undone
		default:
			swept.Accepted = append(swept.Accepted, accepted...)
		}
	}
	return swept, nil
}

// MarkTasksEnqueued is [Journal.MarkTaskEnqueued] for many jobs.
func (j *Journal) MarkTasksEnqueued(ctx context.Context, jobs []Job) error {
	ids, generations := make([]string, len(jobs)), make([]int, len(jobs))
	for i, job := range jobs {
		ids[i], generations[i] = job.ID, job.Generation
	}
	if _, err := j.db.Exec(ctx, `
		UPDATE lethe.jobs j SET task_missing_since = NULL
		FROM unnest($1::text[], $2::integer[]) AS e (id, generation)
		WHERE j.id = e.id AND j.generation = e.generation AND j.state = 'queued' AND j.task_missing_since IS NOT NULL`,
		ids, generations); err != nil {
		return fmt.Errorf("record the jobs' tasks: %w", err)
	}
	return nil
}
