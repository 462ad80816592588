package journal

import (
	"context"
	"errors"
	"fmt"

	"lethe/internal/store/postgres"
)

// ErrBegun is returned if a job cannot absorb another because one of the two has begun
// or has ended.
var ErrBegun = errors.New("the job has begun")

// unbegun is the condition on a queued job that has committed nothing. It also holds
// for a job whose first run committed nothing.
const unbegun = `state = 'queued' AND checkpoint IS NULL`

// ofRun is the condition on the row of a run's job, with the run's fields as $1 to
// $3.
const ofRun = `id = $1 AND generation = $2 AND attempt = $3 AND state = 'running'`

// Absorptions reads and writes which jobs wait for the end of a job that does their
// work. It is safe for concurrent use.
type Absorptions struct{ db *postgres.DB }

// NewAbsorptions returns the Absorptions in the database.
func NewAbsorptions(db *postgres.DB) *Absorptions { return &Absorptions{db: db} }

// UnbegunJobs returns up to limit queued jobs of the same kind and room as the given
// one that have not begun, the oldest first. It leaves out the given job and jobs of
// [LowQueue].
func (a *Absorptions) UnbegunJobs(ctx context.Context, job Job, limit int) ([]Job, error) {
	jobs, err := postgres.ReadAll(ctx, a.db, scanJob, `
		SELECT `+jobColumns+` FROM lethe.jobs
		WHERE room_id = $1 AND kind = $2 AND id <> $3 AND `+unbegun+` AND queue IS DISTINCT FROM 'low'
		ORDER BY created_at, id LIMIT $4`, job.Room, job.Kind, job.ID, limit)
	if err != nil {
		return nil, fmt.Errorf("list the room's other queued jobs: %w", err)
	}
	return jobs, nil
}

// AbsorbJobs makes those of the named jobs that have not begun wait for the end of
// the run's job, and returns them. The caller must know that the run's job does
// everything that they would do. If the run no longer owns its job, or has committed
// a batch, it absorbs nothing.
func (a *Absorptions) AbsorbJobs(ctx context.Context, run Run, ids []string) ([]Job, error) {
	// The run's row is locked, so that no other run of the job can commit a batch
	// meanwhile. If one of the other rows is locked, its job is just being claimed.
	jobs, err := postgres.Collect(ctx, a.db, scanJob, `
		WITH absorber AS (
			SELECT id AS absorber, room_id AS room FROM lethe.jobs WHERE `+ofRun+` AND checkpoint IS NULL FOR UPDATE
		), absorbed AS (
			SELECT id AS absorbed, absorber FROM lethe.jobs, absorber
			WHERE id = ANY ($4) AND room_id = room AND id <> absorber AND `+unbegun+` FOR UPDATE OF jobs SKIP LOCKED
		)
		UPDATE lethe.jobs
		SET state = 'absorbed', checkpoint = pg_catalog.jsonb_build_object('absorbed_by', absorber), task_missing_since = NULL,
		    updated_at = clock_timestamp()
		FROM absorbed WHERE id = absorbed
		RETURNING `+jobColumns, run.JobID, run.Generation, run.Attempt, ids)
	if err != nil {
		return nil, fmt.Errorf("absorb the room's other jobs: %w", err)
	}
	return jobs, nil
}

// YieldTo makes the run's job wait for the end of another job of its room, which has
// not begun. The caller must know that the other job does everything that this one
// would do. It fails with [ErrBegun] if one of the two has begun, and with
// [ErrSuperseded] if the run no longer owns its job.
func (a *Absorptions) YieldTo(ctx context.Context, run Run, other string) error {
	const operation = "let another job absorb this one"
	tag, err := a.db.Exec(ctx, `
		WITH absorber AS (
			SELECT id AS absorber, room_id AS room FROM lethe.jobs WHERE id = $4 AND `+unbegun+` FOR UPDATE
		)
		UPDATE lethe.jobs
		SET state = 'absorbed', checkpoint = pg_catalog.jsonb_build_object('absorbed_by', absorber), heartbeat_at = NULL,
		    updated_at = clock_timestamp()
		FROM absorber WHERE `+ofRun+` AND checkpoint IS NULL AND room_id = room`,
		run.JobID, run.Generation, run.Attempt, other)
	if err == nil && tag.RowsAffected() == 0 {
		err = ErrBegun
		var owns bool
		if readErr := a.db.ReadRow(ctx, []any{&owns}, `
			SELECT EXISTS (SELECT FROM lethe.jobs WHERE `+ofRun+`)`, run.JobID, run.Generation, run.Attempt); readErr != nil {
			err = readErr
		} else if !owns {
			err = ErrSuperseded
		}
	}
	if err != nil {
		return fmt.Errorf("%s: %w", operation, err)
	}
	return nil
}

