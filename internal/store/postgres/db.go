package postgres

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgconn/ctxwatch"
	"github.com/jackc/pgx/v5/pgxpool"

	"lethe/internal/wait"
)

// ErrNotFound is returned when the database has no such row.
var ErrNotFound = errors.New("not found")

// Options are the settings of [Open]. The zero value gives the defaults.
type Options struct {
	// AnswerTime is how long a statement waits for its answer before Lethe asks the server
	// whether it is at work on it. If it is not, the statement fails as if the connection
	// had been closed. Defaults to 10 s.
	AnswerTime time.Duration

	// ApplicationName is the name of the connections in pg_stat_activity.
	// Defaults to "lethe".
	ApplicationName string

	// IdleTime is how long the server waits for the client inside a transaction that sets no
	// bound of its own. Then it ends the session. Defaults to 10 s.
	IdleTime time.Duration

	// MaxConnections is the size of the pool, without the connection for heartbeats.
	// Defaults to 16.
	MaxConnections int

	// Notice, unless nil, gets the SQLSTATE and the text of each notice and warning that the
	// server sends. It must not use the connection. Defaults to nil.
	Notice func(code, text string)

	// SetUp prepares a new session after Lethe has. Its error closes the connection. Defaults
	// to nil.
	SetUp func(ctx context.Context, conn *pgx.Conn) error

	// UnusedTime is how long the pool keeps a connection that it does not use. A quarter of
	// it may pass before the pool looks. Defaults to 1 min.
	UnusedTime time.Duration
}

const (
	// unusedTime is long beside the time of a connect, and short enough that a peak of work
	// does not keep sessions of the server for the rest of the day.
	unusedTime = time.Minute

	// pingTime bounds the check of a connection that was not used for restTime. The server
	// may have fallen silent without closing it, and the check must not use up the time of
	// the request that waits for it.
	pingTime = 2 * time.Second
	restTime = time.Second
)

func (o Options) withDefaults() Options {
	if o.AnswerTime == 0 {
		o.AnswerTime = answerTime
	}
	if o.ApplicationName == "" {
		o.ApplicationName = "lethe"
	}
	if o.IdleTime == 0 {
		o.IdleTime = idleTime
	}
	if o.MaxConnections == 0 {
		o.MaxConnections = 16
	}
	if o.UnusedTime == 0 {
		o.UnusedTime = unusedTime
	}
	return o
}

// A DB is a pool of connections to one database. It is safe for concurrent use.
type DB struct {
	pool *pgxpool.Pool

	// heartbeats is a pool of one connection, so that heartbeats are written however
	// busy the other pool is.
	heartbeats *pgxpool.Pool

	// tables has the names of tables that were found.
	tables sync.Map
}

// Open returns a pool of connections to the database at the URL. It does not
// connect: the first query fails if the database is unreachable. The caller must
// close the DB.
func Open(ctx context.Context, url string, options Options) (*DB, error) {
	options = options.withDefaults()
	beating := options
	beating.ApplicationName += " heartbeat"
	beating.MaxConnections = 1
	heartbeats, err := openPool(ctx, url, beating, nil)
	if err != nil {
		return nil, fmt.Errorf("open the database: %w", err)
	}
	pool, err := openPool(ctx, url, options, heartbeats)
	if err != nil {
		heartbeats.Close()
		return nil, fmt.Errorf("open the database: %w", err)
	}
	return &DB{pool: pool, heartbeats: heartbeats}, nil
}

