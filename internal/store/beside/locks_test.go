package beside_test

import (
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"lethe/internal/store/beside"
	"lethe/internal/store/beside/besidetest"
	"lethe/internal/store/journal"
	"lethe/internal/store/storetest"
)

var bothNames = []beside.LockName{beside.BackfillLock, beside.NewEventLock}

func both(token string) beside.RoomLock {
	return beside.RoomLock{Room: room, Token: token, Names: bothNames}
}

// try is how long the locks of these tests are tried for.
const try = 20 * time.Millisecond

// locks returns the locks of the room, in words.
func locks(l *storetest.Lab) []string {
	return storetest.All[string](l, `
		SELECT lock_name || CASE WHEN write_lock THEN ' written by ' ELSE ' read by ' END || instance_name
		FROM worker_read_write_locks WHERE lock_key = $1 ORDER BY 1`, room)
}

// modes is the number of the room's rows that belong to the triggers.
func modes(l *storetest.Lab) int {
	return storetest.One[int](l, `SELECT count(*) FROM worker_read_write_locks_mode WHERE lock_key = $1`, room)
}

func requireLocked(l *storetest.Lab, lock beside.RoomLock, want bool) {
	l.T.Helper()
	held, err := beside.TryLock(l.Ctx, l.DB, lock, try)
	require.NoError(l.T, err)
	require.Equal(l.T, want, held)
}

func TestLocksAreTakenTogetherOrNotAtAll(t *testing.T) {
	t.Parallel()
	l := setup(t)
	other := besidetest.NewLocks(t, l.URL)
	for _, name := range bothNames {
		for what, take := range map[string]func(name, room string) (string, error){"reader": other.Read, "writer": other.Write} {
			token, err := take(string(name), room)
			require.NoError(t, err)
			requireLocked(l, both("job"), false)
			require.Len(t, locks(l), 1, "%s of %s", what, name)
			require.NoError(t, other.Release(token))
		}
	}
	require.Zero(t, modes(l))

	requireLocked(l, both("job"), true)
	require.Equal(t, []string{"new_event_during_purge_lock written by lethe", "purge_pagination_lock written by lethe"}, locks(l))
	for _, name := range bothNames {
		_, err := other.Read(string(name), room)
		require.ErrorContains(t, err, "worker_read_write_locks_lock_name_lock_key_write_lock_fkey")
		_, err = other.Write(string(name), room)
		require.ErrorContains(t, err, "worker_read_write_locks_write")
		_, err = other.Write(string(name), "!other:x")
		require.NoError(t, err)
	}
	require.NoError(t, beside.Unlock(l.Ctx, l.DB, both("another")), "which does nothing")
	require.Len(t, locks(l), 2)
	require.NoError(t, beside.Unlock(l.Ctx, l.DB, both("job")))
	require.NoError(t, beside.Unlock(l.Ctx, l.DB, both("job")))
	require.Empty(t, locks(l))
	require.Zero(t, modes(l))
}

// The next run of a job has the same token, and takes over what a killed worker has left.
func TestLocksAreTakenOverByTheirToken(t *testing.T) {
	t.Parallel()
	l := setup(t)
	requireLocked(l, both("job"), true)
	l.Exec(`UPDATE worker_read_write_locks SET last_renewed_ts = last_renewed_ts - 100000`)
	requireLocked(l, both("another"), false)
	requireLocked(l, both("job"), true)
	require.Zero(t, storetest.One[int](l, `
		SELECT count(*) FROM worker_read_write_locks WHERE last_renewed_ts < extract(epoch FROM clock_timestamp()) * 1000 - 50000`), "both are renewed")

	// One of the two has gone, and somebody else reads under it.
	l.Exec(`DELETE FROM worker_read_write_locks WHERE lock_name = $1`, beside.NewEventLock)
	other := besidetest.NewLocks(t, l.URL)
	token, err := other.Read(string(beside.NewEventLock), room)
	require.NoError(t, err)
	requireLocked(l, both("job"), false)
	require.Equal(t, []string{"new_event_during_purge_lock read by abcde"}, locks(l), "a subset is never held")
	require.NoError(t, other.Release(token))
	requireLocked(l, both("job"), true)
}

// A statement that takes a lock ends soon, so that it can be ended.
func TestLockIsTriedForAWhile(t *testing.T) {
	t.Parallel()
	l := setup(t)
	token, err := besidetest.NewLocks(t, l.URL).Read(string(beside.NewEventLock), room)
	require.NoError(t, err)
	require.NotEmpty(t, token)
	var held bool
	var took time.Duration
	require.NoError(t, l.DB.QueryRow(l.Ctx, `
		SELECT held, clock_timestamp() - statement_timestamp()
		FROM lethe.lock_at_homeserver($1, $2, 'lethe', 'job', 100) AS held`, room, bothNames).Scan(&held, &took))
	require.False(t, held)
	require.GreaterOrEqual(t, took, 100*time.Millisecond)
	require.Less(t, took, 2*time.Second)
}

