package journal

import (
	"cmp"
	"context"
	"fmt"

	"lethe/internal/store/postgres"
)

// OpenLowJobs counts the jobs of [LowQueue] that have not ended, but for held ones.
func (j *Journal) OpenLowJobs(ctx context.Context) (int, error) {
	var open int
	if err := j.db.ReadRow(ctx, []any{&open}, openLowJobs); err != nil {
		return 0, fmt.Errorf("count the open jobs of the low queue: %w", err)
	}
	return open, nil
}

// Held ones are not among them: they are no load, and may stay for years.
const openLowJobs = `SELECT count(*) FROM lethe.jobs WHERE queue = 'low' AND state IN ('queued', 'running')`

// SweptJobs is what became of the jobs that a sweep made.
type SweptJobs struct {
	// Accepted are the ids of those that were written.
	Accepted []string

	// Refused tells why the database took none of the others, by their ids. What
	// is in neither is left out as [Journal.InsertJobs] does.
	Refused map[string]error
}

// InsertSwept writes the rows of the jobs that a sweep made for some rooms, as
// [Journal.InsertJobs] does, as part of the sweep's batch. So the sweep neither
// loses a room nor meets it twice, whenever it is cut short. A job that the database
// refuses does not keep the others from being written.
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
	// Sweeps take turns, but one that was stopped may wake while another runs.
	if _, err := b.Exec(ctx, `SELECT pg_advisory_xact_lock(hashtextextended('lethe.jobs of sweeps', 0))`); err != nil {
		return SweptJobs{}, fmt.Errorf("wait for other sweeps: %w", err)
	}
	var open int
	if err := b.QueryRow(ctx, openLowJobs).Scan(&open); err != nil {
		return SweptJobs{}, fmt.Errorf("count the open jobs: %w", err)
	}
	if open+len(jobs) > maxOpen {
		return SweptJobs{}, ErrLowQueue
	}
	// All at once, and one by one if the database refuses that.
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
	if err != nil || !postgres.OfRows(undone) {
		return SweptJobs{}, cmp.Or(err, undone)
	}
	swept.Refused = map[string]error{}
	for i, job := range jobs {
		accepted, undone, err := insert(jobs[i : i+1])
		switch {
		case err != nil:
			return SweptJobs{}, err
		case postgres.OfRows(undone):
			swept.Refused[job.ID] = undone
		case undone != nil:
			return SweptJobs{}, undone
		default:
			swept.Accepted = append(swept.Accepted, accepted...)
		}
	}
	return swept, nil
}

// MarkTasksEnqueued is [Journal.MarkTaskEnqueued] for many jobs, each under its
// generation.
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
