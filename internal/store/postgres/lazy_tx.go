package postgres

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
)

const beginReadCommitted = `BEGIN ISOLATION LEVEL READ COMMITTED`

// rollbackTime bounds a rollback. If the server has not answered by then, the pool
// closes the connection.
const rollbackTime = 5 * time.Second

// A LazyTx is a transaction that begins in one round trip with its first statement.
// It takes a connection no earlier. It serves one goroutine.
//
// As with pgx, a context that ends during a statement does not roll the transaction
// back: the caller must always call [LazyTx.Rollback].
type LazyTx struct {
	db    *DB
	begin func(*pgx.Batch)
	conn  *pgxpool.Conn
	trips int

	// watch, unless nil, looks whom the transaction waits for. blocker is what the last
	// watch has found.
	watch   *lockWatch
	blocker string
}

// LazyTx returns a READ COMMITTED transaction. The statements that open adds to the
// pipeline run right after BEGIN, before all others. An error of one of their
// callbacks fails the first statement. open may be nil.
func (db *DB) LazyTx(open func(*pgx.Batch)) *LazyTx {
	return &LazyTx{db: db, begin: func(pipeline *pgx.Batch) {
		pipeline.Queue(beginReadCommitted)
		if open != nil {
			open(pipeline)
		}
	}}
}

// Begun reports whether a statement was sent.
func (tx *LazyTx) Begun() bool { return tx.trips > 0 }

// Send runs the statements of a pipeline in one round trip. Their results go to
// the callbacks that were queued with them.
func (tx *LazyTx) Send(ctx context.Context, pipeline *pgx.Batch) error {
	_, err := tx.send(ctx, pipeline)
	return err
}

// send is [LazyTx.Send]. It also reports whether the transaction had begun when the
// error occurred.
func (tx *LazyTx) send(ctx context.Context, pipeline *pgx.Batch) (begun bool, err error) {
	if tx.conn == nil {
		conn, err := tx.db.Acquire(ctx)
		if err != nil {
			return false, fmt.Errorf("begin the transaction: %w", err)
		}
		tx.conn = conn
		tx.watch = tx.db.watchLocks(conn.Conn().PgConn().PID())
	}
	begun = tx.Begun()
	if tx.trips++; !begun {
		var first pgx.Batch
		tx.begin(&first)
		afterLast(&first, func() { begun = true })
		pipeline.QueuedQueries = append(first.QueuedQueries, pipeline.QueuedQueries...)
	}
	err = tx.conn.SendBatch(ctx, pipeline).Close()
	if err != nil && !begun {
		err = fmt.Errorf("begin the transaction: %w", err)
	}
	return begun, err
}

// afterLast calls do when the last query of the pipeline and its callback succeed.
func afterLast(pipeline *pgx.Batch, do func()) {
	last := pipeline.QueuedQueries[len(pipeline.QueuedQueries)-1]
	callback := last.Fn
	last.Fn = func(results pgx.BatchResults) (err error) {
		if callback != nil {
			err = callback(results)
		} else {
			_, err = results.Exec()
		}
		if err == nil {
			do()
		}
		return err
	}
}

// A Statement is one of the statements that [LazyTx.Run] sends together.
type Statement struct {
	// What describes the statement. An error's text begins with it.
	What string

	SQL  string
	Args []any

	// Row reads the one row that the statement returns. It is nil for a statement
	// without rows.
	Row func(pgx.Row) error

	// Deleted, unless nil, gets the number of rows that a DELETE without Row has deleted.
	Deleted func(rows int64)
}

// A StatementError is the error of one of the statements of [LazyTx.Run].
type StatementError struct {
	Statement Statement
	Err       error
}

// Error implements error.
func (e *StatementError) Error() string { return e.Statement.What + ": " + e.Err.Error() }

// Unwrap returns the statement's error.
func (e *StatementError) Unwrap() error { return e.Err }

// Run runs the statements in order, in one round trip, and returns how many rows
// they deleted, without those of statements that return a row. The error of a
// statement is a [StatementError].
func (tx *LazyTx) Run(ctx context.Context, statements []Statement) (deleted int64, err error) {
	if len(statements) == 0 {
		return 0, nil
	}
	done := 0
	var pipeline pgx.Batch
	for _, s := range statements {
		queued := pipeline.Queue(s.SQL, s.Args...)
		if s.Row != nil {
			queued.QueryRow(func(row pgx.Row) error {
				err := s.Row(row)
				if err == nil {
					done++
				}
				return err
			})
			continue
		}
		queued.Exec(func(tag pgconn.CommandTag) error {
			if done++; tag.Delete() {
				deleted += tag.RowsAffected()
				if s.Deleted != nil {
					s.Deleted(tag.RowsAffected())
				}
			}
			return nil
		})
	}
	begun, err := tx.send(ctx, &pipeline)
	if err != nil && begun && done < len(statements) {
		err = &StatementError{statements[done], err}
	}
	return deleted, err
}

