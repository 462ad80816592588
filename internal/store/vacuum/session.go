package vacuum

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"lethe/internal/store/postgres"
	"lethe/internal/wait"
)

// ErrOtherDatabase is returned for the URL of a database that is not the one of the
// worker.
var ErrOtherDatabase = errors.New("it is another database than that of database.url")

// Costs limit how fast a VACUUM works, as autovacuum's settings of these names do.
type Costs struct {
	// Delay is the pause whenever the cost has reached Limit. 0 is no pause.
	Delay time.Duration

	// Limit is the cost up to a pause: a page in memory costs 1, one that is read 2, and one
	// that is changed 20.
	Limit int
}

// A Session is the connection that vacuums. It is no connection of a pool, since a VACUUM
// takes minutes, and its settings and its lock end with it. It serves one goroutine.
type Session struct {
	db   *postgres.DB
	conn *pgxpool.Conn

	// version is the server's version, such as 150004.
	version int
	role    string

	mu      sync.Mutex
	notices []string
}

// Open connects to the database at the URL. It fails with [ErrOtherDatabase] unless that is
// the database of q. The caller closes the Session.
func (q *Queries) Open(ctx context.Context, url, applicationName string) (*Session, error) {
	s := &Session{}
	fail := func(err error) (*Session, error) {
		s.Close()
		return nil, fmt.Errorf("open the connection for VACUUM: %w", err)
	}
	var err error
	if s.db, err = postgres.Open(ctx, url, postgres.Options{ApplicationName: applicationName, MaxConnections: 1, Notice: s.notice}); err != nil {
		return fail(err)
	}
	if s.conn, err = s.db.Acquire(ctx); err != nil {
		return fail(err)
	}
	// The id of a database is the same in a copy of the server, but not the time of its start.
	const identity = `
		SELECT pg_catalog.concat(d.oid::text, ' ', pg_postmaster_start_time()::timestamptz(6)::text) FROM pg_database d WHERE d.datname = current_database()`
	var ours, its string
	if err := q.db.ReadRow(ctx, []any{&ours}, identity); err != nil {
		return fail(err)
	}
	if err := s.conn.QueryRow(ctx, identity).Scan(&its); err != nil {
		return fail(err)
	}
	if ours != its {
		return fail(ErrOtherDatabase)
	}
	if err := s.conn.QueryRow(ctx, `SELECT current_setting('server_version_num')::int, current_user::text`).Scan(&s.version, &s.role); err != nil {
		return fail(err)
	}
	return s, nil
}

// lockNotAvailable is the code of the warning with which the server skips a locked table.
const lockNotAvailable = "55P03"

func (s *Session) notice(code, text string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.notices) < 10 {
		s.notices = append(s.notices, code+": "+text)
	}
}

// taken returns the notices since the last call.
func (s *Session) taken() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	notices := s.notices
	s.notices = nil
	return notices
}

// Close ends the session, and with it its lock. A second call does nothing.
func (s *Session) Close() {
	if s.conn != nil {
		// The pool keeps no connection whose session may have the lock.
		_ = s.conn.Conn().PgConn().Conn().Close()
		s.conn.Release()
		s.conn = nil
	}
	if s.db != nil {
		s.db.Close()
		s.db = nil
	}
}

// Role returns the name of the session's role.
func (s *Session) Role() string { return s.role }

// lock is the lock of the session that vacuums: there is one in each database.
const lock = `hashtextextended('lethe vacuum', 0::bigint)`

// Lock takes the right to vacuum, unless another session has it. The right ends with the
// session, or with Unlock.
func (s *Session) Lock(ctx context.Context) (locked bool, err error) {
	if err := s.conn.QueryRow(ctx, `SELECT pg_try_advisory_lock(`+lock+`)`).Scan(&locked); err != nil {
		return false, fmt.Errorf("take the right to vacuum: %w", err)
	}
	return locked, nil
}

// Unlock gives the right to vacuum back.
func (s *Session) Unlock(ctx context.Context) error {
	if _, err := s.conn.Exec(ctx, `SELECT pg_advisory_unlock(`+lock+`)`); err != nil {
		return fmt.Errorf("give the right to vacuum back: %w", err)
	}
	return nil
}

// may selects the tables with the ids $2 that the role $1 may vacuum: their owner may, the
// owner of the database, and from PostgreSQL 17 a role with MAINTAIN. It must also have
// USAGE on their schema, to name them.
const may = `
	SELECT c.oid::bigint FROM pg_class c
	WHERE c.oid::bigint = ANY ($2::bigint[]) AND has_schema_privilege($1::name, c.relnamespace, 'USAGE') AND (
		pg_has_role($1::name, c.relowner, 'USAGE')
		OR pg_has_role($1::name, (SELECT d.datdba FROM pg_database d WHERE d.datname = current_database()), 'USAGE')
		OR CASE WHEN current_setting('server_version_num')::int >= 170000 THEN has_table_privilege($1::name, c.oid, 'MAINTAIN') ELSE false END)`

// MayVacuum returns which of the tables the role of the session may vacuum, by their ids.
func (s *Session) MayVacuum(ctx context.Context, tables []Facts) (allowed map[uint32]bool, err error) {
	return mayVacuum(ctx, s.conn, s.role, tables)
}

