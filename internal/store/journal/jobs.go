package journal

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"lethe/internal/store/audit"
	"lethe/internal/store/postgres"

	"github.com/jackc/pgx/v5"
)

// ErrExists is returned when the id is taken.
var ErrExists = errors.New("exists already")

// ErrRoomBusy is returned when another job occupies the room.
var ErrRoomBusy = errors.New("another job has the room")

// ErrLowQueue is returned when [LowQueue] has as many open or running jobs as
// allowed.
var ErrLowQueue = errors.New("the low queue is full")

// ErrKindFull is returned when as many jobs of the kind are running as the fleet's limit
// allows.
var ErrKindFull = errors.New("the fleet runs as many jobs of the kind as allowed")

// RoomLockTaken is the WaitsFor of a job that did not get its room's lock in time. Jobs of
// a room take turns, so pages that are read have the lock, or a job that counts apart.
const RoomLockTaken = "room's lock, held by readers or by another job"

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

	// Queue is the queue of the job's task, "" for the default of its kind.
	Queue Queue

	// Reason says why the job was requested, "" if its requester did not.
	Reason string

	// Grace is how long a new job waits before it is queued, 0 for not at all. It is only
	// for inserts.
	Grace time.Duration

	// Plan is the plan that the job was accepted with, in JSON, nil if there was none. It is
	// for the code that makes plans.
	Plan json.RawMessage

	// Total is how many events, or of a sweep rooms, the job will go through, nil if that
	// is not known.
	Total *int64

	// Failures counts the failures since the last committed batch.
	Failures int

	// Error says why the job failed, "" unless it did.
	Error string

	// Way is how a user has asked for the job, for the audit. It is "" if Lethe makes the job
	// itself: then the audit has no entry. It is only for inserts.
	Way audit.Way

	// TraceParent and RequestID name the origin of the job: the span of a trace, and
	// the id of a request. They are "" if there was no such origin.
	TraceParent, RequestID string

	// TaskMissing says that asynq was found to have no task of the job.
	TaskMissing bool

	// WaitsFor is what the job waits for, in words, and WaitsSince how long it has waited
	// for that. They are "" and 0 if it works or only waits for its turn. A run that looks
	// whether the wait is over leaves them as they are until it commits a batch.
	WaitsFor   string
	WaitsSince time.Duration

	// EndedFor is how long ago the job ended, 0 if it has not.
	EndedFor time.Duration
}

// JobColumns are the columns of lethe.jobs that [ScanJob] reads, for the packages that
// select further ones.
const JobColumns = jobColumns

// ScanJob reads a row of [JobColumns], and the columns after them into more.
func ScanJob(row pgx.CollectableRow, more ...any) (Job, error) { return scanJobAnd(row, more) }

// jobColumns are the columns that [scanJob] reads.
const jobColumns = `
	id, kind, room_id, parameters, requester, state, checkpoint, generation, attempt, failures, coalesce(error, ''),
	coalesce(queue, ''), coalesce(trace_parent, ''), coalesce(request_id, ''), task_missing_since IS NOT NULL,
	coalesce(reason, ''), plan, total,
	coalesce(waits_for, ''), coalesce(clock_timestamp() - waits_since, interval '0'), coalesce(clock_timestamp() - ended_at, interval '0')`

func scanJob(row pgx.CollectableRow) (Job, error) { return scanJobAnd(row, nil) }

func scanJobAnd(row pgx.CollectableRow, more []any) (Job, error) {
	var j Job
	err := row.Scan(append([]any{
		&j.ID, &j.Kind, &j.Room, &j.Parameters, &j.Requester, &j.State, &j.Checkpoint, &j.Generation,
		&j.Attempt, &j.Failures, &j.Error, &j.Queue, &j.TraceParent, &j.RequestID, &j.TaskMissing,
		&j.Reason, &j.Plan, &j.Total, &j.WaitsFor, &j.WaitsSince, &j.EndedFor,
	}, more...)...)
	return j, err
}

// oneJob runs a query for at most one job. No job is [postgres.ErrNotFound].
func oneJob(ctx context.Context, db postgres.Querier, sql string, args ...any) (Job, error) {
	rows, err := db.Query(ctx, sql, args...)
	if err != nil {
		return Job{}, err
	}
	return oneRow(rows)
}

