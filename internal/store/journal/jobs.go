package journal

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"lethe/internal/store/postgres"

	"github.com/jackc/pgx/v5"
)

// ErrExists is returned when a job of that id exists already.
var ErrExists = errors.New("exists already")

// ErrRoomBusy is returned when another job has the room.
var ErrRoomBusy = errors.New("another job has the room")

// ErrLowQueue is returned when as many jobs of [LowQueue] are open, or run, as may.
var ErrLowQueue = errors.New("the low queue has as many jobs as it may")

// A Job is a row of lethe.jobs.
type Job struct {
	ID         string
	Kind       Kind
	Room       string
	Parameters json.RawMessage
	Requester  string
	State      State
	Checkpoint json.RawMessage
	Generation int
	Attempt    int

	// Queue is the queue of the job's task, "" for that of its kind.
	Queue Queue

	// Failures counts the failures since the last committed batch.
	Failures int

	// Error says why the job failed; empty unless it did.
	Error string

	// TraceParent and RequestID say what made the job: the span of a trace, and the
	// id of a request. They are empty if there is none.
	TraceParent, RequestID string

	// TaskMissing says that asynq was found to have no task of the job.
	TaskMissing bool

	// EndedFor is how long ago the job ended, 0 if it has not.
	EndedFor time.Duration
}

// jobColumns are what [scanJob] reads.
const jobColumns = `
	id, kind, room_id, parameters, requester, state, checkpoint, generation, attempt, failures, coalesce(error, ''),
	coalesce(queue, ''), coalesce(trace_parent, ''), coalesce(request_id, ''), task_missing_since IS NOT NULL, coalesce(clock_timestamp() - ended_at, interval '0')`

func scanJob(row pgx.CollectableRow) (Job, error) {
	var j Job
	err := row.Scan(&j.ID, &j.Kind, &j.Room, &j.Parameters, &j.Requester, &j.State, &j.Checkpoint, &j.Generation,
		&j.Attempt, &j.Failures, &j.Error, &j.Queue, &j.TraceParent, &j.RequestID, &j.TaskMissing, &j.EndedFor)
	return j, err
}

// oneJob runs a query for at most one job; none is [postgres.ErrNotFound].
func oneJob(ctx context.Context, db postgres.Querier, sql string, args ...any) (Job, error) {
	rows, err := db.Query(ctx, sql, args...)
	if err != nil {
		return Job{}, err
	}
	return oneRow(rows)
}

// oneRow reads at most one job; none is [postgres.ErrNotFound].
func oneRow(rows pgx.Rows) (Job, error) {
	job, err := pgx.CollectExactlyOneRow(rows, scanJob)
	if errors.Is(err, pgx.ErrNoRows) {
		return Job{}, postgres.ErrNotFound
	}
	return job, err
}

// oneAtATime makes whoever decides by what jobs a room has wait for each other:
// two that look at the same time would not see each other's job.
const oneAtATime = `pg_advisory_xact_lock(hashtextextended('lethe.jobs ' || room_id, 0))`

// lowOneAtATime does so for whoever decides by what jobs the low queue has. It is
// taken after the lock of a room, if both are. A job of another queue is not to
// wait for it, and takes that of its room again.
const lowOneAtATime = `
	pg_advisory_xact_lock(hashtextextended(CASE WHEN queue = 'low' THEN 'lethe.jobs of the low queue' ELSE 'lethe.jobs ' || room_id END, 0))`

// Job reads a job. An unknown id is [postgres.ErrNotFound].
func (j *Journal) Job(ctx context.Context, id string) (Job, error) {
	var job Job
	err := postgres.RetryRead(ctx, func() (err error) {
		job, err = oneJob(ctx, j.db, `SELECT `+jobColumns+` FROM lethe.jobs WHERE id = $1`, id)
		return err
	})
	if err != nil {
		return Job{}, fmt.Errorf("read the job: %w", err)
	}
	return job, nil
}

