package tasks

import (
	"testing"
	"time"

	dto "github.com/prometheus/client_model/go"
	"github.com/stretchr/testify/require"

	"lethe/internal/store/beside"
	"lethe/internal/store/beside/besidetest"
	"lethe/internal/store/journal"
	"lethe/internal/store/storetest"
)

// losses is how many batches have lost a lock.
func (l *besideLab) losses() float64 {
	l.T.Helper()
	var shown dto.Metric
	require.NoError(l.T, l.metrics.LockLosses.Write(&shown))
	return shown.GetCounter().GetValue()
}

// A crash of PostgreSQL, or a homeserver that thinks the lock stale, takes the lock while
// a batch runs. The batch ends before its commit, and is done again under another lock.
func TestLockOfARoomVanishes(t *testing.T) {
	t.Parallel()
	for _, kind := range []string{"purge", "delete"} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			l := setupBeside(t)
			l.Chain(room, "a", 30, 0)
			s := l.byStream(time.Nanosecond)
			goOn := l.pauseDeletes()
			var id string
			if kind == "purge" {
				id = l.submit(room, 25)
			} else {
				id = l.delete(room, nil)
			}
			l.work(WorkerOptions{MappingDelay: quickly, Synapse: s})
			l.pausedBatch()
			before := l.Job(id).Checkpoint
			l.Exec(`TRUNCATE worker_read_write_locks, worker_read_write_locks_mode`)
			require.Zero(t, l.losses())
			goOn()
			l.soon(func() bool { return l.losses() == 1 || l.Job(id).State.Ended() })
			require.EqualValues(t, 1, l.losses())
			l.requireComplete(id)
			require.Zero(t, l.Job(id).Failures)
			require.NotEqual(t, before, l.Job(id).Checkpoint)
			if kind == "purge" {
				require.Equal(t, []int64{25, 26, 27, 28, 29, 30}, l.depths(room))
			} else {
				l.gone(room)
			}
			l.soon(func() bool { return storetest.One[int](l.Lab, `SELECT count(*) FROM worker_read_write_locks`) == 0 })
		})
	}
}

// A worker that was killed has left its locks. Its job's next run has the same token.
func TestLocksOfAKilledWorkerAreTakenOver(t *testing.T) {
	t.Parallel()
	l := setupBeside(t)
	l.Chain(room, "a", 30, 0)
	s := l.byStream(time.Nanosecond)
	id := l.delete(room, nil)
	lock := beside.RoomLock{Room: room, Token: id, Names: []beside.LockName{beside.BackfillLock, beside.NewEventLock}}
	held, err := beside.TryLock(l.Ctx, l.DB, lock, time.Second)
	require.NoError(t, err)
	require.True(t, held)
	l.work(WorkerOptions{MappingDelay: quickly, Synapse: s})
	l.requireComplete(id)
	l.gone(room)
	require.Equal(t, 1, count(besidetest.Only(l.recorder.Done(), takeLock), takeLock)-1, "at once")
}

// Users who send without a pause keep a delete from its lock. It gives its worker's place
// to others meanwhile, and goes on when there is a gap.
func TestReadersKeepAJobWaiting(t *testing.T) {
	t.Parallel()
	for what, c := range map[string]struct {
		lock, reason string
		begin        func(l *besideLab) string
	}{
		"delete": {"new_event_during_purge_lock", "Synapse is adding events to the room", func(l *besideLab) string { return l.delete(room, nil) }},
		"purge":  {"purge_pagination_lock", "Synapse is backfilling the room", func(l *besideLab) string { return l.submit(room, 25) }},
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			l := setupBeside(t)
			l.Chain(room, "a", 30, 0)
			l.Chain("!other:x", "b", 9, 100)
			s := l.byStream(time.Nanosecond)
			l.listen(false)
			readers := besidetest.NewLocks(t, l.URL)
			token, err := readers.Read(c.lock, room)
			require.NoError(t, err)
			id := c.begin(l)
			l.work(WorkerOptions{MappingDelay: quickly, Synapse: s, Concurrency: 1, HomeserverRuns: true})
			l.requireWaits(id, c.reason)
			require.Len(t, l.depths(room), 30)
			require.Equal(t, 30+9, l.mapped())
			l.requireComplete(l.submit("!other:x", 5))

			// Overlapping readers, as those of several senders are.
			var later string
			for range 5 {
				later, err = readers.Read(c.lock, room)
				require.NoError(t, err)
				require.NoError(t, readers.Release(token))
				token = later
			}
			require.Len(t, l.depths(room), 30)
			require.NotEqual(t, journal.Complete, l.Job(id).State)
			require.NoError(t, readers.Release(token))
			l.requireComplete(id)
		})
	}
}