// oneRow reads at most one job. No job is [postgres.ErrNotFound].
func oneRow(rows pgx.Rows) (Job, error) {
	job, err := pgx.CollectExactlyOneRow(rows, scanJob)
	if errors.Is(err, pgx.ErrNoRows) {
		return Job{}, postgres.ErrNotFound
	}
	return job, err
}

// lockRoomJobs takes the lock for decisions that depend on the jobs of a room.
// Without it, two transactions at the same time would not see each other's job.
const lockRoomJobs = `pg_advisory_xact_lock(hashtextextended('lethe.jobs ' || room_id, 0::bigint))`

// lockLowQueue takes the lock for decisions that depend on the jobs of the low
// queue. If a transaction takes both locks, it takes this one second. A job of
// another queue must not wait for it, and takes its room's lock again instead.
const lockLowQueue = `
	pg_advisory_xact_lock(hashtextextended(CASE WHEN queue = 'low' THEN 'lethe.jobs of the low queue' ELSE 'lethe.jobs ' || room_id END, 0::bigint))`

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

// OpenJob returns the room's oldest job of that kind that has not ended, or
// [postgres.ErrNotFound].
func (j *Journal) OpenJob(ctx context.Context, kind Kind, room string) (Job, error) {
	const operation = "look for an open job of the room"
	if !postgres.Storable(room) {
		return Job{}, fmt.Errorf("%s: %w", operation, postgres.ErrNotFound)
	}
	var job Job
	err := postgres.RetryRead(ctx, func() (err error) {
		job, err = oneJob(ctx, j.db, `
			SELECT `+jobColumns+` FROM lethe.jobs
			WHERE room_id = $1 AND kind = $2 AND state IN ('scheduled', 'queued', 'running', 'held', 'paused')
			ORDER BY created_at, id LIMIT 1`, room, kind)
		return err
	})
	if err != nil {
		return Job{}, fmt.Errorf("%s: %w", operation, err)
	}
	return job, nil
}

// hasEarlierPurge is the condition that the room of the job j has a history purge that
// was accepted before j and is queued or running. A running one counts even if its
// worker has vanished: it will go on. A held one does not count, since j will be held
// too. Purges of the low queue do not count: they may wait for hours, and their rooms'
// policies decide what they delete.
const hasEarlierPurge = `
	EXISTS (
		SELECT FROM lethe.jobs o
		WHERE o.room_id = j.room_id AND o.kind = 'purge_history' AND o.queue IS DISTINCT FROM 'low'
		  AND o.state IN ('queued', 'running') AND (o.created_at, o.id) < (j.created_at, j.id))`

// ClaimJob makes the caller the job's run. A running job can be claimed once its
// heartbeat is older than stale. ClaimJob fails with [ErrSuperseded] if the job has
// ended, has another generation or belongs to another run. It fails with
// [ErrRoomBusy] while another job of the room is running. It also does so while an
// earlier history purge of the room is queued, unless that is in the low queue: the
// room's other purges run in the order in which they were accepted. If the job is in the
// low queue, it fails with [ErrLowQueue] while maxLow other jobs of that queue are
// running; 0 is no limit. It fails with [ErrPaused] while the job is paused, and with
// [ErrKindFull] while the fleet runs as many jobs of the kind as lethe.fleet allows.
func (j *Journal) ClaimJob(ctx context.Context, id string, generation int, stale time.Duration, maxLow int) (Job, error) {
	job, err := j.claimJob(ctx, id, generation, stale, maxLow)
	if errors.Is(err, postgres.ErrNotFound) {
		err = j.whyNotClaimed(ctx, id, generation, stale)
	}
	if err != nil {
		return Job{}, fmt.Errorf("claim the job: %w", err)
	}
	return job, nil
}

// lockKind takes the lock for decisions that depend on the running jobs of a kind, if
// their number is limited. It comes after the others.
const lockKind = `
	(SELECT pg_advisory_xact_lock(hashtextextended('lethe.jobs of the kind ' || kind, 0::bigint))
	 FROM lethe.fleet f WHERE f.kind = jobs.kind AND f.jobs IS NOT NULL)`

