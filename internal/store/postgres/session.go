package postgres

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
)

const (
	// lockWait bounds every wait for a lock of another transaction. A transaction may
	// set a bound of its own.
	lockWait = 5 * time.Second

	// idleTime bounds how long a transaction may wait for its client. A process that was
	// stopped inside a transaction must not keep its locks.
	idleTime = 10 * time.Second
)

// ErrSearchPath is returned for a connection that does not keep its search_path, as behind
// a pooler that gives each transaction another session.
var ErrSearchPath = errors.New("the session has not kept its search_path: Lethe needs a session of its own for each connection")

// setUpSession prepares a new session, once: whatever begins a transaction or runs a
// statement of its own is bounded then, and names are looked up in this order only. A
// schema that another role may fill must not hide a function of the server's.
//
// The homeserver's schema is the one in which the role's own search_path finds its tables.
// Without them it is public, where they will be made.
//
// It returns the session's process at the server, which behind a pooler is not the one that
// the protocol tells.
func setUpSession(ctx context.Context, conn *pgx.Conn, idle time.Duration) (backend int64, err error) {
	var path, kept string
	err = conn.QueryRow(ctx, `
		SELECT pg_catalog.set_config('search_path', pg_catalog.concat('pg_catalog, '::pg_catalog.text, (
		         SELECT pg_catalog.quote_ident(coalesce(pg_catalog.min(n.nspname::pg_catalog.text), 'public'::pg_catalog.text))
		         FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid OPERATOR(pg_catalog.=) c.relnamespace
		         WHERE c.oid OPERATOR(pg_catalog.=) pg_catalog.to_regclass('events'::pg_catalog.text)
		       ), $3::pg_catalog.text), false),
		       pg_catalog.set_config('lock_timeout'::pg_catalog.text, $1::pg_catalog.text, false),
		       pg_catalog.set_config('idle_in_transaction_session_timeout'::pg_catalog.text, $2::pg_catalog.text, false)`,
		Milliseconds(lockWait), Milliseconds(idle), lastSchemas).Scan(&path, nil, nil)
	if err == nil {
		err = conn.QueryRow(ctx, `
			SELECT pg_catalog.current_setting('search_path'::pg_catalog.text), pg_catalog.pg_backend_pid()::pg_catalog.int8`).Scan(&kept, &backend)
	}
	switch {
	case HasCode(err, "26000") || HasCode(err, "42P05"): // a prepared statement is in another session
		return 0, fmt.Errorf("set up the session: %w", ErrPooler)
	case err != nil:
		return 0, fmt.Errorf("set up the session: %w", err)
	case kept != path:
		return 0, fmt.Errorf("set up the session: %w", ErrSearchPath)
	}
	return backend, checkPooler(ctx, conn, backend)
}
