package journal

import (
	"context"
	"errors"
	"fmt"
	"time"

	"lethe/internal/store/audit"
	"lethe/internal/store/postgres"

	"github.com/jackc/pgx/v5"
)

// A Schedule is a row of lethe.schedules: the last decision about one of the jobs of
// the retention settings.
type Schedule struct {
	Job string

	// LastTick is the last tick that was decided.
	LastTick time.Time

	// NextTick is the tick after it, zero if there will be no other.
	NextTick time.Time
}

// A Tick is a time at which a retention job is due.
type Tick struct {
	// Job is the name of the job.
	Job string

	// At is the time of the tick, and Next the time of the tick after it, zero if there
	// will be no other.
	At, Next time.Time

	// Sweep is the job that the tick makes. Only ID, Kind, Room, Parameters, Requester,
	// Reason, Grace, Way, TraceParent and RequestID are read. Its parameter "job" is the name of the job. Its ID is
	// always the same for the same tick.
	Sweep Job

	// FutureTick, unless zero, is the row's last tick as the caller has read it, if
	// that tick lay in the future. The row is then set back to this tick. If the row
	// has changed since, the caller is late and FutureTick has no effect. Defaults to
	// zero, with which the row stays.
	FutureTick time.Time

	// Force also runs the tick of a job without a row, and a tick that was noted or
	// skipped before. Defaults to false, which leaves these alone.
	Force bool
}

// The outcomes of a tick. The first three are stored in lethe.schedules.
const (
	// TickNoted means that the job was new. The tick counts as past.
	TickNoted = "noted"
	// TickAccepted means that the tick's sweep was accepted.
	TickAccepted = "accepted"
	// TickSkipped means that the tick has no sweep, because a sweep of the same job has
	// not ended.
	TickSkipped = "skipped"
	// TickPast means that this tick, or a later one, was decided before.
	TickPast = "past"
)

// A TakenTick is the result of [Schedules.TakeTick].
type TakenTick struct {
	// Outcome is one of the outcomes of a tick.
	Outcome string

	// Sweep is the accepted sweep, or the sweep for which the tick was skipped. For a
	// past tick it is the tick's own sweep or else the job's last. Its ID is "" if
	// there is no such sweep.
	Sweep Job

	// SetBack says that the row was set back from FutureTick.
	SetBack bool
}

// Schedules reads and writes the schedules of retention's jobs. It is safe for
// concurrent use.
type Schedules struct{ db *postgres.DB }

// NewSchedules returns the Schedules in the database.
func NewSchedules(db *postgres.DB) *Schedules { return &Schedules{db: db} }

