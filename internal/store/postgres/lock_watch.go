package postgres

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
)

const (
	// watchInterval is how often a transaction is looked at. It is below the shortest
	// lock_timeout, and above the time that most transactions take.
	watchInterval = time.Second

	// watchTime bounds one look.
	watchTime = 2 * time.Second
)

// A lockWatch finds out which session a transaction waits for. Only while it waits does
// the server know.
type lockWatch struct {
	db    *DB
	pid   uint32
	ctx   context.Context
	end   context.CancelFunc
	timer *time.Timer

	mu      sync.Mutex
	blocker string
	ended   bool
}

// watchLocks looks every second at the session with the pid until the watch is stopped.
func (db *DB) watchLocks(pid uint32) *lockWatch {
	w := &lockWatch{db: db, pid: pid}
	w.ctx, w.end = context.WithCancel(context.Background())
	w.mu.Lock() // look waits until the timer is set
	defer w.mu.Unlock()
	w.timer = time.AfterFunc(watchInterval, w.look)
	return w
}

// look notes the sessions that the transaction waits for, and comes back. A look that
// fails, for instance because the pool is busy, changes nothing.
func (w *lockWatch) look() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.ended {
		return
	}
	ctx, cancel := context.WithTimeout(w.ctx, watchTime)
	defer cancel()
	if blockers, err := Collect(ctx, w.db, pgx.RowTo[string], blockersOf, w.pid); err == nil && len(blockers) > 0 {
		w.blocker = strings.Join(blockers, "; ")
	}
	w.timer.Reset(watchInterval)
}

// stop ends the watch, and returns the sessions that the transaction has waited for last,
// "" for none. A second call returns the same.
func (w *lockWatch) stop() (blocker string) {
	w.end() // a look in progress ends at once
	w.mu.Lock()
	defer w.mu.Unlock()
	w.ended = true
	w.timer.Stop()
	return w.blocker
}

// blockersOf describes the sessions that the session $1 waits for. A role that is not in
// pg_read_all_stats sees no more of another role's session than its pid.
const blockersOf = `
	SELECT pg_catalog.format('pid %s', a.pid) || coalesce(pg_catalog.format(' of role %s', a.usename), '')
	       || CASE WHEN coalesce(a.application_name, '') <> '' THEN pg_catalog.format(' (%s)', left(a.application_name, 60)) ELSE '' END
	       || coalesce(pg_catalog.format(', %s since %s', a.state,
	                          to_char(a.state_change AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"')), '')
	FROM pg_stat_activity a WHERE a.pid = ANY (pg_blocking_pids($1::bigint::int)) ORDER BY a.pid LIMIT 3`

// A LockError says that a transaction gave up the wait for a lock. Its text names the
// session that has the lock, if that is known.
type LockError struct {
	// Blocker describes the session that has the lock, "" if it is not known.
	Blocker string

	Err error
}

// Error implements error.
func (e *LockError) Error() string { return fmt.Sprintf("%s: %s", e.WaitsFor(), e.Err) }

// Unwrap returns the server's error.
func (e *LockError) Unwrap() error { return e.Err }

// WaitsForLock is how every text of [LockError.WaitsFor] begins.
const WaitsForLock = "waiting: a lock of "

// WaitsFor says in words what the transaction has waited for.
func (e *LockError) WaitsFor() string {
	if e.Blocker == "" {
		return WaitsForLock + "another transaction"
	}
	return WaitsForLock + e.Blocker
}
