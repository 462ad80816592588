package tasks

import (
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"lethe/internal/store/journal"
	"lethe/internal/store/storetest"
)

// What a history purge does for a running Synapse, in this order and no other.
func TestOrderOfAPurgeBesideAHomeserver(t *testing.T) {
	t.Parallel()
	l := setupBeside(t)
	l.Chain(room, "a", 30, 0)
	listener := l.listen(false)
	s := l.byStream(time.Nanosecond)
	l.recorder.Done()
	stop := l.work(WorkerOptions{BatchEvents: 4, MappingDelay: time.Hour, Synapse: s})
	id := l.submit(room, 25)
	l.requireWaits(id, "Synapse may still need the states of the purged events")
	stop()

	batch := []string{ownLock, takeLock, beginBatch, deleteRows, moveOn}
	told := []string{markTold, lockStream, delayThem, checkLock, invalidate, commitRow, tell}
	untold := []string{delayThem, checkLock, commitLock}
	free := []string{freeLock, wake("purge_pagination_lock")}
	// Each clears caches of all rooms, so most batches tell nothing. How many do depends
	// on the time that the purge takes.
	done := l.recorded()
	var batches, rows int
	for first := true; len(done) > 0; first = false {
		switch with, without := slices.Concat(batch, told, free), slices.Concat(batch, untold, free); {
		case startsWith(done, with):
			done, rows, batches = done[len(with):], rows+1, batches+1
			continue
		case startsWith(done, without) && !first:
			done, batches = done[len(without):], batches+1
			continue
		}
		break
	}
	require.Equal(t, 6, batches)
	require.GreaterOrEqual(t, rows, 1, "the first tells at once")
	// Then nothing is left untold.
	last := []string{ownLock, beginBatch, moveOn, markTold, lockStream, invalidate, commitRow, tell}
	require.True(t, len(done) == 0 || slices.Equal(last, done), "%q", done)
	require.Zero(t, storetest.One[int](l.Lab, `SELECT count(*) FROM lethe.delayed_mappings WHERE NOT told`))
	l.soon(func() bool { return len(listener.Read()) >= len(l.invalidated()) })
	require.Equal(t, []int64{25, 26, 27, 28, 29, 30}, l.depths(room))
	require.Equal(t, 30, l.mapped())
	require.Zero(t, storetest.One[int](l.Lab, `SELECT count(*) FROM worker_read_write_locks_mode`))
}

func startsWith(list, start []string) bool {
	return len(list) >= len(start) && slices.Equal(list[:len(start)], start)
}

// A room is locked at the homeserver before its row, in one statement, and until all of
// it is gone. It is looked at once more afterwards.
func TestOrderOfADeleteBesideAHomeserver(t *testing.T) {
	t.Parallel()
	l := setupBeside(t)
	l.furnish(room, 3)
	s := l.byStream(time.Nanosecond)
	// Which locks are held when a checkpoint moves, and how many an INSERT takes.
	l.Exec(`CREATE SCHEMA aside`)
	l.Exec(`CREATE TABLE aside.seen (id int GENERATED ALWAYS AS IDENTITY, what text, locks int)`)
	l.Exec(`CREATE FUNCTION aside.see() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = public AS $$ BEGIN
		INSERT INTO aside.seen (what, locks) SELECT TG_ARGV[0], count(*) FROM worker_read_write_locks WHERE write_lock;
		RETURN NULL;
	END $$`)
	l.Exec(`CREATE TRIGGER check_event_stream_ordering AFTER INSERT ON worker_read_write_locks FOR EACH STATEMENT EXECUTE FUNCTION aside.see('taken')`)
	l.Exec(`CREATE TRIGGER see AFTER UPDATE OF checkpoint ON lethe.jobs
		FOR EACH ROW WHEN (NEW.state = 'running' AND NEW.checkpoint ->> 'phase' = 'purging') EXECUTE FUNCTION aside.see('batch')`)
	l.recorder.Done()
	stop := l.work(WorkerOptions{BatchEvents: 7, MappingDelay: time.Hour, Synapse: s})
	id := l.delete(room, nil)
	l.requireWaits(id, "the room is gone, and its clients may still send receipts")
	var done []string
	l.soon(func() bool {
		done = append(done, l.recorded()...)
		return slices.Contains(done, wake("new_event_during_purge_lock"))
	})
	stop()
	l.gone(room)

	require.Equal(t, 1, count(done, takeLock))
	first, locked := slices.Index(done, takeLock), slices.Index(done, lockRoom)
	require.Less(t, first, locked, "the room's row only then: %q", done)
	end := slices.Index(done, freeLock)
	require.Equal(t, []string{freeLock, wake("purge_pagination_lock"), wake("new_event_during_purge_lock")}, done[end:], "at the end")
	require.GreaterOrEqual(t, count(done[first:end], lockRoom), 4, "over all batches")
	require.Equal(t, count(done, lockRoom), count(done, checkLock), "each of which checks it")
	require.Equal(t, []string{"dr_cache_fake " + room, "dr_cache_fake " + room}, l.invalidated(), "when it is hidden, and when it is gone")
	for _, told := range [][]string{done[slices.Index(done, invalidate):], done[lastIndex(done, invalidate):]} {
		require.Equal(t, []string{invalidate, commitRow, tell}, told[:3])
	}
	seen := storetest.All[string](l.Lab, `SELECT what || ' ' || locks FROM aside.seen ORDER BY id`)
	require.Equal(t, "taken 2", seen[0])
	require.Equal(t, 1, count(seen, "taken 2"))
	require.Equal(t, len(seen)-1, count(seen, "batch 2"), "%q", seen)
}