// kindFull is the condition that the fleet runs as many jobs of the kind of the job j as
// allowed. $3 is when a heartbeat is stale.
const kindFull = `
	coalesce((SELECT f.jobs FROM lethe.fleet f WHERE f.kind = j.kind) <= (
		SELECT count(*) FROM lethe.jobs o
		WHERE o.kind = j.kind AND o.id <> j.id AND o.state = 'running' AND o.heartbeat_at >= clock_timestamp() - $3::interval), false)`

// claimJob is [Journal.ClaimJob], but fails with [postgres.ErrNotFound] for every
// reason. It takes one round trip: claims in the low queue wait for each other
// between lock and commit, so that time must be short.
func (j *Journal) claimJob(ctx context.Context, id string, generation int, stale time.Duration, maxLow int) (job Job, err error) {
	// The error is not returned from the callback: pgx forgets its prepared statements
	// after an error of a pipeline.
	claimed := postgres.ErrNotFound
	err = j.db.InOneTrip(ctx, func(pipeline *pgx.Batch) {
		pipeline.Queue(`SELECT `+lockRoomJobs+`, `+lockLowQueue+`, `+lockKind+` FROM lethe.jobs WHERE id = $1`, id)
		pipeline.Queue(`
			UPDATE lethe.jobs j
			SET state = 'running', attempt = attempt + 1, heartbeat_at = clock_timestamp(), task_missing_since = NULL,
			    started_at = coalesce(started_at, clock_timestamp()), updated_at = clock_timestamp(), worker = $5
			WHERE id = $1 AND generation = $2
			  AND (state = 'queued' OR (state = 'running' AND heartbeat_at < clock_timestamp() - $3::interval))
			  AND NOT EXISTS (
				SELECT FROM lethe.jobs o
				WHERE o.room_id = j.room_id AND o.id <> j.id AND o.state = 'running'
				  AND o.heartbeat_at >= clock_timestamp() - $3::interval)
			  AND NOT `+hasEarlierPurge+` AND `+PauseOf+` IS NULL AND NOT `+kindFull+`
			  AND (queue IS DISTINCT FROM 'low' OR $4::int = 0 OR $4::int > (
				SELECT count(*) FROM lethe.jobs o
				WHERE o.queue = 'low' AND o.id <> j.id AND o.state = 'running'
				  AND o.heartbeat_at >= clock_timestamp() - $3::interval))
			RETURNING `+jobColumns, id, generation, stale, maxLow, j.worker).Query(func(rows pgx.Rows) error {
			if job, claimed = oneRow(rows); errors.Is(claimed, postgres.ErrNotFound) {
				return nil
			}
			return claimed
		})
	})
	return job, cmp.Or(err, claimed)
}

// whyNotClaimed returns why a job cannot be claimed at this moment. If the reason
// has gone by now, it returns [ErrRoomBusy], and the claim is tried again.
func (j *Journal) whyNotClaimed(ctx context.Context, id string, generation int, stale time.Duration) error {
	var busy, low, full bool
	var pause string
	err := j.db.ReadRow(ctx, []any{&busy, &low, &full, &pause}, `
		SELECT EXISTS (
			SELECT FROM lethe.jobs o
			WHERE o.room_id = j.room_id AND o.id <> j.id AND o.state = 'running'
			  AND o.heartbeat_at >= clock_timestamp() - $3::interval) OR `+hasEarlierPurge+`,
		       coalesce(queue = 'low', false), `+kindFull+`, coalesce(`+PauseOf+`, '')
		FROM lethe.jobs j WHERE id = $1 AND generation = $2 AND state = 'queued'`,
		id, generation, stale)
	switch {
	case errors.Is(err, postgres.ErrNotFound):
		var known bool
		if err := j.db.ReadRow(ctx, []any{&known}, `SELECT EXISTS (SELECT FROM lethe.jobs WHERE id = $1)`, id); err != nil {
			return err
		}
		if !known {
			return ErrUnknown
		}
		return ErrSuperseded
	case err != nil:
		return err
	case pause != "":
		return fmt.Errorf("%w: %s", ErrPaused, pause)
	case busy:
		return ErrRoomBusy
	case full:
		return ErrKindFull
	case low:
		return ErrLowQueue
	}
	return ErrRoomBusy
}

