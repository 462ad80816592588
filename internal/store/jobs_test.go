package store_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/stretchr/testify/require"

	"lethe/internal/jobs"
	"lethe/internal/store"
)

// job reads a job's row.
func (l *lab) job(id string) store.Job {
	l.t.Helper()
	job, err := l.store.Job(l.ctx, id)
	require.NoError(l.t, err)
	return job
}

// atOnce runs do in n goroutines and counts those that returned no error; any
// other than the expected one fails the test.
func (l *lab) atOnce(n int, expected error, do func() error) (succeeded int64) {
	l.t.Helper()
	var count atomic.Int64
	var group sync.WaitGroup
	for range n {
		group.Go(func() {
			switch err := do(); {
			case err == nil:
				count.Add(1)
			case !errors.Is(err, expected):
				l.t.Error(err)
			}
		})
	}
	group.Wait()
	return count.Load()
}

func TestInsertedJobIsQueued(t *testing.T) {
	t.Parallel()
	l := setup(t)
	job := newJob(jobs.NewID(), room)
	job.Parameters = []byte(`{"token": "t1-1"}`)
	require.NoError(t, l.store.InsertJob(l.ctx, job, false))
	want := job
	want.State, want.Generation = store.JobQueued, 1
	require.Empty(t, cmp.Diff(want, l.job(job.ID)))

	require.ErrorIs(t, l.store.InsertJob(l.ctx, newJob(job.ID, "!other:x"), true), store.ErrExists)
	require.Empty(t, cmp.Diff(want, l.job(job.ID)), "and the first stays as it was")
	_, err := l.store.Job(l.ctx, jobs.NewID())
	require.ErrorIs(t, err, store.ErrNotFound)
}

func TestInsertJobAloneWantsTheRoomForItself(t *testing.T) {
	t.Parallel()
	l := setup(t)
	insert := func(room string, alone bool) error {
		return l.store.InsertJob(l.ctx, newJob(jobs.NewID(), room), alone)
	}
	id := l.queue(room)
	require.ErrorIs(t, insert(room, true), store.ErrRoomBusy)
	require.NoError(t, insert("!other:x", true))
	run := l.claim(id)
	require.ErrorIs(t, insert(room, true), store.ErrRoomBusy)
	require.NoError(t, l.store.EndJob(l.ctx, run, store.JobComplete, ""))
	require.NoError(t, insert(room, true))
	require.NoError(t, insert(room, false), "who need not be alone queues")
}

func TestOneOfManyJobsThatWantToBeAloneIs(t *testing.T) {
	t.Parallel()
	l := setup(t)
	require.EqualValues(t, 1, l.atOnce(20, store.ErrRoomBusy, func() error {
		return l.store.InsertJob(l.ctx, newJob(jobs.NewID(), room), true)
	}))
	require.Equal(t, 1, one[int](l, `SELECT count(*) FROM lethe.jobs`))
}

func TestTaskThatIsDeliveredTwiceRunsOnce(t *testing.T) {
	t.Parallel()
	l := setup(t)
	id := l.queue(room)
	require.EqualValues(t, 1, l.atOnce(10, store.ErrSuperseded, func() error {
		_, err := l.store.ClaimJob(l.ctx, id, 1, jobs.HeartbeatStale, 0)
		return err
	}))
	job := l.job(id)
	require.Equal(t, store.JobRunning, job.State)
	require.Equal(t, 1, job.Attempt)

	// Once its worker is dead another may have it, again one.
	l.grow(id, jobs.HeartbeatStale)
	require.EqualValues(t, 1, l.atOnce(10, store.ErrSuperseded, func() error {
		_, err := l.store.ClaimJob(l.ctx, id, 1, jobs.HeartbeatStale, 0)
		return err
	}))
	require.Equal(t, 2, l.job(id).Attempt)
}

func TestClaimJobRefuses(t *testing.T) {
	t.Parallel()
	l := setup(t)
	claim := func(id string, generation int) error {
		_, err := l.store.ClaimJob(l.ctx, id, generation, jobs.HeartbeatStale, 0)
		return err
	}
	running, waiting, elsewhere := l.queue(room), l.queue(room), l.queue("!other:x")
	for _, generation := range []int{-1, 0, 2} {
		require.ErrorIs(t, claim(running, generation), store.ErrSuperseded, generation)
	}
	require.ErrorIs(t, claim(jobs.NewID(), 1), store.ErrSuperseded)
	run := l.claim(running)
	require.ErrorIs(t, claim(waiting, 1), store.ErrRoomBusy)
	require.ErrorIs(t, claim(waiting, 2), store.ErrSuperseded, "the wrong generation never waits")
	require.NoError(t, claim(elsewhere, 1))

	require.NoError(t, l.store.EndJob(l.ctx, run, store.JobComplete, ""))
	require.ErrorIs(t, claim(running, 1), store.ErrSuperseded)
	next := l.claim(waiting)
	l.grow(next.JobID, time.Hour)
	require.NoError(t, claim(l.queue(room), 1), "a dead worker's job does not keep the room")
}

