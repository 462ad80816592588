package store

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgconn/ctxwatch"
	"github.com/jackc/pgx/v5/pgxpool"
)

// ErrNotFound is returned when what was asked for is not in the database.
var ErrNotFound = errors.New("not found")

// Options are what [Open] needs beside the database's URL.
type Options struct {
	// ApplicationName is how the connections show in pg_stat_activity.
	// Defaults to "lethe".
	ApplicationName string

	// MaxConnections bounds the pool. Defaults to 16.
	MaxConnections int

	// SetWiseFrom is how many events a batch must select for their references to
	// be checked all at once, where the role may. To turn the server's own checks
	// off and on makes it plan every statement anew, which takes as long as to
	// check about so many events one by one. Defaults to 100.
	SetWiseFrom int

	// SearchFrom is how many events a batch that checks set-wise must select for
	// another connection to search for their rows, and for small tables to be read
	// instead of searched. Defaults to 1000.
	SearchFrom int
}

// A Store is a pool of connections to one database. It is safe for concurrent
// use.
type Store struct {
	pool        *pgxpool.Pool
	setWiseFrom int64
	searchFrom  int64
	arrivals    arrivals

	// pulse is one connection kept for heartbeats, so that they are written
	// however busy the pool is.
	pulse *pgxpool.Pool
}

// Open prepares a pool for the database that the URL names. It does not
// connect: an unreachable database shows in the first query. The caller closes
// the Store.
func Open(ctx context.Context, url string, options Options) (*Store, error) {
	if options.ApplicationName == "" {
		options.ApplicationName = "lethe"
	}
	if options.MaxConnections == 0 {
		options.MaxConnections = 16
	}
	if options.SetWiseFrom == 0 {
		options.SetWiseFrom = 100
	}
	if options.SearchFrom == 0 {
		options.SearchFrom = 1000
	}
	open := func(name string, most int) (*pgxpool.Pool, error) {
		config, err := pgxpool.ParseConfig(url)
		if err != nil {
			return nil, err
		}
		config.MaxConns = int32(most)
		config.ConnConfig.ConnectTimeout = 5 * time.Second
		config.ConnConfig.RuntimeParams["application_name"] = name
		// A cancelled context must end the statement in the server too, or its
		// transaction would keep the room's fence until the statement is done.
		config.ConnConfig.BuildContextWatcherHandler = func(conn *pgconn.PgConn) ctxwatch.Handler {
			return &pgconn.CancelRequestContextWatcherHandler{Conn: conn, DeadlineDelay: 2 * time.Second}
		}
		return pgxpool.NewWithConfig(ctx, config)
	}
	pool, err := open(options.ApplicationName, options.MaxConnections)
	if err != nil {
		return nil, fmt.Errorf("open the database: %w", err)
	}
	pulse, err := open(options.ApplicationName+" heartbeat", 1)
	if err != nil {
		pool.Close()
		return nil, fmt.Errorf("open the database: %w", err)
	}
	s := &Store{pool: pool, setWiseFrom: int64(options.SetWiseFrom), searchFrom: int64(options.SearchFrom), pulse: pulse}
	s.arrivals.insertAll = s.InsertJobs
	return s, nil
}

// Close closes all connections and waits for those in use. A second call does
// nothing.
func (s *Store) Close() {
	s.pulse.Close()
	s.pool.Close()
}

// Ping asks the server for a sign of life.
func (s *Store) Ping(ctx context.Context) error {
	if err := s.pool.Ping(ctx); err != nil {
		return fmt.Errorf("ping the database: %w", err)
	}
	return nil
}

// Now is the time by the database's clock.
func (s *Store) Now(ctx context.Context) (time.Time, error) {
	var now time.Time
	if err := s.readRow(ctx, []any{&now}, `SELECT clock_timestamp()`); err != nil {
		return time.Time{}, fmt.Errorf("read the database's clock: %w", err)
	}
	return now, nil
}

// Transient reports whether the error may be gone when the same is tried again:
// the server was unreachable, restarting or short of something, the transaction
// lost a race, or a wait was cut short.
func Transient(err error) bool {
	var pg *pgconn.PgError
	switch {
	case Unreachable(err):
		return true
	case !errors.As(err, &pg):
		return pgconn.Timeout(err)
	}
	return hasClass(pg, "40", // serialization failure, deadlock
		"53", // insufficient resources
		"55", // lock not available, object in use
		"57", // shutting down, starting up, cancelled
		"58", // system error
	) || pg.Code == "25P03" || // idle in a transaction for too long
		pg.Code == "23503" // a reference appeared meanwhile
}