// Heartbeat keeps other workers from taking the runs' jobs over. It returns the runs
// that no longer own their job. It uses a connection of its own.
func (j *Journal) Heartbeat(ctx context.Context, runs []Run) (lost []Run, err error) {
	ids, generations, attempts := make([]string, len(runs)), make([]int, len(runs)), make([]int, len(runs))
	for i, run := range runs {
		ids[i], generations[i], attempts[i] = run.JobID, run.Generation, run.Attempt
	}
	rows, err := j.db.QueryHeartbeat(ctx, `
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

// A Yield is how a run gives its job back to the queue.
type Yield struct {
	// WaitsFor is what the job waits for, in words. Defaults to "", its turn.
	WaitsFor string

	// Checkpoint is a checkpoint that no batch has stored: from it the job comes to the
	// same result, but sooner. Defaults to nil, the one in the job's row.
	Checkpoint any
}

// YieldJob puts the run's job back in the queue under the same generation. A run
// that no longer owns its job gets [ErrSuperseded].
func (j *Journal) YieldJob(ctx context.Context, run Run, yield Yield) error {
	var checkpoint *string
	if yield.Checkpoint != nil {
		encoded, err := json.Marshal(yield.Checkpoint)
		if err != nil {
			return fmt.Errorf("encode the checkpoint: %w", err)
		}
		text := string(encoded)
		checkpoint = &text
	}
	// A job that waits again for what it has waited for keeps its time, and so does one that
	// waits for a lock which another session has now.
	return j.moveJob(ctx, "yield the job", run, `
		state = 'queued', heartbeat_at = NULL, checkpoint = coalesce($5, checkpoint), waits_for = nullif($4, ''),
		waits_since = CASE WHEN $4 = '' THEN NULL
		                   WHEN waits_for = $4 OR starts_with(waits_for, $6) AND starts_with($4, $6) THEN waits_since
		                   ELSE clock_timestamp() END`,
		postgres.Sanitize(yield.WaitsFor), checkpoint, postgres.WaitsForLock)
}

// EndJob ends the run's job in the given state. The reason says why it failed. A run
// that no longer owns its job gets [ErrSuperseded].
func (j *Journal) EndJob(ctx context.Context, run Run, state State, reason string) error {
	return j.moveJob(ctx, "end the job", run, `
		state = $4, error = nullif($5, ''), waits_for = NULL, waits_since = NULL, heartbeat_at = NULL, ended_at = clock_timestamp()`, state, postgres.Sanitize(reason))
}

// CompleteJob ends the run's job as complete, with a last checkpoint that no batch has
// stored. A run that no longer owns its job gets [ErrSuperseded].
func (j *Journal) CompleteJob(ctx context.Context, run Run, checkpoint any) error {
	encoded, err := json.Marshal(checkpoint)
	if err != nil {
		return fmt.Errorf("encode the checkpoint: %w", err)
	}
	return j.moveJob(ctx, "complete the job", run, `
		state = 'complete', error = NULL, waits_for = NULL, waits_since = NULL, heartbeat_at = NULL, ended_at = clock_timestamp(), checkpoint = $4`, string(encoded))
}

// RecordTotal records how many events, or rooms, the run's job will go through. It does
// nothing if the run no longer owns its job.
func RecordTotal(ctx context.Context, db *postgres.DB, run Run, total int64) error {
	err := db.InOneTrip(ctx, func(pipeline *pgx.Batch) {
		pipeline.Queue(`SELECT set_config('synchronous_commit', 'off', true)`) // nothing depends on it
		pipeline.Queue(`UPDATE lethe.jobs SET total = $4 WHERE `+ofRun, run.JobID, run.Generation, run.Attempt, total)
	})
	if err != nil {
		return fmt.Errorf("record the job's total: %w", err)
	}
	return nil
}

// FailBatch counts a failed batch of the run's job, and returns the number of
// failures in a row. A run that no longer owns its job gets [ErrSuperseded].
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

// moveJob updates the row of the run's job. A run that no longer owns its job gets
// [ErrSuperseded].
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
