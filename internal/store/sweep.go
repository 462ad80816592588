package store

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// OpenLowJobs counts the jobs of [LowQueue] that have not ended, but for held ones.
func (s *Store) OpenLowJobs(ctx context.Context) (int, error) {
	var open int
	if err := s.readRow(ctx, []any{&open}, openLowJobs); err != nil {
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
	// is in neither is left out as [Store.InsertJobs] does.
	Refused map[string]error
}

// InsertSwept writes the rows of the jobs that a sweep has made of some rooms, as
// [Store.InsertJobs] does, and in the same commit makes the sweep's checkpoint what
// the function makes of the outcome. So no room is lost and none comes twice,
// whenever the sweep is cut short. A job that the database refuses does not keep
// the others from being written.
//
// It fails with [ErrLowQueue] if more than most jobs of [LowQueue] would be open,
// and with [ErrSuperseded], having changed nothing. Lease is after how long the
// server ends a transaction that does nothing, as in a [Batch].
func (s *Store) InsertSwept(ctx context.Context, run Run, lease time.Duration, jobs []Job, most int,
	checkpoint func(SweptJobs) any,
) (SweptJobs, error) {
	return s.insertSwept(ctx, run, lease, jobs, most, checkpoint, func(pgx.Tx) error { return nil })
}

func (s *Store) insertSwept(ctx context.Context, run Run, lease time.Duration, jobs []Job, most int,
	checkpoint func(SweptJobs) any, also func(pgx.Tx) error,
) (SweptJobs, error) {
	var swept SweptJobs
	err := s.inRun(ctx, run, lease, func(tx pgx.Tx) (any, error) {
		swept = SweptJobs{}
		if len(jobs) > 0 {
			// Sweeps take turns, but one that was stopped may wake while another runs.
			if _, err := tx.Exec(ctx, `SELECT pg_advisory_xact_lock(hashtextextended('lethe.jobs of sweeps', 0))`); err != nil {
				return nil, fmt.Errorf("wait for other sweeps: %w", err)
			}
			var open int
			if err := tx.QueryRow(ctx, openLowJobs).Scan(&open); err != nil {
				return nil, fmt.Errorf("count the open jobs: %w", err)
			}
			if open+len(jobs) > most {
				return nil, ErrLowQueue
			}
		}
		var err error
		if swept, err = insertEach(ctx, tx, jobs); err != nil {
			return nil, err
		}
		return checkpoint(swept), also(tx)
	})
	if err != nil {
		return SweptJobs{}, fmt.Errorf("insert the jobs of a sweep: %w", err)
	}
	return swept, nil
}

// insertEach inserts all jobs at once, and if the database refuses that, one by
// one.
func insertEach(ctx context.Context, tx pgx.Tx, jobs []Job) (swept SweptJobs, err error) {
	if len(jobs) == 0 {
		return SweptJobs{}, nil
	}
	insert := func(some []Job) (accepted []string, err error) {
		err = pgx.BeginFunc(ctx, tx, func(savepoint pgx.Tx) error {
			accepted, err = insertJobs(ctx, savepoint, some)
			return err
		})
		return accepted, err
	}
	if swept.Accepted, err = insert(jobs); !OfRows(err) {
		return swept, err
	}
	swept = SweptJobs{Refused: map[string]error{}}
	for i, job := range jobs {
		accepted, err := insert(jobs[i : i+1])
		switch {
		case OfRows(err):
			swept.Refused[job.ID] = err
		case err != nil:
			return SweptJobs{}, err
		}
		swept.Accepted = append(swept.Accepted, accepted...)
	}
	return swept, nil
}

// OfRows reports whether the error is about rows that a statement came upon, so
// that the same may work for other rows: of another room.
func OfRows(err error) bool {
	var pg *pgconn.PgError
	return errors.As(err, &pg) && !Transient(err) && hasClass(pg, "22", // data exception
		"23", // integrity constraint
		"54", // too large
		"P0", // raised by a trigger
		"XX", // corrupted
	)
}

// MarkTasksEnqueued is [Store.MarkTaskEnqueued] for many jobs, each under its
// generation.
func (s *Store) MarkTasksEnqueued(ctx context.Context, jobs []Job) error {
	ids, generations := make([]string, len(jobs)), make([]int, len(jobs))
	for i, job := range jobs {
		ids[i], generations[i] = job.ID, job.Generation
	}
	if _, err := s.pool.Exec(ctx, `
		UPDATE lethe.jobs j SET task_missing_since = NULL
		FROM unnest($1::text[], $2::integer[]) AS e (id, generation)
		WHERE j.id = e.id AND j.generation = e.generation AND j.state = 'queued' AND j.task_missing_since IS NOT NULL`,
		ids, generations); err != nil {
		return fmt.Errorf("record the jobs' tasks: %w", err)
	}
	return nil
}
