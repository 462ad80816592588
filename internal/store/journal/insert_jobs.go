package journal

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"lethe/internal/store/postgres"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// InsertJobs writes the rows of new jobs in one commit, and returns the ids
// of those that it wrote. These jobs are accepted. It leaves out a job whose id is
// taken, a delete of a room that already has one, here or in the database, and a
// purge in [LowQueue] of a room that already has one there. A job with a grace is
// scheduled, and any other is queued. Of a job it reads only ID, Kind, Room, Parameters,
// Requester, Reason, Queue, Grace, Plan, Way, TraceParent, RequestID and TaskMissing. If
// TaskMissing is set, asynq has no task of the job yet.
func (j *Journal) InsertJobs(ctx context.Context, jobs []Job) (accepted []string, err error) {
	accepted, err = insertJobs(ctx, j.db, jobs)
	if err != nil {
		return nil, fmt.Errorf("insert jobs: %w", err)
	}
	return accepted, nil
}

func insertJobs(ctx context.Context, db postgres.Querier, jobs []Job) (accepted []string, err error) {
	columns := make([][]string, 11)
	missing, graces := make([]bool, len(jobs)), make([]time.Duration, len(jobs))
	for i, job := range jobs {
		missing[i], graces[i] = job.TaskMissing, job.Grace
		for i, value := range []string{
			job.ID, string(job.Kind), job.Room, string(job.Parameters), job.Requester, string(job.Queue), job.TraceParent, job.RequestID,
			job.Reason, string(job.Plan), string(job.Way),
		} {
			columns[i] = append(columns[i], value)
		}
	}
	sql, args := insertAll+` RETURNING id`, []any{
		columns[0], columns[1], columns[2], columns[3], columns[4], columns[5], columns[6], columns[7], columns[8], columns[9], missing, graces,
	}
	if slices.ContainsFunc(jobs, func(job Job) bool { return job.Way != "" }) {
		// Jobs of sweeps have no entries, and workers no right to write them.
		sql, args = `
		WITH made AS (`+insertAll+` RETURNING id, kind, room_id, requester, reason), noted AS (`+noteRequests+`
			FROM made m JOIN unnest($1::text[], $13::text[]) AS w (id, way) USING (id) WHERE w.way <> '')
		SELECT id FROM made`, append(args, columns[10])
	}
	return postgres.Collect(ctx, db, pgx.RowTo[string], sql, args...)
}

const (
	insertAll = `
		INSERT INTO lethe.jobs (
			id, kind, room_id, parameters, requester, queue, trace_parent, request_id, reason, plan, task_missing_since, state, due_at)
		SELECT id, kind, room_id, parameters, requester, nullif(queue, ''), nullif(trace_parent, ''), nullif(request_id, ''),
		       nullif(reason, ''), nullif(plan, '')::jsonb,
		       CASE WHEN missing AND grace = '0' THEN timestamptz ` + neverEnqueued + ` END,
		       CASE WHEN grace > '0' THEN 'scheduled' ELSE 'queued' END, CASE WHEN grace > '0' THEN clock_timestamp() + grace END
		FROM unnest($1::text[], $2::text[], $3::text[], $4::jsonb[], $5::text[], $6::text[], $7::text[], $8::text[], $9::text[],
		            $10::text[], $11::boolean[], $12::interval[])
		     AS j (id, kind, room_id, parameters, requester, queue, trace_parent, request_id, reason, plan, missing, grace)
		ON CONFLICT DO NOTHING`

	// noteRequests writes entries of the audit about the jobs m that were requested by the
	// ways w.
	noteRequests = `
			INSERT INTO lethe.audit (who, way, action, subject, room_id, job_id, reason)
			SELECT m.requester, w.way, 'request', m.kind, nullif(m.room_id, ''), m.id, m.reason`
)

// InsertJob writes the row of a new job, which is then accepted: scheduled if it has a
// grace, and queued otherwise. Of the job it reads only ID, Kind, Room, Parameters,
// Requester, Reason, Queue, Grace, Plan, Way, TraceParent and RequestID. It fails with [ErrExists] if the id is taken. It fails with
// [ErrRoomBusy] if the job is a delete and the room already has one, or if alone is
// set and the room has any job that has not ended.
func (j *Journal) InsertJob(ctx context.Context, job Job, alone bool) error {
	err := j.insertJob(ctx, job, alone)
	if err != nil {
		return fmt.Errorf("insert the job: %w", err)
	}
	return nil
}

