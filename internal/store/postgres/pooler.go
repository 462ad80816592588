package postgres

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// ErrPooler is returned for a connection through a pooler that gives the sessions of the
// server to others between two transactions, such as PgBouncer in its modes transaction and
// statement. The settings of a session would then be those of another client, and a lock of
// a session would be held by none.
var ErrPooler = errors.New("a pooler between Lethe and PostgreSQL shares the server's sessions (as PgBouncer does in transaction mode): " +
	"connect to PostgreSQL itself, or through a pool in session mode")

// poolerLooks is how often a connection behind a pooler is compared with another one. A
// pooler need not give away a session at once.
const poolerLooks = 5

// checkPooler fails with [ErrPooler] if the connection's session is given to others between
// two transactions. session is the pid of the session that served the last statement.
// Without a pooler it is the pid that the server has told at the start, and a second
// connection is not needed.
func checkPooler(ctx context.Context, conn *pgx.Conn, session int64) error {
	if int64(conn.PgConn().PID()) == session {
		return nil
	}
	other, err := pgx.ConnectConfig(ctx, conn.Config())
	if err != nil {
		return fmt.Errorf("look for a pooler: %w", err)
	}
	defer func() { _ = other.Close(ctx) }()
	for range poolerLooks {
		before, err := sessionOf(ctx, conn, "")
		if err != nil {
			return err
		}
		// The other one keeps its session for as long as its transaction lasts, if it may
		// have transactions.
		others, err := sessionOf(ctx, other, "BEGIN; ")
		var refused *pgconn.PgError
		if errors.As(err, &refused) {
			return fmt.Errorf("%w: %w", ErrPooler, err)
		}
		if err != nil {
			return err
		}
		if before == others {
			return ErrPooler
		}
		now, err := sessionOf(ctx, conn, "")
		if err != nil {
			return err
		}
		if before != now {
			return ErrPooler
		}
		if _, err := other.Exec(ctx, `ROLLBACK`, pgx.QueryExecModeSimpleProtocol); err != nil {
			return fmt.Errorf("look for a pooler: %w", err)
		}
	}
	return nil
}

// sessionOf returns the pid of the session that runs the statement, after the one before
// it. The statement is not prepared: another session would not know it.
func sessionOf(ctx context.Context, conn *pgx.Conn, before string) (pid uint32, err error) {
	results, err := conn.PgConn().Exec(ctx, before+`SELECT pg_catalog.pg_backend_pid()`).ReadAll()
	if err != nil {
		return 0, fmt.Errorf("look for a pooler: %w", err)
	}
	if _, err := fmt.Sscan(string(results[len(results)-1].Rows[0][0]), &pid); err != nil {
		return 0, fmt.Errorf("look for a pooler: %w", err)
	}
	return pid, nil
}
