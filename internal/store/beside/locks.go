package beside

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"lethe/internal/store/postgres"
)

// ErrLockLost is returned when a lock of a room at the homeserver is gone. A restart of
// PostgreSQL empties the table of locks, and the homeserver deletes locks that were
// not renewed for two minutes.
var ErrLockLost = errors.New("the homeserver's lock of the room is lost")

// InstanceName is the name under which all processes of Lethe appear in the
// homeserver's locks and in its stream of invalidations. A homeserver remembers each
// name until it is restarted.
const InstanceName = "lethe"

// A LockName is the name of one of the homeserver's locks of a room.
type LockName string

// The locks that a purge takes for writing. Other processes take them for reading.
const (
	// BackfillLock is read-held while the homeserver fetches older events of the room
	// from other servers.
	BackfillLock LockName = "purge_pagination_lock"

	// NewEventLock is read-held while an event is added to the room.
	NewEventLock LockName = "new_event_during_purge_lock"
)

// A RoomLock is a set of write locks of a room at the homeserver.
type RoomLock struct {
	Room string

	// Token is the id of the job that holds the locks. A run of the job takes over the
	// locks that the run before it has left.
	Token string

	Names []LockName
}

func (l RoomLock) names() []string {
	names := make([]string, len(l.Names))
	for i, name := range l.Names {
		names[i] = string(name)
	}
	return names
}

// TryLock takes all the locks or none, and reports whether it has. It tries for the
// given time, in one statement. A second call renews the locks.
func TryLock(ctx context.Context, db *postgres.DB, l RoomLock, try time.Duration) (held bool, err error) {
	err = db.QueryRow(ctx, `SELECT lethe.lock_at_homeserver($1, $2, $3, $4, $5)`,
		l.Room, l.names(), InstanceName, l.Token, int(try.Milliseconds())).Scan(&held)
	if err != nil {
		return false, fmt.Errorf("lock the room at the homeserver: %w", err)
	}
	return held, nil
}

// RenewLock keeps the locks for another two minutes by PostgreSQL's clock. It fails
// with [ErrLockLost] if one of them is gone. It uses the connection of heartbeats, so
// that a busy pool does not cost the locks.
func RenewLock(ctx context.Context, db *postgres.DB, l RoomLock) error {
	const operation = "renew the lock at the homeserver"
	rows, err := db.QueryHeartbeat(ctx, `
		UPDATE worker_read_write_locks SET last_renewed_ts = (extract(epoch FROM clock_timestamp())::numeric * 1000.0)::bigint
		WHERE lock_key = $1 AND lock_name = ANY ($2) AND token = $3 RETURNING lock_name`, l.Room, l.names(), l.Token)
	if err != nil {
		return fmt.Errorf("%s: %w", operation, err)
	}
	renewed, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err == nil && len(renewed) < len(l.Names) {
		err = ErrLockLost
	}
	if err != nil {
		return fmt.Errorf("%s: %w", operation, err)
	}
	return nil
}

// Unlock releases the locks. It does nothing for locks that are gone.
func Unlock(ctx context.Context, db *postgres.DB, l RoomLock) error {
	_, err := db.Exec(ctx, `
		DELETE FROM worker_read_write_locks WHERE lock_key = $1 AND lock_name = ANY ($2) AND token = $3`,
		l.Room, l.names(), l.Token)
	if err != nil {
		return fmt.Errorf("unlock the room at the homeserver: %w", err)
	}
	return nil
}

// Check is the statement that fails with [ErrLockLost] unless all the locks are held.
// It only looks: a row that a long transaction has locked could not be renewed.
func (l RoomLock) Check() postgres.Statement {
	return postgres.Statement{
		What: "check the lock at the homeserver",
		SQL:  `SELECT count(*) FROM worker_read_write_locks WHERE lock_key = $1 AND lock_name = ANY ($2) AND token = $3`,
		Args: []any{l.Room, l.names(), l.Token},
		Row: func(row pgx.Row) error {
			var held int
			if err := row.Scan(&held); err != nil {
				return err
			}
			if held < len(l.Names) {
				return ErrLockLost
			}
			return nil
		},
	}
}

// ReleaseEnded deletes the locks that runs of jobs have left for their next run, if the jobs
// have ended since: they were cancelled. It leaves those of jobs that ended within the last
// 2 s, whose runs release their locks themselves.
func ReleaseEnded(ctx context.Context, db *postgres.DB) (int64, error) {
	tag, err := db.Exec(ctx, `
		DELETE FROM worker_read_write_locks l USING lethe.jobs j
		WHERE l.instance_name = $1 AND j.id = l.token AND j.ended_at < clock_timestamp() - interval '2 seconds'`, InstanceName)
	if err != nil {
		return 0, fmt.Errorf("release the homeserver's locks of jobs that have ended: %w", err)
	}
	return tag.RowsAffected(), nil
}

// staleLock is how long the homeserver keeps a lock that is not renewed, in
// milliseconds.
const staleLock = 120_000

// ReapLocks deletes the locks that were not renewed for two minutes, as every process
// of the homeserver does, and returns their number. Without it the locks of a
// homeserver that was killed would stay until it is back.
func ReapLocks(ctx context.Context, db *postgres.DB) (int64, error) {
	tag, err := db.Exec(ctx, `
		DELETE FROM worker_read_write_locks WHERE last_renewed_ts::numeric < extract(epoch FROM clock_timestamp())::numeric * 1000.0 - $1`, staleLock)
	if err != nil {
		return 0, fmt.Errorf("reap the homeserver's locks: %w", err)
	}
	return tag.RowsAffected(), nil
}
