package journal

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"lethe/internal/store/postgres"
)

// MaxSchedules is the most rows that [Schedules.List] returns.
const MaxSchedules = 1000

// A Decision is the last decision about a job of the retention settings.
type Decision struct {
	Schedule

	// Outcome is [TickNoted], [TickAccepted] or [TickSkipped].
	Outcome string

	// Skipped is how many ticks were skipped in all.
	Skipped int64

	// Sweep is the id of the last sweep that a tick has made, "" before the first.
	Sweep string
}

// List returns the last decision about each job, sorted by name, also about jobs that the
// settings no longer have.
func (s *Schedules) List(ctx context.Context) ([]Decision, error) {
	decisions, err := postgres.ReadAll(ctx, s.db, func(row pgx.CollectableRow) (d Decision, err error) {
		var next *time.Time
		err = row.Scan(&d.Job, &d.LastTick, &next, &d.Outcome, &d.Skipped, &d.Sweep)
		if next != nil {
			d.NextTick = *next
		}
		return d, err
	}, `
		SELECT job, last_tick, next_tick, outcome, skipped, coalesce(sweep_id, '') FROM lethe.schedules ORDER BY job LIMIT $1`, MaxSchedules)
	if err != nil {
		return nil, fmt.Errorf("list the schedules: %w", err)
	}
	return decisions, nil
}

// LastSweeps returns the id of the newest sweep of each job, by the name of the job,
// whether a tick or a user has asked for it. A job without one is left out.
func (s *Schedules) LastSweeps(ctx context.Context) (map[string]string, error) {
	// Sweeps are the jobs without a room, and have an index of their own by that.
	newest, err := postgres.ReadAll(ctx, s.db, pgx.RowTo[[2]string], `
		SELECT DISTINCT ON (j.parameters ->> 'job'::text) ARRAY[j.parameters ->> 'job'::text, j.id]
		FROM lethe.jobs j WHERE j.room_id = '' AND j.parameters ->> 'job'::text IS NOT NULL
		ORDER BY j.parameters ->> 'job'::text, j.created_at DESC, j.id LIMIT $1`, MaxSchedules)
	if err != nil {
		return nil, fmt.Errorf("find the last sweeps: %w", err)
	}
	byJob := make(map[string]string, len(newest))
	for _, pair := range newest {
		byJob[pair[0]] = pair[1]
	}
	return byJob, nil
}

// RunNow accepts a sweep of the named job, as a tick does, unless a sweep of the job has
// not ended: then it returns that one, and accepted is false. Of the sweep it reads what
// [Tick] says. An accepted sweep counts as never enqueued until
// [Journal.MarkTaskEnqueued]. The job's ticks stay as they are.
func (s *Schedules) RunNow(ctx context.Context, job string, sweep Job) (made Job, accepted bool, err error) {
	err = s.db.InTransaction(ctx, func(tx pgx.Tx) error {
		var outcome string
		outcome, made, err = makeSweep(ctx, tx, Tick{Job: job, Sweep: sweep})
		accepted = outcome == TickAccepted
		return err
	})
	if err != nil {
		return Job{}, false, fmt.Errorf("run a schedule: %w", err)
	}
	return made, accepted, nil
}