func TestHeartbeatReportsLostRuns(t *testing.T) {
	t.Parallel()
	l := setup(t)
	alive, taken, ended, yielded := l.claim(l.queue("!1:x")), l.claim(l.queue("!2:x")), l.claim(l.queue("!3:x")), l.claim(l.queue("!4:x"))
	l.grow(alive.JobID, time.Hour)
	l.grow(taken.JobID, time.Hour)
	l.claim(taken.JobID)
	require.NoError(t, l.store.EndJob(l.ctx, ended, store.JobComplete, ""))
	require.NoError(t, l.store.YieldJob(l.ctx, yielded))
	unknown := store.Run{JobID: "\x27; DROP", Generation: 1, Attempt: 1}

	lost, err := l.store.Heartbeat(l.ctx, []store.Run{alive, taken, ended, yielded, unknown})
	require.NoError(t, err)
	require.ElementsMatch(t, []store.Run{taken, ended, yielded, unknown}, lost)
	released, err := l.store.ReleaseStale(l.ctx, jobs.HeartbeatStale, 20, 9)
	require.NoError(t, err)
	require.Empty(t, released, "the living run's heartbeat is fresh again")

	lost, err = l.store.Heartbeat(l.ctx, nil)
	require.NoError(t, err)
	require.Empty(t, lost)
}

func TestHeartbeatDoesNotWaitForAConnectionOfThePool(t *testing.T) {
	t.Parallel()
	l := setup(t)
	s, err := store.Open(l.ctx, l.url, store.Options{MaxConnections: 1})
	require.NoError(t, err)
	t.Cleanup(s.Close)
	l.chain(room, "", 3, 0)
	batch := l.begin(room)
	_, err = s.PurgeHistoryBatch(l.ctx, batch, store.Catalog{}, purgeOf(room, 3), 0, 9, func(store.HistoryBatch) any {
		ctx, cancel := context.WithTimeout(l.ctx, 20*time.Second)
		defer cancel()
		lost, err := s.Heartbeat(ctx, []store.Run{batch.Run})
		require.NoError(t, err)
		require.Empty(t, lost)
		return nil
	})
	require.NoError(t, err)
}

func TestStaleRunCannotMoveItsJob(t *testing.T) {
	t.Parallel()
	l := setup(t)
	id := l.queue(room)
	stale := l.claim(id)
	l.grow(id, time.Hour)
	newest := l.claim(id)
	l.unchanged(func() {
		require.ErrorIs(t, l.store.YieldJob(l.ctx, stale), store.ErrSuperseded)
		require.ErrorIs(t, l.store.EndJob(l.ctx, stale, store.JobFailed, "why"), store.ErrSuperseded)
		_, err := l.store.FailBatch(l.ctx, stale, "why")
		require.ErrorIs(t, err, store.ErrSuperseded)
	})
	require.NoError(t, l.store.YieldJob(l.ctx, newest))
	again := l.claim(id)
	require.Equal(t, newest.Generation, again.Generation, "a yield keeps the generation")
	require.NoError(t, l.store.EndJob(l.ctx, again, store.JobFailed, "why"))
	require.ErrorIs(t, l.store.EndJob(l.ctx, again, store.JobComplete, ""), store.ErrSuperseded, "an end is final")
	require.Equal(t, store.JobFailed, l.job(id).State)
	require.Equal(t, "why", l.job(id).Error)
}

func TestJobFailsWithAReasonAndOnlyThenHasOne(t *testing.T) {
	t.Parallel()
	l := setup(t)
	run := l.claim(l.queue(room))
	l.unchanged(func() {
		require.Error(t, l.store.EndJob(l.ctx, run, store.JobFailed, ""))
		require.Error(t, l.store.EndJob(l.ctx, run, store.JobComplete, "why"))
		require.Error(t, l.store.EndJob(l.ctx, run, "no such state", ""))
	})
}