// openPool opens a pool. Its sessions ask on the other pool whether their statements are at
// work. Without one they do not ask, and every statement must have a deadline.
func openPool(ctx context.Context, url string, options Options, asks *pgxpool.Pool) (*pgxpool.Pool, error) {
	config, err := pgxpool.ParseConfig(url)
	if err != nil {
		return nil, err
	}
	config.MaxConns = int32(options.MaxConnections)
	config.MaxConnIdleTime, config.HealthCheckPeriod = options.UnusedTime, options.UnusedTime/4
	config.ShouldPing = isDoubtful
	config.ConnConfig.ConnectTimeout = 5 * time.Second
	config.ConnConfig.RuntimeParams["application_name"] = options.ApplicationName
	// Cancelling a context must end the statement in the server too. Otherwise the
	// statement's transaction would keep the room's fence locked until it is done.
	config.ConnConfig.BuildContextWatcherHandler = func(conn *pgconn.PgConn) ctxwatch.Handler {
		return &pgconn.CancelRequestContextWatcherHandler{Conn: conn, DeadlineDelay: 2 * time.Second}
	}
	if options.Notice != nil {
		config.ConnConfig.OnNotice = func(_ *pgconn.PgConn, notice *pgconn.Notice) { options.Notice(notice.Code, notice.Message) }
	}
	config.ConnConfig.DialFunc = dialSocket(config.ConnConfig.DialFunc)
	config.AfterConnect = func(ctx context.Context, conn *pgx.Conn) error {
		// The socket has no lookout yet, and the pool gives no deadline.
		ctx, cancel := context.WithTimeout(ctx, answerTime)
		defer cancel()
		backend, err := setUpSession(ctx, conn, options.IdleTime)
		if err == nil && options.SetUp != nil {
			err = options.SetUp(ctx, conn)
		}
		if err == nil && asks != nil {
			watchSocket(conn, &lookout{asks: asks, after: options.AnswerTime, backend: backend})
		}
		return err
	}
	return pgxpool.NewWithConfig(ctx, config)
}

// isDoubtful pings a connection that was not used for a while, and reports whether that has
// failed. Then the pool's own ping fails at once, and it takes another connection.
//
// A ping without an answer in time closes the socket under the connection: a regular close
// would wait 15 s for the server, and keep the place in the pool.
func isDoubtful(ctx context.Context, taken pgxpool.ShouldPingParams) bool {
	if taken.IdleDuration < restTime {
		return false
	}
	timer := time.AfterFunc(pingTime, func() { _ = taken.Conn.PgConn().Conn().Close() })
	defer timer.Stop()
	return taken.Conn.Ping(ctx) != nil
}

// Close waits for the connections in use, and closes all. A second call does
// nothing.
func (db *DB) Close() {
	db.pool.Close()
	db.heartbeats.Close()
}

// Reserved returns the connection for heartbeats as a DB of its own, for checks that must be
// answered however busy the pool is. The caller does not close it.
func (db *DB) Reserved() *DB { return &DB{pool: db.heartbeats, heartbeats: db.heartbeats} }

// Ping checks that the server answers.
func (db *DB) Ping(ctx context.Context) error {
	if err := db.pool.Ping(ctx); err != nil {
		return fmt.Errorf("ping the database: %w", err)
	}
	return nil
}

// Now returns the time by the database's clock.
func (db *DB) Now(ctx context.Context) (time.Time, error) {
	var now time.Time
	if err := db.ReadRow(ctx, []any{&now}, `SELECT clock_timestamp()`); err != nil {
		return time.Time{}, fmt.Errorf("read the database's clock: %w", err)
	}
	return now, nil
}

// HasTable reports whether the database has a table that is not in every version of
// the homeserver. A new version may bring it at any time but does not remove it. So a
// table that was found is not looked for again.
func (db *DB) HasTable(ctx context.Context, name string) (bool, error) {
	if _, found := db.tables.Load(name); found {
		return true, nil
	}
	var has bool
	if err := db.ReadRow(ctx, []any{&has}, `SELECT to_regclass(quote_ident($1)) IS NOT NULL`, name); err != nil {
		return false, fmt.Errorf("look for the table %s: %w", name, err)
	}
	if has {
		db.tables.Store(name, true)
	}
	return has, nil
}

// Query runs a query on a connection of the pool. The rows keep it until they are
// closed.
func (db *DB) Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error) {
	return db.pool.Query(ctx, sql, args...)
}

// QueryRow runs a query for one row on a connection of the pool.
func (db *DB) QueryRow(ctx context.Context, sql string, args ...any) pgx.Row {
	return db.pool.QueryRow(ctx, sql, args...)
}