// Read returns the rows of the named jobs, by name. A job without a row is left
// out.
func (s *Schedules) Read(ctx context.Context, jobs []string) (map[string]Schedule, error) {
	schedules := map[string]Schedule{}
	err := postgres.RetryRead(ctx, func() error {
		rows, err := s.db.Query(ctx, `
			SELECT job, last_tick, next_tick FROM lethe.schedules WHERE job = ANY ($1)`, jobs)
		if err != nil {
			return err
		}
		var row Schedule
		var next *time.Time
		_, err = pgx.ForEachRow(rows, []any{&row.Job, &row.LastTick, &next}, func() error {
			row.NextTick = time.Time{}
			if next != nil {
				row.NextTick = *next
			}
			schedules[row.Job] = row
			return nil
		})
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("read the schedules: %w", err)
	}
	return schedules, nil
}

// SetNextTick records when a job is due next after a change of the settings; zero is
// never. It does nothing if the job's last tick has changed.
func (s *Schedules) SetNextTick(ctx context.Context, job string, last, next time.Time) error {
	_, err := s.db.Exec(ctx, `UPDATE lethe.schedules SET next_tick = $3 WHERE job = $1 AND last_tick = $2`,
		job, last, orNull(next))
	if err != nil {
		return fmt.Errorf("record a job's next tick: %w", err)
	}
	return nil
}

// TakeTick decides about a tick, for all replicas, in one commit that both updates
// the job's row and inserts the sweep. So each tick has one sweep, however many
// replicas try and whichever of them is killed. An accepted sweep counts as never
// enqueued until [Journal.MarkTaskEnqueued], so nothing is lost if the caller dies
// before.
//
// A second call finds the tick past. That does not depend on the row alone, which
// may have been deleted or set back: a tick whose sweep is in lethe.jobs gets no
// other.
func (s *Schedules) TakeTick(ctx context.Context, tick Tick) (taken TakenTick, err error) {
	err = s.db.InTransaction(ctx, func(tx pgx.Tx) (err error) {
		taken, err = takeTick(ctx, tx, tick)
		return err
	})
	if err != nil {
		return TakenTick{}, fmt.Errorf("take a job's tick: %w", err)
	}
	return taken, nil
}

func takeTick(ctx context.Context, tx pgx.Tx, tick Tick) (taken TakenTick, err error) {
	// If several replicas find no row, one inserts it and the others wait here for its
	// end.
	made, err := tx.Exec(ctx, `
		INSERT INTO lethe.schedules (job, last_tick, next_tick, outcome) VALUES ($1, $2, $3, 'noted')
		ON CONFLICT DO NOTHING`, tick.Job, tick.At, orNull(tick.Next))
	if err != nil {
		return taken, err
	}
	if made.RowsAffected() == 1 && !tick.Force {
		taken.Outcome = TickNoted
		return taken, nil
	}
	var last time.Time
	var outcome, lastSweep string
	if err := tx.QueryRow(ctx, `
		SELECT last_tick, outcome, coalesce(sweep_id, '') FROM lethe.schedules WHERE job = $1 FOR UPDATE`, tick.Job).
		Scan(&last, &outcome, &lastSweep); err != nil {
		return taken, err
	}
	taken.SetBack = !tick.FutureTick.IsZero() && last.Equal(tick.FutureTick)
	taken.Outcome = TickPast
	if taken.Sweep, err = findSweep(ctx, tx, tick.Sweep.ID); err != nil {
		return taken, err
	}
	stays := last.After(tick.At) || last.Equal(tick.At) && (outcome == TickAccepted || !tick.Force)
	if stays && !taken.SetBack {
		if taken.Sweep.ID == "" {
			taken.Sweep, err = findSweep(ctx, tx, lastSweep)
		}
		return taken, err
	}
	if taken.Sweep.ID == "" {
		if taken.Outcome, taken.Sweep, err = makeSweep(ctx, tx, tick); err != nil {
			return taken, err
		}
	}
	skipped := taken.Outcome == TickSkipped
	_, err = tx.Exec(ctx, `
		UPDATE lethe.schedules
		SET last_tick = $2, next_tick = $3, taken_at = clock_timestamp(),
		    outcome = CASE WHEN $4 THEN 'skipped' ELSE 'accepted' END,
		    sweep_id = CASE WHEN $4 THEN sweep_id ELSE $5 END,
		    -- With Force a skipped tick may be taken again.
		    skipped = skipped + ($4 AND (outcome <> 'skipped' OR last_tick <> $2))::int
		WHERE job = $1`, tick.Job, tick.At, orNull(tick.Next), skipped, taken.Sweep.ID)
	return taken, err
}

// makeSweep accepts a tick's sweep, unless a sweep of the same job has not ended; it
// then returns that one. It asks the jobs and not the schedule's row, which may have
// been deleted.
func makeSweep(ctx context.Context, tx pgx.Tx, tick Tick) (outcome string, sweep Job, err error) {
	// A request for a sweep locks no row of lethe.schedules.
	if _, err := tx.Exec(ctx, `SELECT pg_advisory_xact_lock(hashtextextended('lethe.schedules ' || $1::text, 0::bigint))`, tick.Job); err != nil {
		return "", sweep, fmt.Errorf("wait for another sweep of the job: %w", err)
	}
	sweep, err = oneJob(ctx, tx, `
		SELECT `+jobColumns+` FROM lethe.jobs
		WHERE room_id = $1 AND kind = $2 AND parameters ->> 'job'::text = $3 AND state IN ('scheduled', 'queued', 'running', 'held', 'paused')
		ORDER BY created_at, id LIMIT 1`, tick.Sweep.Room, tick.Sweep.Kind, tick.Job)
	if !errors.Is(err, postgres.ErrNotFound) {
		return TickSkipped, sweep, err
	}
	sweep, err = oneJob(ctx, tx, `
		INSERT INTO lethe.jobs (id, kind, room_id, parameters, requester, trace_parent, request_id, reason, task_missing_since, state, due_at)
		VALUES ($1, $2, $3, $4, $5, nullif($6, ''), nullif($8, ''), nullif($9, ''), CASE WHEN $7::interval = '0' THEN timestamptz `+neverEnqueued+` END,
			CASE WHEN $7::interval > '0' THEN 'scheduled' ELSE 'queued' END,
			CASE WHEN $7::interval > '0' THEN clock_timestamp() + $7::interval END) RETURNING `+jobColumns,
		tick.Sweep.ID, tick.Sweep.Kind, tick.Sweep.Room, string(tick.Sweep.Parameters), tick.Sweep.Requester, tick.Sweep.TraceParent, tick.Sweep.Grace,
		tick.Sweep.RequestID, tick.Sweep.Reason)
	if err == nil && tick.Sweep.Way != "" {
		err = audit.Note(ctx, tx, audit.Entry{
			Who: sweep.Requester, Action: audit.Request, Subject: string(sweep.Kind), Job: sweep.ID, Reason: tick.Sweep.Reason,
			Detail: audit.Detail(map[string]any{"schedule": tick.Job}),
		})
	}
	return TickAccepted, sweep, err
}

// findSweep reads a job. An unknown id gives a zero Job.
func findSweep(ctx context.Context, tx pgx.Tx, id string) (Job, error) {
	job, err := oneJob(ctx, tx, `SELECT `+jobColumns+` FROM lethe.jobs WHERE id = $1`, id)
	if errors.Is(err, postgres.ErrNotFound) {
		return Job{}, nil
	}
	return job, err
}

// orNull returns nil for the zero time, which is stored as NULL.
func orNull(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return &t
}