func TestReasonsMayHoldAnything(t *testing.T) {
	t.Parallel()
	l := setup(t)
	huge := strings.Repeat("long ", 1<<20)
	for reason, want := range map[string]string{
		"a\x00b":       "a\uFFFDb",
		"a\xff\xfeb":   "a\uFFFDb",
		"'; DROP -- %": "'; DROP -- %",
		"\\u0000":      "\\u0000",
		huge:           huge,
	} {
		run := l.claim(l.queue(room))
		_, err := l.store.FailBatch(l.ctx, run, reason)
		require.NoError(t, err)
		require.NoError(t, l.store.EndJob(l.ctx, run, store.JobFailed, reason))
		require.True(t, want == l.job(run.JobID).Error, "%.20q", reason)
	}
}

func TestStaleJobsAreReleasedOnce(t *testing.T) {
	t.Parallel()
	l := setup(t)
	fresh, locked, stale := l.claim(l.queue("!1:x")), l.claim(l.queue("!2:x")), l.claim(l.queue("!3:x"))
	l.grow(locked.JobID, time.Hour)
	l.grow(stale.JobID, time.Hour)
	tx, err := l.conn.Begin(l.ctx)
	require.NoError(t, err)
	l.exec(`SELECT FROM lethe.jobs WHERE id = $1 FOR UPDATE`, locked.JobID)

	var mu sync.Mutex
	var released []string
	l.atOnce(8, nil, func() error {
		jobs, err := l.store.ReleaseStale(l.ctx, jobs.HeartbeatStale, 20, 9)
		mu.Lock()
		defer mu.Unlock()
		for _, job := range jobs {
			released = append(released, job.ID)
		}
		return err
	})
	require.Equal(t, []string{stale.JobID}, released)
	job := l.job(stale.JobID)
	require.Equal(t, store.JobQueued, job.State)
	require.Equal(t, stale.Generation+1, job.Generation)
	require.Equal(t, 1, job.Failures)
	require.True(t, job.TaskMissing)
	require.Equal(t, store.JobRunning, l.job(fresh.JobID).State)
	require.NoError(t, tx.Rollback(l.ctx))
	require.Equal(t, store.JobRunning, l.job(locked.JobID).State)
}

func TestReleaseStaleGivesUpAfterTheMostFailures(t *testing.T) {
	t.Parallel()
	l := setup(t)
	for _, c := range []struct {
		failed []string
		want   string // empty: it goes on
	}{
		{[]string{}, ""},
		{[]string{"deadlock", "too slow"}, "gave up after 3 failures without progress: too slow"},
	} {
		run := l.claim(l.queue(room))
		for _, reason := range c.failed {
			_, err := l.store.FailBatch(l.ctx, run, reason)
			require.NoError(t, err)
		}
		l.grow(run.JobID, time.Hour)
		released, err := l.store.ReleaseStale(l.ctx, time.Minute, 3, 9)
		require.NoError(t, err)
		require.Len(t, released, 1)
		require.Empty(t, cmp.Diff(l.job(run.JobID), released[0], cmp.FilterPath(
			func(p cmp.Path) bool { return p.String() == "EndedFor" }, cmp.Ignore())))
		require.Equal(t, c.want, released[0].Error)
		require.Equal(t, c.want != "", released[0].State == store.JobFailed)
	}

	// One that kills every worker.
	id := l.queue("!killer:x")
	for generation := 1; ; generation++ {
		_, err := l.store.ClaimJob(l.ctx, id, generation, time.Minute, 0)
		require.NoError(t, err)
		l.grow(id, time.Hour)
		released, err := l.store.ReleaseStale(l.ctx, time.Minute, 3, 9)
		require.NoError(t, err)
		require.Len(t, released, 1)
		if released[0].State == store.JobFailed {
			require.Equal(t, 3, generation)
			require.Equal(t, "gave up after 3 failures without progress: its worker vanished", released[0].Error)
			return
		}
	}
}

func TestReleaseAndRequeueKeepToTheirLimit(t *testing.T) {
	t.Parallel()
	l := setup(t)
	for range 5 {
		l.grow(l.claim(l.queue("!"+jobs.NewID()+":x")).JobID, time.Hour)
	}
	for _, want := range []int{2, 2, 1, 0} {
		released, err := l.store.ReleaseStale(l.ctx, time.Minute, 20, 2)
		require.NoError(t, err)
		require.Len(t, released, want)
		for range 2 { // they stay marked until they are enqueued
			requeued, err := l.store.RequeueMissing(l.ctx, time.Minute, 2)
			require.NoError(t, err)
			require.Len(t, requeued, want)
		}
		for _, job := range released {
			require.NoError(t, l.store.MarkTaskEnqueued(l.ctx, job.ID, job.Generation))
		}
	}
}

