package synapse

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"lethe/internal/schema"
	"lethe/internal/store/beside"
	"lethe/internal/store/beside/besidetest"
	"lethe/internal/store/storetest"
)

var both = beside.RoomLock{Room: room, Token: "job", Names: []beside.LockName{beside.BackfillLock, beside.NewEventLock}}

// locks is the number of the room's locks.
func (l *lab) locks() int {
	l.T.Helper()
	return storetest.One[int](l.Lab, `SELECT count(*) FROM worker_read_write_locks WHERE lock_key = $1`, room)
}

// recorded makes the lab's database one through which statements are recorded.
func (l *lab) recorded() *besidetest.Recorder {
	l.T.Helper()
	recorder, through := besidetest.Record(l.T, l.URL)
	l.DB = storetest.OnAs(l.T, through, schema.Worker).DB
	return recorder
}

// A process that waits for the lock finds it free when it is woken.
func TestLockIsReleasedBeforeItsWaitersAreWoken(t *testing.T) {
	t.Parallel()
	l := setup(t)
	recorder := l.recorded()
	s := l.told(Options{})
	recorder.Publishes(s.options.Redis)
	lock, err := s.Lock(l.Ctx, both, waitTime, "")
	require.NoError(t, err)
	require.Equal(t, 2, l.locks())
	ended, end := context.WithCancel(l.Ctx)
	end() // a batch releases its lock also when it is given up
	lock.Release(ended)
	require.Zero(t, l.locks())
	const (
		take   = "lethe.lock_at_homeserver"
		unlock = "DELETE FROM worker_read_write_locks"
		first  = `PUBLISH LOCK_RELEASED ["lethe","purge_pagination_lock","` + room + `"]`
		second = `PUBLISH LOCK_RELEASED ["lethe","new_event_during_purge_lock","` + room + `"]`
	)
	require.Equal(t, []string{take, unlock, first, second}, besidetest.Only(recorder.Done(), take, unlock, first, second, "PUBLISH"))
	require.False(t, lock.Lost())
}

func TestLockIsReleasedLater(t *testing.T) {
	t.Parallel()
	l := setup(t)
	s := l.told(Options{})
	stop := l.run(s)
	lock, err := s.Lock(l.Ctx, both, waitTime, "")
	require.NoError(t, err)
	ended, end := context.WithCancel(l.Ctx)
	end()
	lock.ReleaseLater(ended, 300*time.Millisecond)
	require.Equal(t, 2, l.locks(), "it returns at once")
	stop()
	require.Zero(t, l.locks(), "the process waits for it")
}

// The next run of the job takes over what is left, and nobody is woken for it.
func TestLockIsLeft(t *testing.T) {
	t.Parallel()
	l := setup(t)
	s := l.told(Options{})
	sent := countPublishes(s.options.Redis)
	lock, err := s.Lock(l.Ctx, both, waitTime, "")
	require.NoError(t, err)
	lock.Leave()
	require.Equal(t, 2, l.locks())
	require.Zero(t, sent.Load())
	other := both
	other.Token = "another"
	_, err = s.Lock(l.Ctx, other, 0, "is busy")
	require.Error(t, err)
	again, err := s.Lock(l.Ctx, both, 0, "")
	require.NoError(t, err)
	again.Release(l.Ctx)
	again.Release(l.Ctx)
	require.Zero(t, l.locks())
}

func TestLockIsRenewed(t *testing.T) {
	t.Parallel()
	l := setup(t)
	s := l.told(Options{})
	s.renewEvery = 10 * time.Millisecond
	lock, err := s.Lock(l.Ctx, both, waitTime, "")
	require.NoError(t, err)
	defer lock.Leave()
	for range 3 {
		l.Exec(`UPDATE worker_read_write_locks SET last_renewed_ts = 5`)
		l.eventually(func() bool {
			return storetest.One[int](l.Lab, `SELECT count(*) FROM worker_read_write_locks WHERE last_renewed_ts > 5`) == 2
		})
	}
	require.False(t, lock.Lost())
	l.Exec(`TRUNCATE worker_read_write_locks, worker_read_write_locks_mode`) // as a crash of PostgreSQL does
	l.eventually(lock.Lost)
}

