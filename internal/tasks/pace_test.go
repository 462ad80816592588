package tasks

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"lethe/internal/lock"
	"lethe/internal/store/journal"
	"lethe/internal/store/storetest"
)

// noteBatches notes the checkpoints of all batches.
func (l *lab) noteBatches() {
	l.T.Helper()
	l.Exec(`CREATE SCHEMA aside`)
	l.Exec(`CREATE TABLE aside.checkpoints (place bigint GENERATED ALWAYS AS IDENTITY, job text, checkpoint jsonb)`)
	l.Exec(`CREATE FUNCTION aside.note() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$ BEGIN
		INSERT INTO aside.checkpoints (job, checkpoint) VALUES (NEW.id, NEW.checkpoint);
		RETURN NEW;
	END $$`)
	l.Exec(`CREATE TRIGGER note AFTER UPDATE ON lethe.jobs FOR EACH ROW
		WHEN (NEW.checkpoint IS DISTINCT FROM OLD.checkpoint) EXECUTE FUNCTION aside.note()`)
}

// batches are how many events each batch of the job has deleted.
func (l *lab) batches(id string) []int64 {
	l.T.Helper()
	return storetest.All[int64](l.Lab, `
		SELECT n FROM (
			SELECT place, (checkpoint ->> 'events_deleted')::bigint - coalesce(lag((checkpoint ->> 'events_deleted')::bigint) OVER (ORDER BY place), 0) AS n
			FROM aside.checkpoints WHERE job = $1
		) AS deleted WHERE n > 0 ORDER BY place`, id)
}

// The first batch of a purge is larger if the purges before it were fast, and no larger than
// ever if they were slow.
func TestFirstBatchIsLearnedFromOtherJobs(t *testing.T) {
	t.Parallel()
	l := setup(t)
	l.noteBatches()
	const events = 1600
	for i := range 3 {
		l.Chain(fmt.Sprintf("!room%d:x", i), fmt.Sprintf("r%d-", i), events, i*events)
	}
	l.work(WorkerOptions{BatchTime: time.Minute, BatchEvents: 900})
	purged := func(i int) []int64 {
		id := l.submit(fmt.Sprintf("!room%d:x", i), events)
		require.Equal(t, journal.Complete, l.ends(id).State)
		return l.batches(id)
	}
	require.Equal(t, []int64{200, 900, 499}, purged(0), "the first was full, so the second is as large as it may be")
	require.Equal(t, []int64{900, 699}, purged(1))

	slow := setup(t)
	slow.noteBatches()
	slow.Chain("!room0:x", "r0-", events, 0)
	slow.Chain("!room1:x", "r1-", events, events)
	slow.WatchDeletes(`PERFORM pg_sleep(0.001);`)
	l = slow
	l.work(WorkerOptions{BatchTime: 100 * time.Millisecond, BatchEvents: 900})
	purged(0)
	require.EqualValues(t, 200, purged(1)[0])
}

// While readers wait for the room, a purge goes on in small batches, and it comes to its
// end however many there are.
func TestReadersMakeBatchesSmall(t *testing.T) {
	t.Parallel()
	l := setup(t)
	l.noteBatches()
	const events, largest, readers = 4000, 800, 8
	l.Chain(room, "a", events, 0)
	reading, stop := context.WithCancel(l.Ctx)
	var group sync.WaitGroup
	defer group.Wait()
	defer stop()
	var mu sync.Mutex
	var longest time.Duration
	locker := lock.New(l.locks, nil, lock.Options{Names: l.board.Names()})
	for range readers {
		group.Go(func() {
			for reading.Err() == nil {
				started := time.Now()
				lease, err := locker.RLock(reading, room)
				if errors.Is(err, lock.ErrTaken) && reading.Err() != nil {
					return
				}
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				longest = max(longest, time.Since(started))
				mu.Unlock()
				if err := lease.Release(l.Ctx); err != nil {
					t.Error(err)
				}
			}
		})
	}
	l.work(WorkerOptions{BatchTime: time.Minute, BatchEvents: largest})
	id := l.submit(room, events)
	require.Equal(t, journal.Complete, l.ends(id).State)
	stop()
	group.Wait()
	batches := l.batches(id)
	t.Log("batches", batches, "longest wait", longest)
	require.Equal(t, []string{fmt.Sprint("$a", events)}, l.Timeline(room))
	require.GreaterOrEqual(t, len(batches), 3*events/largest, "without readers there are %d", events/largest+1)
	small := 0
	for _, n := range batches[1:] {
		if n <= largest/4 {
			small++
		}
	}
	require.Greater(t, 10*small, 7*len(batches), "most are small: %v", batches)
	require.GreaterOrEqual(t, slices.Min(batches[:len(batches)-1]), int64(smallestBatch), "and none is too small: %v", batches)
}