func TestRequeueMissing(t *testing.T) {
	t.Parallel()
	l := setup(t)
	missing := func(id string, age time.Duration) {
		require.NoError(t, l.store.MarkTaskMissing(l.ctx, id, 1))
		l.exec(`UPDATE lethe.jobs SET task_missing_since = task_missing_since - $2::interval WHERE id = $1`, id, age)
	}
	has, never, lately, long := l.queue(room), l.queue(room), l.queue(room), l.queue(room)
	found, running, otherwise := l.queue(room), l.queue("!other:x"), l.queue(room)
	require.NoError(t, l.store.MarkTaskNever(l.ctx, never, 1))
	require.NoError(t, l.store.MarkTaskMissing(l.ctx, never, 1), "which is no news")
	missing(lately, 59*time.Second)
	missing(long, 61*time.Second)
	require.NoError(t, l.store.MarkTaskMissing(l.ctx, long, 1), "which is no news")
	missing(found, time.Hour)
	require.NoError(t, l.store.MarkTaskEnqueued(l.ctx, found, 1))
	missing(running, time.Hour)
	l.claim(running)
	require.NoError(t, l.store.MarkTaskMissing(l.ctx, running, 1))
	require.False(t, l.job(running).TaskMissing, "it is not queued")
	require.NoError(t, l.store.MarkTaskNever(l.ctx, otherwise, 2), "which is no generation of it")

	requeued, err := l.store.RequeueMissing(l.ctx, time.Minute, 99)
	require.NoError(t, err)
	generations := map[string]int{}
	for _, job := range requeued {
		generations[job.ID] = job.Generation
	}
	require.Equal(t, map[string]int{never: 1, long: 2}, generations)
	for _, id := range []string{has, lately, found, running, otherwise} {
		require.Equal(t, 1, l.job(id).Generation)
	}

	// Until the caller has enqueued it the job is anybody's, but under no
	// further generation.
	again, err := l.store.RequeueMissing(l.ctx, time.Minute, 99)
	require.NoError(t, err)
	require.ElementsMatch(t, requeued, again)
}

func TestQueuedJobsInPages(t *testing.T) {
	t.Parallel()
	l := setup(t)
	ids := map[string]bool{}
	for range 7 {
		ids[l.queue("!"+jobs.NewID()+":x")] = true
	}
	l.claim(l.queue(room))
	after := ""
	for _, want := range []int{3, 3, 1, 0} {
		page, err := l.store.QueuedJobs(l.ctx, after, 3)
		require.NoError(t, err)
		require.Len(t, page, want)
		for _, job := range page {
			require.Greater(t, job.ID, after)
			require.True(t, ids[job.ID])
			delete(ids, job.ID)
			after = job.ID
		}
	}
	require.Empty(t, ids)
}

func TestJobTellsHowLongAgoItEnded(t *testing.T) {
	t.Parallel()
	l := setup(t)
	run := l.claim(l.queue(room))
	require.Zero(t, l.job(run.JobID).EndedFor)
	require.NoError(t, l.store.EndJob(l.ctx, run, store.JobComplete, ""))
	l.exec(`UPDATE lethe.jobs SET ended_at = ended_at - interval '40 days 1 hour'`)
	require.InDelta(t, 40*24+1, l.job(run.JobID).EndedFor.Hours(), 0.5)
}

func TestHeartbeatTellsTwoRunsOfAJobApart(t *testing.T) {
	t.Parallel()
	l := setup(t)
	id := l.queue(room)
	old := l.claim(id)
	l.grow(id, time.Hour)
	newest := l.claim(id)
	lost, err := l.store.Heartbeat(l.ctx, []store.Run{old, newest})
	require.NoError(t, err)
	require.Equal(t, []store.Run{old}, lost)
}

func TestClaimJobGivesARoomToOneJob(t *testing.T) {
	t.Parallel()
	l := setup(t)
	for i := range 20 {
		r := fmt.Sprint("!", i)
		ids := make(chan string, 8)
		for range 8 {
			ids <- l.queue(r)
		}
		var n atomic.Int64
		n.Store(l.atOnce(8, store.ErrRoomBusy, func() error {
			_, err := l.store.ClaimJob(l.ctx, <-ids, 1, jobs.HeartbeatStale, 0)
			return err
		}))
		require.EqualValues(t, 1, n.Load())
	}
}