// A database that is away for a moment costs no lock.
func TestRenewalThatFailsIsRepeated(t *testing.T) {
	t.Parallel()
	l := setup(t)
	s := l.told(Options{})
	s.renewEvery = 10 * time.Millisecond
	lock, err := s.Lock(l.Ctx, both, waitTime, "")
	require.NoError(t, err)
	defer lock.Leave()
	l.Exec(`ALTER TABLE worker_read_write_locks RENAME TO away`)
	l.Exec(`UPDATE away SET last_renewed_ts = 5`)
	<-time.After(50 * time.Millisecond) // some renewals fail
	l.Exec(`ALTER TABLE away RENAME TO worker_read_write_locks`)
	l.eventually(func() bool {
		return storetest.One[int](l.Lab, `SELECT count(*) FROM worker_read_write_locks WHERE last_renewed_ts > 5`) == 2
	})
	require.False(t, lock.Lost())
}

// The wait for a lock is bounded, and made of short statements.
func TestLockThatIsNotFree(t *testing.T) {
	t.Parallel()
	l := setup(t)
	recorder := l.recorded()
	s := l.told(Options{})
	readers := besidetest.NewLocks(t, l.URL)
	token, err := readers.Read(string(beside.BackfillLock), room)
	require.NoError(t, err)
	recorder.Done()
	_, err = s.Lock(l.Ctx, both, 4*tryTime, "is backfilling the room")
	var waits *Waiting
	require.ErrorAs(t, err, &waits)
	require.Equal(t, "waiting: Synapse is backfilling the room", waits.Error())
	require.GreaterOrEqual(t, len(besidetest.Only(recorder.Done(), "lethe.lock_at_homeserver")), 2)
	require.Equal(t, 1, l.locks())

	given, giveUp := context.WithCancel(l.Ctx)
	giveUp()
	_, err = s.Lock(given, both, waitTime, "")
	require.ErrorIs(t, err, context.Canceled)

	got := make(chan *Lock, 1)
	go func() {
		lock, err := s.Lock(l.Ctx, both, waitTime, "")
		if err == nil {
			got <- lock
		}
	}()
	require.NoError(t, readers.Release(token))
	select {
	case lock := <-got:
		lock.Release(l.Ctx)
	case <-time.After(waitTime):
		require.Fail(t, "it is free, and was not taken")
	}
}

func TestSweeper(t *testing.T) {
	t.Parallel()
	l := setup(t)
	listener := l.listen(true)
	s := l.told(Options{})
	l.run(s)
	l.Chain(room, "a", 5, 0)
	l.Chain("!other:x", "b", 5, 10)
	l.Work(room)
	l.Work("!other:x")
	for _, table := range []string{"event_edges", "event_json", "event_search", "event_forward_extremities", "events"} {
		l.Exec(`DELETE FROM ` + table)
	}
	delay := func(events, room string, told bool) {
		l.Exec(`INSERT INTO lethe.delayed_mappings (room_id, event_ids, told, due_at) VALUES ($2, $1::text::text[], $3, now())`, events, room, told)
	}
	mapped := func() int { return storetest.One[int](l.Lab, `SELECT count(*) FROM event_to_state_groups`) }
	delay("{$a1,$a2}", room, true)
	delay("{$b1}", "!other:x", false)
	require.NoError(t, s.SweepDue(l.Ctx, room))
	require.Equal(t, 8, mapped(), "of one room only")
	require.Empty(t, listener.Read())
	require.NoError(t, s.SweepDue(l.Ctx, ""))
	require.Equal(t, 7, mapped())
	l.eventually(func() bool { return len(listener.Read()) == 1 })
	require.Equal(t, []string{"!other:x"}, listener.Read()[0].Keys)

	// By itself, with what processes have left that were killed.
	_, err := besidetest.NewLocks(t, l.URL).Read(string(beside.NewEventLock), room)
	require.NoError(t, err)
	l.Exec(`UPDATE worker_read_write_locks SET last_renewed_ts = 5`)
	delay("{$a3}", room, true)
	ctx, cancel := context.WithCancel(l.Ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.Sweep(ctx)
	}()
	l.eventually(func() bool { return mapped() == 6 && l.locks() == 0 })
	cancel()
	<-done
}
