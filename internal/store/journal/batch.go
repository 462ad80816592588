package journal

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"lethe/internal/store/postgres"
)

// ErrSuperseded is returned to a run that no longer owns its job: the job has ended,
// or another run has taken it over.
var ErrSuperseded = errors.New("the job belongs to another run")

// ErrUnknown is the [ErrSuperseded] of a job that the journal does not have.
var ErrUnknown = fmt.Errorf("%w: there is no such job", ErrSuperseded)

// A Run is one delivery of a job's task to a worker. Only the newest run of a job
// may change its row.
type Run struct {
	JobID      string
	Generation int
	Attempt    int
}

// A RoomLock is the write lock of the room that a batch works in.
type RoomLock struct {
	Room string

	// Fence is the token that came with the lock.
	Fence int64

	// Lease is the lock's lease. The server ends a batch that is idle for this long:
	// its worker was stopped and has lost the lock.
	Lease time.Duration
}

const (
	// rowLockWait bounds how long a batch waits for a row that another transaction has
	// locked. After that the batch is rolled back and tried again.
	rowLockWait = 5 * time.Second

	// StatementTime bounds one statement of a batch. A batch aims at a fraction of a
	// second, but it cannot do less than one depth level or one state group.
	StatementTime = 15 * time.Minute
)

// A Batch is the transaction of one batch of a job. It begins in one round trip with
// its first statement. That statement fails with [ErrFenced] unless the fence token
// is the room's newest, with [ErrHeld] if the room is held, and with [ErrPaused] if the
// job is paused. A Batch serves one goroutine.
type Batch struct {
	run  Run
	lock RoomLock
	tx   *postgres.LazyTx

	// deleted are the numbers of rows by table that the batch has deleted so far.
	deleted map[string]int64
}

// Begin opens a batch of the run's job in the locked room. It sends nothing. The
// caller must commit the batch or roll it back.
func (j *Journal) Begin(run Run, lock RoomLock) *Batch {
	return &Batch{run: run, lock: lock, tx: j.db.LazyTx(func(pipeline *pgx.Batch) {
		setUpBatch(pipeline, lock.Lease)
		checkRoom(pipeline, lock.Room, lock.Fence)
		checkPause(pipeline, run.JobID)
	})}
}

// BeginSweep is [Journal.Begin] for a job without a room. Two runs of the job may be
// in a batch at once, and only the newest run can commit.
func (j *Journal) BeginSweep(run Run, lease time.Duration) *Batch {
	return &Batch{run: run, tx: j.db.LazyTx(func(pipeline *pgx.Batch) {
		setUpBatch(pipeline, lease)
		checkPause(pipeline, run.JobID)
	})}
}

// setUpBatch sets up a batch's transaction.
//
// It is READ COMMITTED, not REPEATABLE READ: what to delete must be decided by what
// is there while the locks are held, not by an older snapshot.
//
// A batch reads a small part of large tables by index, many times. JIT compilation
// of its plans never pays. Without the lower random_page_cost the planner may read a
// whole table in every batch, because its pages come in order. The batch does not
// wait for the disk either: a crash of the server may lose the last batches with
// their checkpoints, and the job repeats them. The job's end is on disk before it is
// announced, and with it everything before.
func setUpBatch(pipeline *pgx.Batch, lease time.Duration) {
	pipeline.Queue(`
		SELECT set_config('idle_in_transaction_session_timeout', $1, true),
		       set_config('lock_timeout', $2, true),
		       set_config('statement_timeout', $3, true),
		       set_config('jit', 'off', true),
		       set_config('random_page_cost', '1.1', true),
		       set_config('synchronous_commit', 'off', true)`,
		postgres.Milliseconds(lease), postgres.Milliseconds(rowLockWait), postgres.Milliseconds(StatementTime))
}

// Room returns the id of the batch's room, "" for a job without a room.
func (b *Batch) Room() string { return b.lock.Room }

// JobID returns the id of the batch's job.
func (b *Batch) JobID() string { return b.run.JobID }

// Send runs the statements of a pipeline in one round trip. Their results go to
// the callbacks that were queued with them.
func (b *Batch) Send(ctx context.Context, pipeline *pgx.Batch) error { return b.tx.Send(ctx, pipeline) }

// Run runs the statements in order, in one round trip, and returns how many rows
// they deleted, without those of statements that return a row.
func (b *Batch) Run(ctx context.Context, statements []postgres.Statement) (deleted int64, err error) {
	return b.tx.Run(ctx, statements)
}

