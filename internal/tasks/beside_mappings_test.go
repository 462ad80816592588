package tasks

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"lethe/internal/store/journal"
	"lethe/internal/store/storetest"
	"lethe/internal/synapse"
)

// The mappings of purged events stay for their delay after the batch. Then they go, and
// the state groups are left to the homeserver.
func TestMappingsOfAPurge(t *testing.T) {
	t.Parallel()
	l := setupBeside(t)
	l.Chain(room, "a", 30, 0)
	s := l.byStream(time.Nanosecond)
	const delay = time.Second
	id := l.submit(room, 25)
	l.work(WorkerOptions{MappingDelay: delay, Synapse: s})
	l.soon(func() bool { return len(l.depths(room)) == 6 })
	require.Equal(t, 30, l.mapped())
	l.requireWaits(id, "waiting: Synapse may still need the states of the purged events for some seconds")
	require.Equal(t, 30, l.mapped())
	require.Empty(t, storetest.All[int64](l.Lab, `SELECT state_group FROM state_groups_pending_deletion`))
	l.requireComplete(id)
	require.Equal(t, 6, l.mapped())
	require.Zero(t, l.delayed())
	require.Equal(t, 30, storetest.One[int](l.Lab, `SELECT count(*) FROM state_groups`), "none is deleted here")
	require.Len(t, storetest.All[int64](l.Lab, `SELECT state_group FROM state_groups_pending_deletion`), 24)
	require.Zero(t, storetest.One[int](l.Lab, `SELECT count(*) FROM lethe.state_group_candidates`))
}

// The delay counts from the commit, even if the batch has waited for others that
// invalidate.
func TestWaitForOthersIsNotPartOfTheDelay(t *testing.T) {
	t.Parallel()
	l := setupBeside(t)
	l.Chain(room, "a", 30, 0)
	s := l.byStream(time.Nanosecond)
	l.Exec(`SELECT pg_advisory_lock(724001)`) // another worker that is slow to commit
	id := l.submit(room, 25)
	const delay = 500 * time.Millisecond
	l.work(WorkerOptions{MappingDelay: delay, Synapse: s})
	l.soon(func() bool {
		return storetest.One[bool](l.Lab, `
			SELECT coalesce(max(clock_timestamp() - query_start) > $1::interval, false) FROM pg_stat_activity
			WHERE datname = current_database() AND wait_event = 'advisory'`, delay+commitTime+500*time.Millisecond)
	})
	require.Zero(t, l.delayed())
	l.Exec(`SELECT pg_advisory_unlock(724001)`)
	l.soon(func() bool { return l.delayed() > 0 || l.Job(id).State.Ended() })
	require.Equal(t, 30, l.mapped(), "they are not due yet")
	require.Positive(t, storetest.One[time.Duration](l.Lab, `SELECT max(due_at) - clock_timestamp() FROM lethe.delayed_mappings`))
	l.requireComplete(id)
	require.Equal(t, 6, l.mapped())
}

// The mappings go whatever becomes of the job.
func TestMappingsOfAFailedPurge(t *testing.T) {
	t.Parallel()
	l := setupBeside(t)
	l.Chain(room, "a", 30, 0)
	s := l.byStream(time.Nanosecond)
	l.sweep(s)
	l.WatchDeletes(`IF OLD.depth = 15 THEN RAISE SQLSTATE 'P0001' USING MESSAGE = 'made to fail'; END IF;`)
	id := l.submit(room, 25)
	l.work(WorkerOptions{BatchEvents: 5, MappingDelay: quickly, Synapse: s})
	require.Equal(t, journal.Failed, l.ends(id).State)
	left := len(l.depths(room))
	require.Less(t, left, 30)
	require.Greater(t, left, 6)
	l.soon(func() bool { return l.delayed() == 0 })
	require.Equal(t, left, l.mapped())
	require.Equal(t, 30-left, storetest.One[int](l.Lab, `SELECT count(*) FROM lethe.state_group_candidates`), "for the next purge of the room")
	// Which finds them.
	l.Exec(`DROP TRIGGER check_event_stream_ordering ON events`)
	l.requireComplete(l.submit(room, 25))
	require.Len(t, storetest.All[int64](l.Lab, `SELECT state_group FROM state_groups_pending_deletion`), 24)
}