// RunIn runs the statements in order in a transaction, each in a round trip of its own.
func RunIn(ctx context.Context, tx pgx.Tx, statements ...Statement) error {
	for _, s := range statements {
		var err error
		if s.Row != nil {
			err = s.Row(tx.QueryRow(ctx, s.SQL, s.Args...))
		} else {
			_, err = tx.Exec(ctx, s.SQL, s.Args...)
		}
		if err != nil {
			return &StatementError{s, err}
		}
	}
	return nil
}

// Exec runs a statement, as [pgx.Tx] does.
func (tx *LazyTx) Exec(ctx context.Context, sql string, args ...any) (tag pgconn.CommandTag, err error) {
	if tx.Begun() {
		tx.trips++
		return tx.conn.Exec(ctx, sql, args...)
	}
	var pipeline pgx.Batch
	pipeline.Queue(sql, args...).Exec(func(t pgconn.CommandTag) error {
		tag = t
		return nil
	})
	err = tx.Send(ctx, &pipeline)
	return tag, err
}

// QueryRow runs a query for one row. As the first statement it is sent when the row
// is scanned.
func (tx *LazyTx) QueryRow(ctx context.Context, sql string, args ...any) pgx.Row {
	if tx.Begun() {
		tx.trips++
		return tx.conn.QueryRow(ctx, sql, args...)
	}
	return lazyRow(func(dest ...any) error {
		var pipeline pgx.Batch
		pipeline.Queue(sql, args...).QueryRow(func(row pgx.Row) error { return row.Scan(dest...) })
		return tx.Send(ctx, &pipeline)
	})
}

// lazyRow implements [pgx.Row].
type lazyRow func(dest ...any) error

func (scan lazyRow) Scan(dest ...any) error { return scan(dest...) }

// Query runs a query. As the first statement it takes one more round trip.
func (tx *LazyTx) Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error) {
	conn, err := tx.Conn(ctx)
	if err != nil {
		return nil, err
	}
	tx.trips++
	return conn.Query(ctx, sql, args...)
}

// Conn returns the transaction's connection. It begins the transaction if no
// statement has.
func (tx *LazyTx) Conn(ctx context.Context) (*pgx.Conn, error) {
	if !tx.Begun() {
		if err := tx.Send(ctx, &pgx.Batch{}); err != nil {
			return nil, err
		}
	}
	return tx.conn.Conn(), nil
}

// Savepoint runs do inside a savepoint. If do fails, what it wrote is undone and its
// error is returned as undone; the transaction can go on. After an err the
// transaction can only be rolled back. Savepoints may be nested.
func (tx *LazyTx) Savepoint(ctx context.Context, do func() error) (undone, err error) {
	if _, err := tx.Exec(ctx, `SAVEPOINT attempt`); err != nil {
		return nil, fmt.Errorf("set a savepoint: %w", err)
	}
	leave := `RELEASE SAVEPOINT attempt`
	if undone = do(); undone != nil {
		// Release it too: an outer savepoint has the same name.
		leave = `ROLLBACK TO SAVEPOINT attempt; RELEASE SAVEPOINT attempt`
	}
	if _, err := tx.conn.Conn().PgConn().Exec(ctx, leave).ReadAll(); err != nil {
		return undone, errors.Join(undone, fmt.Errorf("leave a savepoint: %w", err))
	}
	return undone, nil
}

// Commit commits the transaction and releases its connection. It does nothing if no
// statement was sent.
func (tx *LazyTx) Commit(ctx context.Context) error {
	if !tx.Begun() {
		return nil
	}
	tag, err := tx.conn.Exec(ctx, `COMMIT`)
	if err == nil && tag.String() == "ROLLBACK" {
		err = pgx.ErrTxCommitRollback
	}
	if err != nil {
		return fmt.Errorf("commit: %w", err)
	}
	tx.release()
	return nil
}

// Rollback undoes the transaction, also when the context has ended, and releases its
// connection. It does nothing after a commit, and a second call does nothing. After
// it the LazyTx may be used as a new transaction.
func (tx *LazyTx) Rollback(ctx context.Context) {
	if tx.conn == nil {
		return
	}
	defer tx.release()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), rollbackTime)
	defer cancel()
	_, _ = tx.conn.Conn().PgConn().Exec(ctx, `ROLLBACK`).ReadAll()
}

// Locked returns an error of the transaction's statements as a [LockError] if it says that
// a wait for a lock was given up, and otherwise as it is. It is called after
// [LazyTx.Rollback].
func (tx *LazyTx) Locked(err error) error {
	if !IsLocked(err) {
		return err
	}
	return &LockError{tx.blocker, err}
}

// release returns the connection to the pool. The pool closes a connection whose
// transaction has not ended.
func (tx *LazyTx) release() {
	if tx.blocker = ""; tx.watch != nil {
		tx.blocker = tx.watch.stop()
	}
	tx.watch = nil
	tx.conn.Release()
	tx.conn, tx.trips = nil, 0
}