// Readers of a busy room overlap, so that the lock is never free for longer than a few
// milliseconds. The writer is there in such a moment.
func TestWriterGetsAShortGap(t *testing.T) {
	t.Parallel()
	l := setup(t)
	readers := besidetest.NewLocks(t, l.URL)
	next := func() string {
		token, err := readers.Read(string(beside.NewEventLock), room)
		if err != nil {
			return "" // the writer has it
		}
		return token
	}
	reading := next()
	for range 20 { // each comes before the last has left
		later := next()
		require.NoError(t, readers.Release(reading))
		reading = later
		held, err := beside.TryLock(l.Ctx, l.DB, both("job"), time.Millisecond)
		require.NoError(t, err)
		require.False(t, held)
	}
	done := make(chan struct{})
	var group sync.WaitGroup
	defer group.Wait()
	group.Go(func() {
		for {
			select {
			case <-done:
				return
			case <-time.After(20 * time.Millisecond):
			}
			_ = readers.Release(reading)
			<-time.After(3 * time.Millisecond) // the gap
			if reading = next(); reading == "" {
				return
			}
		}
	})
	// One statement, so that it is the server that looks often enough.
	held, err := beside.TryLock(l.Ctx, l.DB, both("job"), 20*time.Second)
	close(done)
	require.NoError(t, err)
	require.True(t, held)
}

func TestLockIsRenewedByTheServersClock(t *testing.T) {
	t.Parallel()
	l := setup(t)
	requireLocked(l, both("job"), true)
	requireLocked(l, beside.RoomLock{Room: "!other:x", Token: "other", Names: bothNames}, true)
	l.Exec(`UPDATE worker_read_write_locks SET last_renewed_ts = 5`)
	require.NoError(t, beside.RenewLock(l.Ctx, l.DB, both("job")))
	require.Equal(t, 2, storetest.One[int](l, `
		SELECT count(*) FROM worker_read_write_locks
		WHERE lock_key = $1 AND last_renewed_ts BETWEEN extract(epoch FROM clock_timestamp()) * 1000 - 60000 AND extract(epoch FROM clock_timestamp()) * 1000`, room))
	require.Equal(t, 2, storetest.One[int](l, `SELECT count(*) FROM worker_read_write_locks WHERE last_renewed_ts = 5`), "no other's")

	// A batch neither delays the renewal nor fails because of it.
	batch := begin(l)
	check := both("job").Check()
	require.NoError(t, check.Row(batch.QueryRow(l.Ctx, check.SQL, check.Args...)))
	require.NoError(t, beside.RenewLock(l.Ctx, l.DB, both("job")))
	require.NoError(t, check.Row(batch.QueryRow(l.Ctx, check.SQL, check.Args...)))
}

// A crash of PostgreSQL empties the table, and the homeserver deletes what is not
// renewed.
func TestLostLockIsNoticed(t *testing.T) {
	t.Parallel()
	for what, lose := range map[string]string{
		"crash":    `TRUNCATE worker_read_write_locks, worker_read_write_locks_mode`,
		"reaped":   `DELETE FROM worker_read_write_locks`,
		"half":     `DELETE FROM worker_read_write_locks WHERE lock_name = 'purge_pagination_lock'`,
		"new lock": `UPDATE worker_read_write_locks SET token = 'another'`,
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			l := setup(t)
			requireLocked(l, both("job"), true)
			inBatch := func() error {
				work := l.Work(room)
				return l.InBatch(work, func(b *journal.Batch) (any, error) {
					return nil, b.Commit(l.Ctx, "done", both("job").Check())
				})
			}
			require.NoError(t, inBatch())
			if what == "new lock" {
				l.Exec(`ALTER TABLE worker_read_write_locks_mode DROP CONSTRAINT worker_read_write_locks_mode_foreign`)
			}
			l.Exec(lose)
			require.ErrorIs(t, beside.RenewLock(l.Ctx, l.DB, both("job")), beside.ErrLockLost)
			l.Exec(`UPDATE lethe.jobs SET state = 'complete', heartbeat_at = NULL, ended_at = now()`)
			require.ErrorIs(t, inBatch(), beside.ErrLockLost)
			require.Zero(t, storetest.One[int](l, `SELECT count(*) FROM lethe.jobs WHERE checkpoint IS NOT NULL AND state = 'running'`))
		})
	}
}

func TestStaleLocksAreReaped(t *testing.T) {
	t.Parallel()
	l := setup(t)
	other := besidetest.NewLocks(t, l.URL)
	stale, err := other.Read("stale", room)
	require.NoError(t, err)
	fresh, err := other.Write("fresh", room)
	require.NoError(t, err)
	age := func(token string, ms int) {
		l.Exec(`UPDATE worker_read_write_locks SET last_renewed_ts = extract(epoch FROM clock_timestamp()) * 1000 - $2::int WHERE token = $1`, token, ms)
	}
	age(stale, 120_001)
	age(fresh, 100_000)
	reaped, err := beside.ReapLocks(l.Ctx, l.DB)
	require.NoError(t, err)
	require.EqualValues(t, 1, reaped)
	require.Equal(t, []string{"fresh written by abcde"}, locks(l))
	require.Equal(t, 1, modes(l))
}