func TestMappingsOfADeletedRoom(t *testing.T) {
	t.Parallel()
	l := setupBeside(t)
	l.Chain(room, "a", 30, 0)
	s := l.byStream(time.Nanosecond)
	purge := l.submit(room, 25)
	stop := l.work(WorkerOptions{MappingDelay: time.Hour, Synapse: s})
	l.requireWaits(purge, "Synapse may still need")
	stop()
	require.Equal(t, 30, l.mapped())
	l.Exec(`UPDATE lethe.jobs SET state = 'cancelled', ended_at = now() WHERE id = $1`, purge) // a delete would wait for it
	id := l.delete(room, nil)
	l.work(WorkerOptions{MappingDelay: quickly, Synapse: s})
	l.requireComplete(id)
	l.gone(room)
	require.Zero(t, l.delayed())
	require.Zero(t, l.mapped())
	require.Zero(t, storetest.One[int](l.Lab, `SELECT count(*) FROM lethe.state_group_candidates`))
}

func TestMappingsOfAHeldRoom(t *testing.T) {
	t.Parallel()
	l := setupBeside(t)
	l.Chain(room, "a", 30, 0)
	s := l.byStream(time.Nanosecond)
	id := l.submit(room, 25)
	l.work(WorkerOptions{MappingDelay: time.Second, Synapse: s})
	l.soon(func() bool { return l.delayed() > 0 })
	l.place(room)
	l.held(id)
	l.Exec(`UPDATE lethe.delayed_mappings SET due_at = now()`)
	require.NoError(t, s.SweepDue(l.Ctx, ""))
	require.Equal(t, 30, l.mapped())
	l.Exec(`UPDATE lethe.delayed_mappings SET due_at = now()`)
	l.release(room)
	l.requireComplete(id)
	require.Equal(t, 6, l.mapped())
}

// Many purges of small rooms wait at the same time, and none in a worker's place.
func TestMappingsOfManyPurges(t *testing.T) {
	t.Parallel()
	l := setupBeside(t)
	s := l.byStream(50 * time.Millisecond)
	l.sweep(s)
	listener := l.listen(false)
	var ids []string
	const rooms = 12
	for i := range rooms {
		room := "!r" + string(rune('a'+i)) + ":x"
		l.Chain(room, room, 6, 100*i)
		ids = append(ids, l.submit(room, 5))
	}
	l.work(WorkerOptions{MappingDelay: time.Second, Synapse: s, Concurrency: 2})
	l.soon(func() bool { return storetest.One[int](l.Lab, `SELECT count(*) FROM events`) == 2*rooms })
	for _, id := range ids {
		l.requireComplete(id)
	}
	require.Equal(t, 2*rooms, l.mapped())
	require.Zero(t, l.delayed())
	l.soon(func() bool {
		rooms := map[string]bool{}
		for _, row := range listener.Read() {
			rooms[row.Keys[0]] = true
		}
		return len(rooms) == 12
	})
}

// Where it is said that no Synapse runs, nothing is left for one.
func TestPurgeWithoutAHomeserver(t *testing.T) {
	t.Parallel()
	l := setupBeside(t)
	l.Chain(room, "a", 30, 0)
	s := l.beside(synapse.Options{Mode: synapse.Stopped})
	l.recorder.Done()
	l.work(WorkerOptions{MappingDelay: time.Hour, Synapse: s})
	l.requireComplete(l.submit(room, 25))
	require.Equal(t, 6, l.mapped())
	require.Empty(t, l.invalidated())
	require.NotContains(t, l.recorded(), takeLock)
	require.Empty(t, storetest.All[int64](l.Lab, `SELECT state_group FROM state_groups_pending_deletion`))
	require.Equal(t, 6, storetest.One[int](l.Lab, `SELECT count(*) FROM state_groups`))
}
