package journal

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"lethe/internal/store/postgres"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// InsertJobs writes the rows of new, queued jobs in one commit, and returns the
// ids of those that it wrote; these are accepted. Left out is a job whose id is
// taken, and a delete of a room that has one already, here or in the database.
// Left out is also a purge in [LowQueue] of a room that has one there. Of a job
// only ID, Kind, Room, Parameters, Requester, Queue, TraceParent, RequestID and
// TaskMissing are read; the last says that asynq has no task of it yet.
func (j *Journal) InsertJobs(ctx context.Context, jobs []Job) (accepted []string, err error) {
	accepted, err = insertJobs(ctx, j.db, jobs)
	if err != nil {
		return nil, fmt.Errorf("insert jobs: %w", err)
	}
	return accepted, nil
}

func insertJobs(ctx context.Context, db postgres.Querier, jobs []Job) (accepted []string, err error) {
	columns := make([][]string, 8)
	missing := make([]bool, len(jobs))
	for i, job := range jobs {
		missing[i] = job.TaskMissing
		for i, value := range []string{
			job.ID, string(job.Kind), job.Room, string(job.Parameters), job.Requester, string(job.Queue), job.TraceParent, job.RequestID,
		} {
			columns[i] = append(columns[i], value)
		}
	}
	return postgres.Collect(ctx, db, pgx.RowTo[string], `
		INSERT INTO lethe.jobs (id, kind, room_id, parameters, requester, queue, trace_parent, request_id, task_missing_since)
		SELECT id, kind, room_id, parameters, requester, nullif(queue, ''), nullif(trace_parent, ''), nullif(request_id, ''),
		       CASE WHEN missing THEN timestamptz `+neverEnqueued+` END
		FROM unnest($1::text[], $2::text[], $3::text[], $4::jsonb[], $5::text[], $6::text[], $7::text[], $8::text[], $9::boolean[])
		     AS j (id, kind, room_id, parameters, requester, queue, trace_parent, request_id, missing)
		ON CONFLICT DO NOTHING RETURNING id`,
		columns[0], columns[1], columns[2], columns[3], columns[4], columns[5], columns[6], columns[7], missing)
}

// InsertJob writes the row of a new, queued job; from then on it is accepted.
// Of the job only ID, Kind, Room, Parameters, Requester, Queue, TraceParent and
// RequestID are read. If alone is set and the room has a job that has not ended, it is [ErrRoomBusy], and so
// is a delete of a room that has one already; an id that is taken is [ErrExists].
func (j *Journal) InsertJob(ctx context.Context, job Job, alone bool) error {
	err := j.insertJob(ctx, job, alone)
	if err != nil {
		return fmt.Errorf("insert the job: %w", err)
	}
	return nil
}

func (j *Journal) insertJob(ctx context.Context, job Job, alone bool) error {
	if !alone {
		accepted, err := j.arrivals.insert(ctx, job)
		var refused *pgconn.PgError
		if accepted || err != nil && !errors.As(err, &refused) {
			return err
		}
		// The statement for all does not say why a job was left out, and fails for all
		// if the server takes one of them for no job at all.
		return j.insertAlone(ctx, j.db, job)
	}
	return j.db.InTransaction(ctx, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, `SELECT `+oneAtATime+` FROM (SELECT $1::text AS room_id) j`, job.Room); err != nil {
			return err
		}
		var busy bool
		if err := tx.QueryRow(ctx, `
			SELECT EXISTS (SELECT FROM lethe.jobs WHERE room_id = $1 AND state IN ('queued', 'running', 'held'))`,
			job.Room).Scan(&busy); err != nil {
			return err
		}
		if busy {
			return ErrRoomBusy
		}
		return j.insertAlone(ctx, tx, job)
	})
}

func (j *Journal) insertAlone(ctx context.Context, db postgres.Execer, job Job) error {
	_, err := db.Exec(ctx, `
		INSERT INTO lethe.jobs (id, kind, room_id, parameters, requester, queue, trace_parent, request_id)
		VALUES ($1, $2, $3, $4, $5, nullif($6, ''), nullif($7, ''), nullif($8, ''))`,
		job.ID, job.Kind, job.Room, string(job.Parameters), job.Requester, job.Queue, job.TraceParent, job.RequestID)
	var pg *pgconn.PgError
	// An id that is too long for an index names it, too.
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
	// maxArrivals bounds how many jobs one statement inserts.
	maxArrivals = 500

	// arrivalsTime bounds that statement. It serves many callers, so it does not
	// end with any one's context.
	arrivalsTime = 10 * time.Second
)

// arrivals inserts the jobs that arrive at one time together: while one commit is
// on its way to the disk, those that come gather for the next.
type arrivals struct {
	insertAll func(ctx context.Context, jobs []Job) (accepted []string, err error)

	mu      sync.Mutex
	busy    bool // somebody inserts, and will wake the first of those who wait
	waiting []*arrival
}

// An arrival is a job that waits to be inserted.
type arrival struct {
	job Job

	// turn is closed when the job's caller is to insert all that have gathered,
	// done when its job was among those that another one did.
	turn, done chan struct{}

	accepted bool
	err      error
}

// insert reports whether the job was accepted.
func (a *arrivals) insert(ctx context.Context, job Job) (accepted bool, err error) {
	me := &arrival{job: job, turn: make(chan struct{}), done: make(chan struct{})}
	a.mu.Lock()
	a.waiting = append(a.waiting, me)
	if !a.busy {
		a.busy = true
		close(me.turn)
	}
	a.mu.Unlock()
	// Not longer than two statements take: whoever leaves before could not know
	// whether its job is among those that are being inserted.
	select {
	case <-me.done:
	case <-me.turn:
		a.insertWaiting(ctx)
	}
	return me.accepted, me.err
}

// insertWaiting inserts what has gathered, the caller's own first, and leaves what
// came meanwhile to the first of those.
func (a *arrivals) insertWaiting(ctx context.Context) {
	a.mu.Lock()
	together := a.waiting[:min(len(a.waiting), maxArrivals)]
	a.waiting = a.waiting[len(together):]
	a.mu.Unlock()

	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), arrivalsTime)
	defer cancel()
	jobs := make([]Job, len(together))
	for i, each := range together {
		jobs[i] = each.job
	}
	ids, err := a.insertAll(ctx, jobs)
	accepted := make(map[string]bool, len(ids))
	for _, id := range ids {
		accepted[id] = true
	}
	for _, each := range together {
		each.accepted, each.err = accepted[each.job.ID], err
		close(each.done)
	}

	a.mu.Lock()
	defer a.mu.Unlock()
	if a.busy = len(a.waiting) > 0; a.busy {
		close(a.waiting[0].turn)
	}
}
