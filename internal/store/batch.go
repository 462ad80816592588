package store

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"
)

// ErrSuperseded is returned to a run that no longer owns its job: the job has
// ended, or another run has taken it over.
var ErrSuperseded = errors.New("the job belongs to another run")

// A Run is one delivery of a job's task to a worker. Only the newest run of a
// job may move it.
type Run struct {
	JobID      string
	Generation int
	Attempt    int
}

// A Batch is what lets a batch's transaction commit.
type Batch struct {
	Run  Run
	Room string

	// Fence is the token that came with the room's write lock.
	Fence int64

	// Lease is the write lock's lease. The server ends a batch that does
	// nothing for so long: its worker was stopped, and the lock is gone.
	Lease time.Duration
}

const (
	// rowLockWait bounds a batch's wait for a row that somebody else has
	// locked. It is then rolled back and tried again.
	rowLockWait = 5 * time.Second

	// statementTime bounds one statement of a batch. A batch aims at a
	// fraction of a second, but one depth level or one state group is the
	// least that it can do.
	statementTime = 15 * time.Minute
)

// inBatch runs do in the batch's transaction. The checkpoint that do returns
// becomes the job's in the same commit.
func (s *Store) inBatch(ctx context.Context, batch Batch, do func(pgx.Tx) (checkpoint any, err error)) error {
	return s.inBatchFrom(ctx, batch, func(*pgx.Batch) {}, do)
}

// inBatchFrom is inBatch with further statements, those that open is given a
// pipeline for, in the round trip that begins the transaction.
func (s *Store) inBatchFrom(ctx context.Context, batch Batch, open func(*pgx.Batch), do func(pgx.Tx) (checkpoint any, err error)) error {
	return s.inRunFrom(ctx, batch.Run, batch.Lease, func(pipeline *pgx.Batch) {
		checkRoom(pipeline, batch.Room, batch.Fence)
		open(pipeline)
	}, do)
}

// inRun is inBatch for a run that has no room. Two runs of a job may be in it at
// once, and of these the newest one alone can commit.
func (s *Store) inRun(ctx context.Context, run Run, lease time.Duration, do func(pgx.Tx) (checkpoint any, err error)) error {
	return s.inRunFrom(ctx, run, lease, func(*pgx.Batch) {}, do)
}

func (s *Store) inRunFrom(ctx context.Context, run Run, lease time.Duration, open func(*pgx.Batch),
	do func(pgx.Tx) (checkpoint any, err error),
) error {
	// Not REPEATABLE READ: what is deleted must be judged by what is there when
	// the locks are held, not by an older snapshot.
	return s.inTransactionFrom(ctx, func(pipeline *pgx.Batch) {
		// A batch touches a small part of large tables, by index, again and again:
		// compiling its plans never pays, and a plan that reads a whole table
		// because its pages come in order would do so in every batch. Nor does it
		// wait for the disk: a crash of the server may take the last batches with
		// their checkpoints, and the job does them again. Its end is on the disk
		// before anybody is told, and all that came before with it.
		pipeline.Queue(`
			SELECT set_config('idle_in_transaction_session_timeout', $1, true),
			       set_config('lock_timeout', $2, true),
			       set_config('statement_timeout', $3, true),
			       set_config('jit', 'off', true),
			       set_config('random_page_cost', '1.1', true),
			       set_config('synchronous_commit', 'off', true)`,
			milliseconds(lease), milliseconds(rowLockWait), milliseconds(statementTime))
		open(pipeline)
	}, func(tx pgx.Tx) error {
		checkpoint, err := do(tx)
		if err != nil {
			return err
		}
		return moveCheckpoint(ctx, tx, run, checkpoint)
	})
}

// MoveCheckpoint makes the checkpoint the job's, as a batch that does nothing
// else: for work that is done elsewhere. It fails as every batch does once the
// room or the job is another's, and then says nothing about that work.
func (s *Store) MoveCheckpoint(ctx context.Context, batch Batch, checkpoint any) error {
	return s.inBatch(ctx, batch, func(pgx.Tx) (any, error) { return checkpoint, nil })
}

// milliseconds writes a timeout as PostgreSQL's settings take it.
func milliseconds(d time.Duration) string { return strconv.FormatInt(d.Milliseconds(), 10) }

// moveCheckpoint records the job's progress. It is the last statement of a
// batch, so that the job's row, where the heartbeat is written too, is locked
// no longer than the commit takes.
func moveCheckpoint(ctx context.Context, tx pgx.Tx, run Run, checkpoint any) error {
	encoded, err := json.Marshal(checkpoint)
	if err != nil {
		return fmt.Errorf("encode the checkpoint: %w", err)
	}
	tag, err := tx.Exec(ctx, `
		UPDATE lethe.jobs
		SET checkpoint = $4, failures = 0, last_failure = NULL, updated_at = clock_timestamp()
		WHERE id = $1 AND generation = $2 AND attempt = $3 AND state = 'running'`,
		run.JobID, run.Generation, run.Attempt, string(encoded))
	if err != nil {
		return fmt.Errorf("move the checkpoint: %w", err)
	}
	if tag.RowsAffected() == 0 {
		return ErrSuperseded
	}
	return nil
}
