package postgres

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"
)

// BeginSnapshot begins a transaction whose queries all see the database at one
// moment.
const BeginSnapshot = `BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY`

// setSnapshot prepares the planner for many small reads of large tables by index.
// Planning a query again takes longer than running it, and JIT compilation never
// pays. The timeouts bound what has no other bound: a statement that a hostile
// filter makes slow, and a reader that was stopped, whose snapshot keeps the server
// from vacuuming.
//
// One statement sets all of it: several would each cost as much.
const setSnapshot = `
		SELECT set_config('plan_cache_mode', 'force_generic_plan', true),
		       set_config('enable_seqscan', 'off', true),
		       set_config('jit', 'off', true),
		       set_config('random_page_cost', '1.1', true),
		       set_config('statement_timeout', '20s', true),
		       set_config('idle_in_transaction_session_timeout', '60s', true)`

// Snapshot calls read with a transaction that sees the database as it was at its
// first query. The transaction ends when read returns. An error of read is returned
// as it is. If the first query finds a dead connection, as after a restart of the
// server, Snapshot calls read again.
func (db *DB) Snapshot(ctx context.Context, read func(context.Context, *LazyTx) error) error {
	var failed error
	err := RetryRead(ctx, func() error {
		tx := &LazyTx{db: db, begin: func(pipeline *pgx.Batch) {
			pipeline.Queue(BeginSnapshot)
			pipeline.Queue(setSnapshot)
		}}
		defer tx.Rollback(ctx) // nothing was written
		failed = nil
		// Acquire the connection first, so that read does not begin without one.
		conn, err := db.Acquire(ctx)
		if err != nil {
			return err
		}
		tx.conn = conn
		failed = read(ctx, tx)
		if tx.trips == 1 && Unreachable(failed) {
			return failed
		}
		return nil
	})
	switch {
	case failed != nil:
		return failed
	case err != nil:
		return fmt.Errorf("begin to read: %w", err)
	}
	return nil
}