// Unreachable reports whether the error says that there is no database to work
// on at this moment, so that neither the job nor its data is to blame. One that
// refuses the connection counts: its operator is changing something.
func Unreachable(err error) bool {
	var connect *pgconn.ConnectError
	var pg *pgconn.PgError
	switch {
	case errors.As(err, &connect):
		return true
	case errors.As(err, &pg):
		return hasClass(pg, "08") || // connection exception
			pg.Code == "25006" || // read only: a standby, after a failover
			pg.Code == "57P01" || pg.Code == "57P02" || pg.Code == "57P03" // shutting down, starting up
	}
	return pgconn.SafeToRetry(err) || brokenConnection(err)
}

func hasClass(err *pgconn.PgError, classes ...string) bool {
	return slices.ContainsFunc(classes, func(class string) bool { return strings.HasPrefix(err.Code, class) })
}

// brokenConnection reports whether the error is of the connection and not of
// what was said over it.
func brokenConnection(err error) bool {
	var network net.Error
	return errors.As(err, &network) || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) ||
		errors.Is(err, net.ErrClosed)
}

// readPatience is for how long a read waits for a database that restarts.
const readPatience = 5 * time.Second

// patiently repeats a read for a while if the database cannot be reached: after
// a restart every pooled connection is dead, and each says so to somebody.
func patiently(ctx context.Context, read func() error) error {
	deadline := time.Now().Add(readPatience)
	for {
		err := read()
		if err == nil || !Unreachable(err) || time.Now().After(deadline) {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// readRow reads the first row of a query into dest, patiently. None is
// [ErrNotFound].
func (s *Store) readRow(ctx context.Context, dest []any, sql string, args ...any) error {
	return patiently(ctx, func() error {
		err := s.pool.QueryRow(ctx, sql, args...).Scan(dest...)
		if errors.Is(err, pgx.ErrNoRows) {
			return ErrNotFound
		}
		return err
	})
}

// querier is what the pool and a transaction have in common.
type querier interface {
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}

// execer is what else they have in common.
type execer interface {
	Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error)
}

// inTransaction runs do in a READ COMMITTED transaction and commits it, unless
// do fails or the context ends.
func (s *Store) inTransaction(ctx context.Context, do func(pgx.Tx) error) error {
	return pgx.BeginTxFunc(ctx, s.pool, pgx.TxOptions{IsoLevel: pgx.ReadCommitted}, do)
}

// inTransactionFrom is inTransaction whose first statements, those that open is
// given a pipeline for, come in one round trip with its begin. An error that one
// of them or a callback returns ends it, as one of do does.
func (s *Store) inTransactionFrom(ctx context.Context, open func(*pgx.Batch), do func(pgx.Tx) error) (err error) {
	var pipeline pgx.Batch
	pipeline.BeginTx(pgx.TxOptions{IsoLevel: pgx.ReadCommitted})
	open(&pipeline)
	results := s.pool.SendBatch(ctx, &pipeline)
	tx := results.Tx()
	// After a commit it does nothing. What cannot be rolled back loses its
	// connection, which ends it too.
	defer func() { _ = tx.Rollback(ctx) }()
	if err := results.Close(); err != nil {
		return fmt.Errorf("begin the transaction: %w", err)
	}
	if err := do(tx); err != nil {
		return err
	}
	return tx.Commit(ctx)
}

// inOneTrip runs the statements that queue is given a pipeline for in a READ
// COMMITTED transaction, in one round trip with its begin and commit. Each has a
// snapshot of its own. If one fails the server does none of those after it, and
// the pool closes the connection, which ends the transaction. What a callback
// makes of an answer does not keep the rest from being committed.
func (s *Store) inOneTrip(ctx context.Context, queue func(*pgx.Batch)) error {
	var pipeline pgx.Batch
	pipeline.Queue(`begin isolation level read committed`)
	queue(&pipeline)
	pipeline.Queue(`commit`)
	return s.pool.SendBatch(ctx, &pipeline).Close()
}