// SettleAbsorbed settles up to limit absorbed jobs whose absorbing job has ended, and
// returns them. They end as that job did, and the error of a failed one names it. If
// it was cancelled or is gone, nothing has done their work: they are queued again
// under a new generation, and the caller must enqueue a task for each.
//
// Any number of callers may do this at once. A job that was absorbed by an absorbed
// job is settled by a later call.
func (a *Absorptions) SettleAbsorbed(ctx context.Context, limit int) ([]Job, error) {
	return a.settleAbsorbed(ctx, `true`, limit)
}

// SettleAbsorbedOf is [Absorptions.SettleAbsorbed] for the jobs of one room.
func (a *Absorptions) SettleAbsorbedOf(ctx context.Context, room string, limit int) ([]Job, error) {
	return a.settleAbsorbed(ctx, `a.room_id = $2`, limit, room)
}

func (a *Absorptions) settleAbsorbed(ctx context.Context, which string, limit int, args ...any) ([]Job, error) {
	jobs, err := postgres.Collect(ctx, a.db, scanJob, `
		WITH settled AS (
			SELECT a.id AS settled, o.id AS absorber, o.error AS failure,
			       CASE WHEN o.state IN ('complete', 'failed') THEN o.state ELSE 'queued' END AS becomes
			FROM lethe.jobs a LEFT JOIN lethe.jobs o ON o.id = a.checkpoint ->> 'absorbed_by'::text
			WHERE a.state = 'absorbed' AND coalesce(o.state IN ('complete', 'failed', 'cancelled'), true) AND `+which+`
			LIMIT $1 FOR UPDATE OF a SKIP LOCKED
		)
		UPDATE lethe.jobs
		SET state = becomes, updated_at = clock_timestamp(),
		    error = CASE becomes WHEN 'failed' THEN pg_catalog.format('the purge %s, which had absorbed this one, failed: %s', absorber, failure) END,
		    ended_at = CASE becomes WHEN 'queued' THEN NULL ELSE clock_timestamp() END,
		    checkpoint = CASE becomes WHEN 'queued' THEN NULL ELSE checkpoint END,
		    generation = CASE becomes WHEN 'queued' THEN generation + 1 ELSE generation END,
		    task_missing_since = CASE becomes WHEN 'queued' THEN timestamptz `+neverEnqueued+` END
		FROM settled WHERE id = settled
		RETURNING `+jobColumns, append([]any{limit}, args...)...)
	if err != nil {
		return nil, fmt.Errorf("settle absorbed jobs: %w", err)
	}
	return jobs, nil
}

// Waiting reports whether the room has queued and absorbed jobs. The room "" is that
// of the jobs without one.
func (j *Journal) Waiting(ctx context.Context, room string) (queued, absorbed bool, err error) {
	if err := j.db.ReadRow(ctx, []any{&queued, &absorbed}, `
		SELECT EXISTS (SELECT FROM lethe.jobs WHERE room_id = $1 AND state = 'queued'),
		       EXISTS (SELECT FROM lethe.jobs WHERE room_id = $1 AND state = 'absorbed')`, room); err != nil {
		return false, false, fmt.Errorf("look for waiting jobs of the room: %w", err)
	}
	return queued, absorbed, nil
}

// NextJob returns the queued job of the room whose turn is next, or
// [postgres.ErrNotFound].
func (j *Journal) NextJob(ctx context.Context, room string) (Job, error) {
	job, err := oneJob(ctx, j.db, `
		SELECT `+jobColumns+` FROM lethe.jobs WHERE room_id = $1 AND state = 'queued'
		ORDER BY queue IS NOT DISTINCT FROM 'low', created_at, id LIMIT 1`, room)
	if err != nil {
		return Job{}, fmt.Errorf("look for the room's next job: %w", err)
	}
	return job, nil
}
