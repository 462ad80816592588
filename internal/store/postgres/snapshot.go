package postgres

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"
)

// BeginSnapshot begins a transaction whose queries all see the database at one
// moment.
const BeginSnapshot = `BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY`

// setSnapshot sets the planner up for reads of a small part of large tables, by
// index, again and again: planning a query anew takes longer than running it, and
// compiling it never pays. The timeouts bound what has no other bound: a statement
// that a hostile filter makes slow, and a reader that was stopped, whose snapshot
// keeps the server from vacuuming.
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
// first query, and ends it when read returns. An error of read is returned as it
// is. If the first query finds that the connection is dead, as after a restart of
// the server, read is called again.
func (db *DB) Snapshot(ctx context.Context, read func(context.Context, *LazyTx) error) error {
	var failed error
	err := RetryRead(ctx, func() error {
		tx := &LazyTx{db: db, begin: func(pipeline *pgx.Batch) {
			pipeline.Queue(BeginSnapshot)
			pipeline.Queue(setSnapshot)
		}}
		defer tx.Rollback(ctx) // nothing was written
		failed = nil
		// Taken before the read begins, so that one which finds no connection has
		// not begun.
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
