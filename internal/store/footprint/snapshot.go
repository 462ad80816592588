package footprint

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"lethe/internal/store/postgres"
)

// rollbackTime bounds the end of a snapshot. If the server has not answered by then,
// the pool closes the connection.
const rollbackTime = 5 * time.Second

// idleTime bounds the time for which a snapshot may stay open between two statements:
// while it is open the server cannot vacuum.
const idleTime = time.Minute

// A poolConn is a connection with a transaction that only reads.
type poolConn struct {
	conn *pgxpool.Conn
	tx   pgx.Tx
}

// begin begins a transaction whose statements all see the database at one moment.
// Each may take up to limit.
func begin(ctx context.Context, db *postgres.DB, limit time.Duration) (*poolConn, error) {
	conn, err := db.Acquire(ctx)
	if err != nil {
		return nil, err
	}
	tx, err := conn.BeginTx(ctx, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly})
	c := &poolConn{conn: conn, tx: tx}
	if err == nil {
		// Compiling these statements takes longer than they do.
		_, err = tx.Exec(ctx, `
			SELECT set_config('jit', 'off', true),
			       set_config('lock_timeout', $1, true),
			       set_config('statement_timeout', $1, true),
			       set_config('idle_in_transaction_session_timeout', $2, true)`,
			postgres.Milliseconds(limit), postgres.Milliseconds(idleTime))
	}
	if err != nil {
		c.end(ctx)
		return nil, err
	}
	return c, nil
}

// end ends the transaction and gives the connection back. A second call is an error.
func (c *poolConn) end(ctx context.Context) {
	if c.tx != nil {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), rollbackTime)
		defer cancel()
		_ = c.tx.Rollback(ctx) // nothing was written; the pool closes a connection in a transaction
	}
	c.conn.Release()
}

// setLocal changes settings of the planner until the end of the snapshot.
func (s *Snapshot) setLocal(ctx context.Context, sql string) error {
	_, err := s.tx.Exec(ctx, sql)
	return err
}

const (
	// byIndex makes the planner look rows up one by one. It expects a room to be of
	// average size, or of the size that it had when it was last sampled, and would read
	// tables of all rooms to find the rows of a few events.
	byIndex = `
		SELECT set_config('enable_seqscan', 'off', true), set_config('enable_hashjoin', 'off', true),
		       set_config('enable_mergejoin', 'off', true)`

	// freely leaves the way to the planner.
	freely = `
		SELECT set_config('enable_seqscan', 'on', true), set_config('enable_hashjoin', 'on', true),
		       set_config('enable_mergejoin', 'on', true)`

	// inMemory lets a statement keep the ids of about a million events in memory, instead
	// of writing them to the disk again and again.
	inMemory = `SELECT set_config('work_mem', '128MB', true)`
)