// Exec runs a statement in a transaction of its own.
func (db *DB) Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error) {
	return db.pool.Exec(ctx, sql, args...)
}

// Send runs the statements of a pipeline in one round trip and one transaction.
// Their results go to the callbacks that were queued with them.
func (db *DB) Send(ctx context.Context, pipeline *pgx.Batch) error {
	return db.pool.SendBatch(ctx, pipeline).Close()
}

// Acquire takes a connection out of the pool. The caller must release it.
func (db *DB) Acquire(ctx context.Context) (*pgxpool.Conn, error) { return db.pool.Acquire(ctx) }

// QueryHeartbeat runs a query on the connection that is reserved for heartbeats. Two
// calls at a time wait for each other.
func (db *DB) QueryHeartbeat(ctx context.Context, sql string, args ...any) (pgx.Rows, error) {
	return db.heartbeats.Query(ctx, sql, args...)
}

// readRetryTime is how long a read waits for a database that restarts. A caller of the API
// learns within it that the database is down.
const readRetryTime = time.Second

// RetryRead repeats a read for up to 1 s while the database cannot be reached. After
// a restart of the server every pooled connection is dead, and only the read that
// gets such a connection notices it.
func RetryRead(ctx context.Context, read func() error) error {
	waiting, cancel := context.WithTimeout(ctx, readRetryTime)
	defer cancel()
	return wait.Retry(waiting, wait.Backoff{Min: 50 * time.Millisecond}, Unreachable, read)
}

// ReadRow reads the first row of a query into dest, with [RetryRead]. No row is
// [ErrNotFound].
func (db *DB) ReadRow(ctx context.Context, dest []any, sql string, args ...any) error {
	return RetryRead(ctx, func() error {
		err := db.pool.QueryRow(ctx, sql, args...).Scan(dest...)
		if errors.Is(err, pgx.ErrNoRows) {
			return ErrNotFound
		}
		return err
	})
}

// ReadAll reads all rows of a query, with [RetryRead].
func ReadAll[T any](ctx context.Context, db *DB, scan pgx.RowToFunc[T], sql string, args ...any) (all []T, err error) {
	err = RetryRead(ctx, func() error {
		all, err = Collect(ctx, db, scan, sql, args...)
		return err
	})
	return all, err
}

// Collect reads all rows of a query.
func Collect[T any](ctx context.Context, q Querier, scan pgx.RowToFunc[T], sql string, args ...any) ([]T, error) {
	rows, err := q.Query(ctx, sql, args...)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, scan)
}

// A Querier runs queries: a [DB] or a transaction.
type Querier interface {
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}

// An Execer runs statements: a [DB] or a transaction.
type Execer interface {
	Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error)
}

// InTransaction runs do in a READ COMMITTED transaction and commits it, unless do
// fails or the context ends.
func (db *DB) InTransaction(ctx context.Context, do func(pgx.Tx) error) error {
	return pgx.BeginTxFunc(ctx, db.pool, pgx.TxOptions{IsoLevel: pgx.ReadCommitted}, do)
}

// InOneTrip runs the statements that queue adds to the pipeline in a READ COMMITTED
// transaction. It takes one round trip, with begin and commit. Each statement has a
// snapshot of its own. If one fails, the server skips those after it, and the pool
// closes the connection, which ends the transaction. An error of a callback does not
// stop the commit.
func (db *DB) InOneTrip(ctx context.Context, queue func(*pgx.Batch)) error {
	var pipeline pgx.Batch
	pipeline.Queue(beginReadCommitted)
	queue(&pipeline)
	pipeline.Queue(`COMMIT`)
	return db.Send(ctx, &pipeline)
}

// MayRead reports whether the database has a table of the name, without quotes, and the
// role may read a column of it. A role may read either all columns that statements use
// or none, because `lethe doctor` prints one GRANT for all.
func (db *DB) MayRead(ctx context.Context, table string) (may bool, err error) {
	err = db.ReadRow(ctx, []any{&may}, `SELECT coalesce(has_any_column_privilege(to_regclass(quote_ident($1))::oid, 'SELECT'), false)`, table)
	return may, err
}