// OpenJob returns the room's oldest job of that kind that has not ended;
// [postgres.ErrNotFound] if there is none.
func (j *Journal) OpenJob(ctx context.Context, kind Kind, room string) (Job, error) {
	const operation = "look for an open job of the room"
	if !postgres.Storable(room) {
		return Job{}, fmt.Errorf("%s: %w", operation, postgres.ErrNotFound)
	}
	var job Job
	err := postgres.RetryRead(ctx, func() (err error) {
		job, err = oneJob(ctx, j.db, `
			SELECT `+jobColumns+` FROM lethe.jobs
			WHERE room_id = $1 AND kind = $2 AND state IN ('queued', 'running', 'held')
			ORDER BY created_at, id LIMIT 1`, room, kind)
		return err
	})
	if err != nil {
		return Job{}, fmt.Errorf("%s: %w", operation, err)
	}
	return job, nil
}

// ClaimJob makes the caller the job's run. A job that runs can be claimed again
// once its heartbeat is older than stale. It is [ErrSuperseded] when the job has
// ended, has another generation or is run by somebody else, [ErrRoomBusy] while
// another job of the room is running, and [ErrLowQueue] while mostLow other jobs
// of the low queue are, if it is one of these; 0 is no limit.
func (j *Journal) ClaimJob(ctx context.Context, id string, generation int, stale time.Duration, mostLow int) (Job, error) {
	job, err := j.claimJob(ctx, id, generation, stale, mostLow)
	if errors.Is(err, postgres.ErrNotFound) {
		err = j.whyNotClaimed(ctx, id, generation, stale)
	}
	if err != nil {
		return Job{}, fmt.Errorf("claim the job: %w", err)
	}
	return job, nil
}

// claimJob is [Journal.ClaimJob] that only says [postgres.ErrNotFound] if it did not. It is
// one round trip: of all claims in the low queue, one at a time is between its lock
// and its commit.
func (j *Journal) claimJob(ctx context.Context, id string, generation int, stale time.Duration, mostLow int) (job Job, err error) {
	// Not by the batch's error, which makes pgx forget its statements.
	claimed := postgres.ErrNotFound
	err = j.db.InOneTrip(ctx, func(pipeline *pgx.Batch) {
		pipeline.Queue(`SELECT `+oneAtATime+`, `+lowOneAtATime+` FROM lethe.jobs WHERE id = $1`, id)
		pipeline.Queue(`
			UPDATE lethe.jobs j
			SET state = 'running', attempt = attempt + 1, heartbeat_at = clock_timestamp(), task_missing_since = NULL,
			    started_at = coalesce(started_at, clock_timestamp()), updated_at = clock_timestamp()
			WHERE id = $1 AND generation = $2
			  AND (state = 'queued' OR (state = 'running' AND heartbeat_at < clock_timestamp() - $3::interval))
			  AND NOT EXISTS (
				SELECT FROM lethe.jobs o
				WHERE o.room_id = j.room_id AND o.id <> j.id AND o.state = 'running'
				  AND o.heartbeat_at >= clock_timestamp() - $3::interval)
			  AND (queue IS DISTINCT FROM 'low' OR $4 = 0 OR $4 > (
				SELECT count(*) FROM lethe.jobs o
				WHERE o.queue = 'low' AND o.id <> j.id AND o.state = 'running'
				  AND o.heartbeat_at >= clock_timestamp() - $3::interval))
			RETURNING `+jobColumns, id, generation, stale, mostLow).Query(func(rows pgx.Rows) error {
			if job, claimed = oneRow(rows); errors.Is(claimed, postgres.ErrNotFound) {
				return nil
			}
			return claimed
		})
	})
	return job, cmp.Or(err, claimed)
}

// whyNotClaimed tells why a job was not claimed, as far as that is still so. What
// has changed meanwhile it takes for a room that is busy: the claim is tried again.
func (j *Journal) whyNotClaimed(ctx context.Context, id string, generation int, stale time.Duration) error {
	var busy, low bool
	err := j.db.ReadRow(ctx, []any{&busy, &low}, `
		SELECT EXISTS (
			SELECT FROM lethe.jobs o
			WHERE o.room_id = j.room_id AND o.id <> j.id AND o.state = 'running'
			  AND o.heartbeat_at >= clock_timestamp() - $3::interval), coalesce(queue = 'low', false)
		FROM lethe.jobs j WHERE id = $1 AND generation = $2 AND state = 'queued'`,
		id, generation, stale)
	switch {
	case errors.Is(err, postgres.ErrNotFound):
		return ErrSuperseded
	case err != nil:
		return err
	case low && !busy:
		return ErrLowQueue
	}
	return ErrRoomBusy
}