// Requests that have found the room when it vanishes read its events and their states to
// their end.
func TestEventsOutliveTheirRoom(t *testing.T) {
	t.Parallel()
	l := setupBeside(t)
	l.furnish(room, 3)
	l.listen(false)
	l.Exec(`CREATE SCHEMA aside`)
	l.Exec(`CREATE TABLE aside.seen (what text, at timestamptz DEFAULT clock_timestamp())`)
	l.Exec(`CREATE FUNCTION aside.see() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$ BEGIN
		IF TG_OP = 'UPDATE' THEN
			INSERT INTO aside.seen VALUES (TG_ARGV[0]);
		ELSIF EXISTS (SELECT FROM gone) THEN
			INSERT INTO aside.seen VALUES (TG_ARGV[0]);
		END IF;
		RETURN NULL;
	END $$`)
	l.Exec(`CREATE TRIGGER see AFTER UPDATE OF checkpoint ON lethe.jobs
		FOR EACH ROW WHEN (NEW.checkpoint @> '{"hidden": true}' AND NOT OLD.checkpoint @> '{"hidden": true}') EXECUTE FUNCTION aside.see('hidden')`)
	tables := []string{"event_json", "event_to_state_groups", "state_groups_state"}
	for _, table := range tables {
		l.Exec(`CREATE TRIGGER check_event_stream_ordering AFTER DELETE ON ` + table + ` REFERENCING OLD TABLE AS gone
			FOR EACH STATEMENT EXECUTE FUNCTION aside.see('` + table + `')`)
	}
	id := l.delete(room, nil)
	l.work(WorkerOptions{MappingDelay: readTime, Synapse: l.byStream(time.Nanosecond), HomeserverRuns: true})
	status, _ := l.deleteEnds(id)
	require.Equal(t, journal.Complete, status.State, status.Error)
	l.gone(room)
	require.Equal(t, 1, storetest.One[int](l.Lab, `SELECT count(*) FROM aside.seen WHERE what = 'hidden'`))
	for _, table := range tables {
		pause := storetest.One[time.Duration](l.Lab, `
			SELECT min(d.at) - min(h.at) FROM aside.seen d, aside.seen h WHERE d.what = $1 AND h.what = 'hidden'`, table)
		require.GreaterOrEqual(t, pause, readTime-50*time.Millisecond, table) // its clock is read before the commit
	}
}

func count(list []string, want string) (n int) {
	for _, one := range list {
		if one == want {
			n++
		}
	}
	return n
}

func lastIndex(list []string, want string) int {
	for i := len(list) - 1; i >= 0; i-- {
		if list[i] == want {
			return i
		}
	}
	return -1
}

// The invalidations of one purge are at most one in 2 s, but the homeserver hears at
// once of a forward extremity that is gone: its next event would follow it.
func TestPaceOfAPurge(t *testing.T) {
	t.Parallel()
	l := setupBeside(t)
	l.Chain(room, "a", 40, 0)
	l.Exec(`INSERT INTO event_forward_extremities VALUES ('$a20', $1)`, room)
	s := l.byStream(time.Hour)
	l.recorder.Done()
	started := time.Now()
	stop := l.work(WorkerOptions{BatchEvents: 1, MappingDelay: time.Hour, Synapse: s})
	id := l.submit(room, 40)
	l.requireWaits(id, "Synapse may still need")
	stop()
	most := 3 + int(time.Since(started)/(2*time.Second))
	rows := len(l.invalidated())
	require.GreaterOrEqual(t, rows, 3, "the first batch, the extremity and the end")
	require.LessOrEqual(t, rows, most)
	// Only the first and the extremity's are published at once.
	done := l.recorded()
	require.Equal(t, 2, count(done, tell))
	at := lastIndex(done, tell)
	require.Equal(t, invalidate, done[at-2])
	require.Equal(t, 20, count(done[:at], deleteRows), "with the batch of the extremity")
}