// Exec runs a statement, as [pgx.Tx] does.
func (b *Batch) Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error) {
	return b.tx.Exec(ctx, sql, args...)
}

// Query runs a query. As the batch's first statement it takes one more round trip.
func (b *Batch) Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error) {
	return b.tx.Query(ctx, sql, args...)
}

// QueryRow runs a query for one row.
func (b *Batch) QueryRow(ctx context.Context, sql string, args ...any) pgx.Row {
	return b.tx.QueryRow(ctx, sql, args...)
}

// Conn returns the batch's connection. It begins the batch if no statement has.
func (b *Batch) Conn(ctx context.Context) (*pgx.Conn, error) { return b.tx.Conn(ctx) }

// Savepoint runs do inside a savepoint. If do fails, what it wrote is undone and its
// error is returned as undone; the batch can go on. After an err the batch can only
// be rolled back. Savepoints may be nested.
func (b *Batch) Savepoint(ctx context.Context, do func() error) (undone, err error) {
	before := maps.Clone(b.deleted)
	undone, err = b.tx.Savepoint(ctx, do)
	if undone != nil {
		b.deleted = before
	}
	return undone, err
}

// Count adds deleted rows of a table of the homeserver's to those that the batch's commit
// adds to the job's row. It does nothing for the table "", nor for Lethe's own tables.
func (b *Batch) Count(table string, rows int64) {
	if table == "" || rows == 0 || strings.HasPrefix(table, "lethe.") {
		return
	}
	if b.deleted == nil {
		b.deleted = map[string]int64{}
	}
	b.deleted[table] += rows
}

// Rollback undoes the batch, also when the context has ended. It does nothing after
// a commit. After it the batch may be used again: the next statement begins it and
// repeats the checks.
func (b *Batch) Rollback(ctx context.Context) {
	b.tx.Rollback(ctx)
	b.deleted = nil
}

// Locked returns the batch's error as a [postgres.LockError] if it says that a wait for a
// lock was given up, and otherwise as it is. It is called after [Batch.Rollback].
func (b *Batch) Locked(err error) error { return b.tx.Locked(err) }

// Commit stores the checkpoint in the job's row, with a sample of how far the job has come if
// the last one is old enough, adds the numbers of deleted rows, and commits the batch. It fails with
// [ErrSuperseded] if the run no longer owns the job. A batch without a statement is
// checked like any other, so committing one records work that was done elsewhere.
// After an error the caller must roll the batch back. If the error is not from the
// server, the commit may have taken place.
//
// The statements of last run just before the commit.
func (b *Batch) Commit(ctx context.Context, checkpoint any, last ...postgres.Statement) error {
	encoded, err := json.Marshal(checkpoint)
	if err != nil {
		return fmt.Errorf("encode the checkpoint: %w", err)
	}
	var deleted *string // nil leaves the row's
	if len(b.deleted) > 0 {
		rows, err := json.Marshal(b.deleted)
		if err != nil {
			return fmt.Errorf("encode the numbers of deleted rows: %w", err)
		}
		text := string(rows)
		deleted = &text
	}
	// This comes late in the batch, so that the job's row is locked no longer than the
	// commit takes: the heartbeat writes the same row.
	move := postgres.Statement{
		What: "move the checkpoint",
		SQL: `
			WITH moved AS (
				UPDATE lethe.jobs
				SET checkpoint = $4, failures = 0, last_failure = NULL, waits_for = NULL, waits_since = NULL, updated_at = clock_timestamp(),
				    samples = lethe.add_sample(samples, $4),
				    deleted = CASE WHEN $5::jsonb IS NULL THEN deleted ELSE lethe.add_rows(deleted, $5) END
				WHERE id = $1 AND generation = $2 AND attempt = $3 AND state = 'running' RETURNING 1
			)
			SELECT count(*) FROM moved`,
		Args: []any{b.run.JobID, b.run.Generation, b.run.Attempt, string(encoded), deleted},
		Row: func(row pgx.Row) error {
			var moved int
			if err := row.Scan(&moved); err != nil {
				return err
			}
			if moved == 0 {
				return ErrSuperseded
			}
			return nil
		},
	}
	if _, err := b.tx.Run(ctx, append([]postgres.Statement{move}, last...)); err != nil {
		return err
	}
	return b.tx.Commit(ctx)
}