func (j *Journal) insertJob(ctx context.Context, job Job, alone bool) error {
	if !alone {
		accepted, err := j.inserts.insert(ctx, job)
		var refused *pgconn.PgError
		if accepted || err != nil && !errors.As(err, &refused) {
			return err
		}
		// The statement for many jobs does not say why it left one out, and it fails
		// for all if the server refuses one.
		return j.insertOne(ctx, j.db, job)
	}
	return j.db.InTransaction(ctx, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, `SELECT `+lockRoomJobs+` FROM (SELECT $1::text AS room_id) j`, job.Room); err != nil {
			return err
		}
		var busy bool
		if err := tx.QueryRow(ctx, `
			SELECT EXISTS (SELECT FROM lethe.jobs WHERE room_id = $1 AND state IN ('scheduled', 'queued', 'running', 'held', 'paused'))`,
			job.Room).Scan(&busy); err != nil {
			return err
		}
		if busy {
			return ErrRoomBusy
		}
		return j.insertOne(ctx, tx, job)
	})
}

func (j *Journal) insertOne(ctx context.Context, db postgres.Execer, job Job) error {
	sql := `
		INSERT INTO lethe.jobs (
			id, kind, room_id, parameters, requester, queue, trace_parent, request_id, reason, plan, state, due_at)
		VALUES ($1, $2, $3, $4, $5, nullif($6, ''), nullif($7, ''), nullif($8, ''), nullif($9, ''), nullif($10, '')::jsonb,
			CASE WHEN $11::interval > '0' THEN 'scheduled' ELSE 'queued' END,
			CASE WHEN $11::interval > '0' THEN clock_timestamp() + $11::interval END)`
	args := []any{
		job.ID, job.Kind, job.Room, string(job.Parameters), job.Requester, job.Queue, job.TraceParent, job.RequestID,
		job.Reason, string(job.Plan), job.Grace,
	}
	if job.Way != "" {
		sql = `WITH made AS (` + sql + ` RETURNING id, kind, room_id, requester, reason)` + noteRequests + ` FROM made m CROSS JOIN (SELECT $12::text AS way) w`
		args = append(args, job.Way)
	}
	_, err := db.Exec(ctx, sql, args...)
	var pg *pgconn.PgError
	// The code is checked because the error for an id too long for an index names the
	// index too.
	if errors.As(err, &pg) && pg.Code == "23505" {
		switch pg.ConstraintName {
		case "jobs_pkey":
			return ErrExists
		case "jobs_one_delete_per_room", "jobs_one_low_purge_per_room":
			return ErrRoomBusy
		}
	}
	return err
}

const (
	// maxGroup bounds how many jobs one statement inserts.
	maxGroup = 500

	// groupInsertTime bounds that statement. It serves many callers, so it must not end
	// with the context of one of them.
	groupInsertTime = 10 * time.Second
)

// A groupInserter inserts jobs that arrive at the same time in one commit. While
// that commit is being written to disk, new jobs gather for the next one.
type groupInserter struct {
	insertAll func(ctx context.Context, jobs []Job) (accepted []string, err error)

	mu      sync.Mutex
	busy    bool // a caller is inserting, and will wake the first waiting one
	waiting []*pendingInsert
}

// A pendingInsert is a job that waits to be inserted.
type pendingInsert struct {
	job Job

	// turn is closed when the job's caller must insert all waiting jobs, done when
	// another caller has inserted the job.
	turn, done chan struct{}

	accepted bool
	err      error
}

// insert inserts the job, and reports whether it was accepted.
func (g *groupInserter) insert(ctx context.Context, job Job) (accepted bool, err error) {
	own := &pendingInsert{job: job, turn: make(chan struct{}), done: make(chan struct{})}
	g.mu.Lock()
	g.waiting = append(g.waiting, own)
	if !g.busy {
		g.busy = true
		close(own.turn)
	}
	g.mu.Unlock()
	// This waits no longer than two statements take. It ignores the context: a caller
	// that left earlier could not know whether its job is among those being inserted.
	select {
	case <-own.done:
	case <-own.turn:
		g.insertWaiting(ctx)
	}
	return own.accepted, own.err
}

// insertWaiting inserts the waiting jobs, the caller's own first. It then wakes the
// caller of the first job that has arrived meanwhile, which inserts the next group.
func (g *groupInserter) insertWaiting(ctx context.Context) {
	g.mu.Lock()
	group := g.waiting[:min(len(g.waiting), maxGroup)]
	g.waiting = g.waiting[len(group):]
	g.mu.Unlock()

	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), groupInsertTime)
	defer cancel()
	jobs := make([]Job, len(group))
	for i, pending := range group {
		jobs[i] = pending.job
	}
	ids, err := g.insertAll(ctx, jobs)
	accepted := make(map[string]bool, len(ids))
	for _, id := range ids {
		accepted[id] = true
	}
	for _, pending := range group {
		pending.accepted, pending.err = accepted[pending.job.ID], err
		close(pending.done)
	}

	g.mu.Lock()
	defer g.mu.Unlock()
	if g.busy = len(g.waiting) > 0; g.busy {
		close(g.waiting[0].turn)
	}
}