func mayVacuum(ctx context.Context, db postgres.Querier, role string, tables []Facts) (allowed map[uint32]bool, err error) {
	ids := make([]int64, len(tables))
	for i, t := range tables {
		ids[i] = int64(t.OID)
	}
	found, err := postgres.Collect(ctx, db, pgx.RowTo[int64], may, role, ids)
	if err != nil {
		return nil, fmt.Errorf("look which tables the role may vacuum: %w", err)
	}
	allowed = map[uint32]bool{}
	for _, id := range found {
		allowed[uint32(id)] = true
	}
	return allowed, nil
}

// Vacuum vacuums the table, or says why the server has not: another session has a lock on
// it, as autovacuum has while it vacuums it, or wants one that a VACUUM keeps from it, or
// the role may not. It ends with the context, which should have a deadline.
func (s *Session) Vacuum(ctx context.Context, table Facts, costs Costs) (skipped string, err error) {
	fail := func(err error) (string, error) { return "", fmt.Errorf("vacuum the table %s: %w", table.Name, err) }
	// A limit of the role's own must not end it, because the context does. That it was skipped
	// is said by a warning.
	if _, err := s.conn.Exec(ctx, `
		SELECT set_config(s.name, s.value, false)
		FROM (VALUES ('vacuum_cost_delay', $1), ('vacuum_cost_limit', $2), ('statement_timeout', '0'), ('client_min_messages', 'warning')) AS s (name, value)`,
		postgres.Milliseconds(costs.Delay), fmt.Sprint(costs.Limit)); err != nil {
		return fail(err)
	}
	// Without INDEX_CLEANUP the server may leave the entries of few dead rows in the indexes,
	// where readers meet them. Parallel workers would have costs of their own.
	options := `TRUNCATE false, SKIP_LOCKED true, INDEX_CLEANUP true, PARALLEL 0`
	if s.version >= 160000 {
		options += `, SKIP_DATABASE_STATS true` // which reads all of pg_class
	}
	s.taken()
	working, done := s.givingWay(ctx, table)
	_, err = s.conn.Exec(working, `VACUUM (`+options+`) `+table.Qualified)
	if done(); errors.Is(context.Cause(working), errWaited) && err != nil {
		return "it was cancelled, because another session waited for a lock of the table", nil
	}
	if err != nil {
		return fail(err)
	}
	for _, notice := range s.taken() {
		if !strings.HasPrefix(notice, lockNotAvailable) {
			continue
		}
		skipped, err := s.who(ctx, table)
		if err != nil {
			return fail(err)
		}
		return skipped, nil
	}
	return "", nil
}

const (
	// yieldInterval is how often a VACUUM looks for sessions that wait for its table, and
	// yieldLook bounds a look.
	yieldInterval = 500 * time.Millisecond
	yieldLook     = 5 * time.Second
)

// errWaited ends a VACUUM for whose lock another session waits.
var errWaited = errors.New("another session waits for a lock of the table")

// givingWay returns a context that ends when another session waits for a lock of the table,
// such as a homeserver that changes its schema: behind that session everyone else would
// wait, readers too. The server itself ends only an autovacuum for that. The caller calls
// done when the VACUUM has ended.
func (s *Session) givingWay(ctx context.Context, table Facts) (working context.Context, done func()) {
	working, cancel := context.WithCancelCause(ctx)
	var looking sync.WaitGroup
	looking.Go(func() {
		wait.Every(working, yieldInterval, func(ctx context.Context) {
			ctx, stop := context.WithTimeout(ctx, yieldLook)
			defer stop()
			var waits bool
			// The other connection of the session is free. A look that fails is followed by
			// the next one.
			if err := s.db.Reserved().QueryRow(ctx, `
				SELECT EXISTS (
					SELECT FROM pg_locks l
					WHERE l.locktype = 'relation' AND l.relation = $1::bigint::oid AND NOT l.granted
					  AND l.database = (SELECT d.oid FROM pg_database d WHERE d.datname = current_database()))`,
				int64(table.OID)).Scan(&waits); err == nil && waits {
				cancel(errWaited)
			}
		})
	})
	return working, func() {
		cancel(nil)
		looking.Wait()
	}
}

// who says which session has a lock on the table that keeps a VACUUM away.
func (s *Session) who(ctx context.Context, table Facts) (string, error) {
	var who string
	// The server tells only some roles which backends are autovacuum's.
	err := s.conn.QueryRow(ctx, `
		SELECT pg_catalog.format('%s has a lock on it: %s of process %s',
		         CASE WHEN a.backend_type = 'autovacuum worker' THEN 'autovacuum'
		              WHEN p.pid IS NOT NULL THEN 'another VACUUM' ELSE 'another session, or autovacuum,' END, l.mode, l.pid)
		FROM pg_locks l
		LEFT JOIN pg_stat_activity a ON a.pid = l.pid
		LEFT JOIN pg_stat_progress_vacuum p ON p.pid = l.pid
		WHERE l.locktype = 'relation' AND l.relation = $1::bigint::oid AND l.granted AND l.pid <> pg_backend_pid()
		  AND l.database = (SELECT d.oid FROM pg_database d WHERE d.datname = current_database())
		  AND l.mode IN ('ShareUpdateExclusiveLock', 'ShareLock', 'ShareRowExclusiveLock', 'ExclusiveLock', 'AccessExclusiveLock')
		ORDER BY l.pid LIMIT 1`, int64(table.OID)).Scan(&who)
	if errors.Is(err, pgx.ErrNoRows) {
		return "another session had a lock on it", nil
	}
	return who, err
}