// Heartbeat keeps the runs' jobs from being taken over, and returns those of
// them that no longer own their job. It uses a connection of its own.
func (j *Journal) Heartbeat(ctx context.Context, runs []Run) (lost []Run, err error) {
	ids, generations, attempts := make([]string, len(runs)), make([]int, len(runs)), make([]int, len(runs))
	for i, run := range runs {
		ids[i], generations[i], attempts[i] = run.JobID, run.Generation, run.Attempt
	}
	rows, err := j.db.QueryPulse(ctx, `
		WITH runs AS (
			SELECT * FROM unnest($1::text[], $2::int[], $3::int[]) AS r (id, generation, attempt)
		), beaten AS (
			UPDATE lethe.jobs j SET heartbeat_at = clock_timestamp()
			FROM runs r
			WHERE j.id = r.id AND j.generation = r.generation AND j.attempt = r.attempt AND j.state = 'running'
			RETURNING r.id, r.generation, r.attempt
		)
		SELECT id, generation, attempt FROM runs EXCEPT SELECT id, generation, attempt FROM beaten`,
		ids, generations, attempts)
	if err != nil {
		return nil, fmt.Errorf("write heartbeats: %w", err)
	}
	lost, err = pgx.CollectRows(rows, pgx.RowToStructByPos[Run])
	if err != nil {
		return nil, fmt.Errorf("write heartbeats: %w", err)
	}
	return lost, nil
}

// YieldJob puts the run's job back in the queue, to be claimed again under the
// same generation. A run that no longer owns its job gets [ErrSuperseded].
func (j *Journal) YieldJob(ctx context.Context, run Run) error {
	return j.moveJob(ctx, "yield the job", run, `state = 'queued', heartbeat_at = NULL`)
}

// EndJob ends the run's job in the given state, with the reason if it failed.
// A run that no longer owns its job gets [ErrSuperseded].
func (j *Journal) EndJob(ctx context.Context, run Run, state State, reason string) error {
	return j.moveJob(ctx, "end the job", run, `
		state = $4, error = nullif($5, ''), heartbeat_at = NULL, ended_at = clock_timestamp()`, state, postgres.Sanitize(reason))
}

// FailBatch counts a failed batch of the run's job, and returns how many have
// failed in a row. A run that no longer owns its job gets [ErrSuperseded].
func (j *Journal) FailBatch(ctx context.Context, run Run, reason string) (failures int, err error) {
	err = j.db.QueryRow(ctx, `
		UPDATE lethe.jobs SET failures = failures + 1, last_failure = $4, updated_at = clock_timestamp()
		WHERE id = $1 AND generation = $2 AND attempt = $3 AND state = 'running'
		RETURNING failures`, run.JobID, run.Generation, run.Attempt, postgres.Sanitize(reason)).Scan(&failures)
	if errors.Is(err, pgx.ErrNoRows) {
		err = ErrSuperseded
	}
	if err != nil {
		return 0, fmt.Errorf("count the failed batch: %w", err)
	}
	return failures, nil
}

func (j *Journal) moveJob(ctx context.Context, operation string, run Run, assignments string, args ...any) error {
	tag, err := j.db.Exec(ctx, `
		UPDATE lethe.jobs SET updated_at = clock_timestamp(), `+assignments+`
		WHERE id = $1 AND generation = $2 AND attempt = $3 AND state = 'running'`,
		append([]any{run.JobID, run.Generation, run.Attempt}, args...)...)
	if err == nil && tag.RowsAffected() == 0 {
		err = ErrSuperseded
	}
	if err != nil {
		return fmt.Errorf("%s: %w", operation, err)
	}
	return nil
}
