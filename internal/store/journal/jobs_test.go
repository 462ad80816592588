package journal_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/stretchr/testify/require"

	"lethe/internal/jobs"
	"lethe/internal/store/journal"
	"lethe/internal/store/postgres"
	"lethe/internal/store/storetest"
)

// atOnce runs do in n goroutines and counts those that returned no error; any
// other than the expected one fails the test.
func atOnce(l *storetest.Lab, n int, expected error, do func() error) (succeeded int64) {
	l.T.Helper()
	var count atomic.Int64
	var group sync.WaitGroup
	for range n {
		group.Go(func() {
			switch err := do(); {
			case err == nil:
				count.Add(1)
			case !errors.Is(err, expected):
				l.T.Error(err)
			}
		})
	}
	group.Wait()
	return count.Load()
}

func TestInsertedJobIsQueued(t *testing.T) {
	t.Parallel()
	l := storetest.New(t)
	job := storetest.NewJob(jobs.NewID(), room)
	job.Parameters = []byte(`{"token": "t1-1"}`)
	require.NoError(t, l.Journal.InsertJob(l.Ctx, job, false))
	want := job
	want.State, want.Generation = journal.Queued, 1
	require.Empty(t, cmp.Diff(want, l.Job(job.ID)))

	require.ErrorIs(t, l.Journal.InsertJob(l.Ctx, storetest.NewJob(job.ID, "!other:x"), true), journal.ErrExists)
	require.Empty(t, cmp.Diff(want, l.Job(job.ID)), "and the first stays as it was")
	_, err := l.Journal.Job(l.Ctx, jobs.NewID())
	require.ErrorIs(t, err, postgres.ErrNotFound)
}

func TestInsertJobAloneNeedsAFreeRoom(t *testing.T) {
	t.Parallel()
	l := storetest.New(t)
	insert := func(room string, alone bool) error {
		return l.Journal.InsertJob(l.Ctx, storetest.NewJob(jobs.NewID(), room), alone)
	}
	id := l.Queue(room)
	require.ErrorIs(t, insert(room, true), journal.ErrRoomBusy)
	require.NoError(t, insert("!other:x", true))
	run := l.Claim(id)
	require.ErrorIs(t, insert(room, true), journal.ErrRoomBusy)
	require.NoError(t, l.Journal.EndJob(l.Ctx, run, journal.Complete, ""))
	require.NoError(t, insert(room, true))
	require.NoError(t, insert(room, false), "who need not be alone queues")
}

func TestOneOfManyJobsThatWantToBeAloneIs(t *testing.T) {
	t.Parallel()
	l := storetest.New(t)
	require.EqualValues(t, 1, atOnce(l, 20, journal.ErrRoomBusy, func() error {
		return l.Journal.InsertJob(l.Ctx, storetest.NewJob(jobs.NewID(), room), true)
	}))
	require.Equal(t, 1, storetest.One[int](l, `SELECT count(*) FROM lethe.jobs`))
}

func TestTaskThatIsDeliveredTwiceRunsOnce(t *testing.T) {
	t.Parallel()
	l := storetest.New(t)
	id := l.Queue(room)
	require.EqualValues(t, 1, atOnce(l, 10, journal.ErrSuperseded, func() error {
		_, err := l.Journal.ClaimJob(l.Ctx, id, 1, jobs.HeartbeatStale, 0)
		return err
	}))
	job := l.Job(id)
	require.Equal(t, journal.Running, job.State)
	require.Equal(t, 1, job.Attempt)

	// Once its worker is dead another may have it, again one.
	l.Age(id, jobs.HeartbeatStale)
	require.EqualValues(t, 1, atOnce(l, 10, journal.ErrSuperseded, func() error {
		_, err := l.Journal.ClaimJob(l.Ctx, id, 1, jobs.HeartbeatStale, 0)
		return err
	}))
	require.Equal(t, 2, l.Job(id).Attempt)
}

func TestClaimJobRefuses(t *testing.T) {
	t.Parallel()
	l := storetest.New(t)
	claim := func(id string, generation int) error {
		_, err := l.Journal.ClaimJob(l.Ctx, id, generation, jobs.HeartbeatStale, 0)
		return err
	}
	running, waiting, elsewhere := l.Queue(room), l.Queue(room), l.Queue("!other:x")
	for _, generation := range []int{-1, 0, 2} {
		require.ErrorIs(t, claim(running, generation), journal.ErrSuperseded, generation)
	}
	require.ErrorIs(t, claim(jobs.NewID(), 1), journal.ErrSuperseded)
	run := l.Claim(running)
	require.ErrorIs(t, claim(waiting, 1), journal.ErrRoomBusy)
	require.ErrorIs(t, claim(waiting, 2), journal.ErrSuperseded, "the wrong generation never waits")
	require.NoError(t, claim(elsewhere, 1))

	require.NoError(t, l.Journal.EndJob(l.Ctx, run, journal.Complete, ""))
	require.ErrorIs(t, claim(running, 1), journal.ErrSuperseded)
	next := l.Claim(waiting)
	l.Age(next.JobID, time.Hour)
	later := l.Queue(room)
	require.ErrorIs(t, claim(later, 1), journal.ErrRoomBusy, "a dead worker's purge keeps its turn")
	l.Exec(`UPDATE lethe.jobs SET queue = 'low' WHERE id = $1`, next.JobID)
	require.NoError(t, claim(later, 1), "but a dead worker's job does not keep the room")
}

func TestPurgesOfARoomAreClaimedInOrder(t *testing.T) {
	t.Parallel()
	l := storetest.New(t)
	var order []string
	for range 6 {
		order = append(order, l.Queue(room))
	}
	sweeps, deletion := storetest.NewJob(jobs.NewID(), room), storetest.NewJob(jobs.NewID(), room)
	sweeps.Queue, deletion.Kind = journal.LowQueue, jobs.DeleteRoom
	for _, job := range []journal.Job{sweeps, deletion} {
		require.NoError(t, l.Journal.InsertJob(l.Ctx, job, false))
	}
	// Those of one commit have the same time.
	l.Exec(`UPDATE lethe.jobs SET created_at = (SELECT created_at FROM lethe.jobs WHERE id = $1) WHERE id = $2`, order[2], order[3])
	order = storetest.All[string](l, `SELECT id FROM lethe.jobs WHERE queue IS NULL AND kind = 'purge_history' ORDER BY created_at, id`)
	claim := func(id string) error {
		_, err := l.Journal.ClaimJob(l.Ctx, id, 1, jobs.HeartbeatStale, 1)
		return err
	}
	for len(order) > 0 {
		next, err := l.Journal.NextJob(l.Ctx, room)
		require.NoError(t, err)
		require.Equal(t, order[0], next.ID)
		for _, id := range append(slices.Clone(order[1:]), sweeps.ID, deletion.ID) {
			require.ErrorIs(t, claim(id), journal.ErrRoomBusy)
		}
		run := l.Claim(order[0])
		if len(order)%2 == 0 { // its turn comes again
			require.NoError(t, l.Journal.YieldJob(l.Ctx, run, journal.Yield{}))
			require.ErrorIs(t, claim(order[1]), journal.ErrRoomBusy)
			run = l.Claim(order[0])
		}
		if len(order)%3 == 0 { // a held one keeps no other from running
			require.NoError(t, l.Journal.HoldJob(l.Ctx, run))
		} else {
			require.NoError(t, l.Journal.EndJob(l.Ctx, run, journal.Complete, ""))
		}
		order = order[1:]
	}
	next, err := l.Journal.NextJob(l.Ctx, room)
	require.NoError(t, err)
	require.Equal(t, deletion.ID, next.ID, "before the sweep's")
	run := l.Claim(sweeps.ID)
	require.ErrorIs(t, claim(deletion.ID), journal.ErrRoomBusy)
	require.NoError(t, l.Journal.EndJob(l.Ctx, run, journal.Complete, ""))
	require.NoError(t, claim(deletion.ID))
	_, err = l.Journal.NextJob(l.Ctx, room)
	require.ErrorIs(t, err, postgres.ErrNotFound)
}

func TestHeartbeatReportsLostRuns(t *testing.T) {
	t.Parallel()
	l := storetest.New(t)
	alive, taken, ended, yielded := l.Claim(l.Queue("!1:x")), l.Claim(l.Queue("!2:x")), l.Claim(l.Queue("!3:x")), l.Claim(l.Queue("!4:x"))
	l.Age(alive.JobID, time.Hour)
	l.Age(taken.JobID, time.Hour)
	l.Claim(taken.JobID)
	require.NoError(t, l.Journal.EndJob(l.Ctx, ended, journal.Complete, ""))
	require.NoError(t, l.Journal.YieldJob(l.Ctx, yielded, journal.Yield{}))
	unknown := journal.Run{JobID: "\x27; DROP", Generation: 1, Attempt: 1}

	lost, err := l.Journal.Heartbeat(l.Ctx, []journal.Run{alive, taken, ended, yielded, unknown})
	require.NoError(t, err)
	require.ElementsMatch(t, []journal.Run{taken, ended, yielded, unknown}, lost)
	released, err := l.Journal.ReleaseStale(l.Ctx, jobs.HeartbeatStale, 20, 9)
	require.NoError(t, err)
	require.Empty(t, released, "the living run's heartbeat is fresh again")

	lost, err = l.Journal.Heartbeat(l.Ctx, nil)
	require.NoError(t, err)
	require.Empty(t, lost)
}

func TestHeartbeatDoesNotWaitForAConnectionOfThePool(t *testing.T) {
	t.Parallel()
	l := storetest.New(t)
	s, err := postgres.Open(l.Ctx, l.URL, postgres.Options{MaxConnections: 1})
	require.NoError(t, err)
	t.Cleanup(s.Close)
	work, narrow := l.Work(room), journal.New(s)
	b := narrow.Begin(work.Run, work.RoomLock)
	_, err = b.Exec(l.Ctx, `SELECT`)
	require.NoError(t, err)
	ctx, cancel := context.WithTimeout(l.Ctx, 20*time.Second)
	defer cancel()
	lost, err := narrow.Heartbeat(ctx, []journal.Run{work.Run})
	require.NoError(t, err)
	require.Empty(t, lost)
	require.NoError(t, b.Commit(l.Ctx, nil))
}

func TestStaleRunCannotMoveItsJob(t *testing.T) {
	t.Parallel()
	l := storetest.New(t)
	id := l.Queue(room)
	stale := l.Claim(id)
	l.Age(id, time.Hour)
	newest := l.Claim(id)
	l.RequireUnchanged(func() {
		require.ErrorIs(t, l.Journal.YieldJob(l.Ctx, stale, journal.Yield{}), journal.ErrSuperseded)
		require.ErrorIs(t, l.Journal.EndJob(l.Ctx, stale, journal.Failed, "why"), journal.ErrSuperseded)
		_, err := l.Journal.FailBatch(l.Ctx, stale, "why")
		require.ErrorIs(t, err, journal.ErrSuperseded)
	})
	require.NoError(t, l.Journal.YieldJob(l.Ctx, newest, journal.Yield{}))
	again := l.Claim(id)
	require.Equal(t, newest.Generation, again.Generation, "a yield keeps the generation")
	require.NoError(t, l.Journal.EndJob(l.Ctx, again, journal.Failed, "why"))
	require.ErrorIs(t, l.Journal.EndJob(l.Ctx, again, journal.Complete, ""), journal.ErrSuperseded, "an end is final")
	require.Equal(t, journal.Failed, l.Job(id).State)
	require.Equal(t, "why", l.Job(id).Error)
}

func TestJobFailsWithAReasonAndOnlyThenHasOne(t *testing.T) {
	t.Parallel()
	l := storetest.New(t)
	run := l.Claim(l.Queue(room))
	l.RequireUnchanged(func() {
		require.Error(t, l.Journal.EndJob(l.Ctx, run, journal.Failed, ""))
		require.Error(t, l.Journal.EndJob(l.Ctx, run, journal.Complete, "why"))
		require.Error(t, l.Journal.EndJob(l.Ctx, run, "no such state", ""))
	})
}

func TestReasonsMayHoldAnything(t *testing.T) {
	t.Parallel()
	l := storetest.New(t)
	huge := strings.Repeat("long ", 1<<20)
	for reason, want := range map[string]string{
		"a\x00b":       "a\uFFFDb",
		"a\xff\xfeb":   "a\uFFFDb",
		"'; DROP -- %": "'; DROP -- %",
		"\\u0000":      "\\u0000",
		huge:           huge,
	} {
		run := l.Claim(l.Queue(room))
		_, err := l.Journal.FailBatch(l.Ctx, run, reason)
		require.NoError(t, err)
		require.NoError(t, l.Journal.EndJob(l.Ctx, run, journal.Failed, reason))
		require.True(t, want == l.Job(run.JobID).Error, "%.20q", reason)
	}
}

func TestStaleJobsAreReleasedOnce(t *testing.T) {
	t.Parallel()
	l := storetest.New(t)
	fresh, locked, stale := l.Claim(l.Queue("!1:x")), l.Claim(l.Queue("!2:x")), l.Claim(l.Queue("!3:x"))
	l.Age(locked.JobID, time.Hour)
	l.Age(stale.JobID, time.Hour)
	tx, err := l.Conn.Begin(l.Ctx)
	require.NoError(t, err)
	l.Exec(`SELECT FROM lethe.jobs WHERE id = $1 FOR UPDATE`, locked.JobID)

	var mu sync.Mutex
	var released []string
	atOnce(l, 8, nil, func() error {
		jobs, err := l.Journal.ReleaseStale(l.Ctx, jobs.HeartbeatStale, 20, 9)
		mu.Lock()
		defer mu.Unlock()
		for _, job := range jobs {
			released = append(released, job.ID)
		}
		return err
	})
	require.Equal(t, []string{stale.JobID}, released)
	job := l.Job(stale.JobID)
	require.Equal(t, journal.Queued, job.State)
	require.Equal(t, stale.Generation+1, job.Generation)
	require.Equal(t, 1, job.Failures)
	require.True(t, job.TaskMissing)
	require.Equal(t, journal.Running, l.Job(fresh.JobID).State)
	require.NoError(t, tx.Rollback(l.Ctx))
	require.Equal(t, journal.Running, l.Job(locked.JobID).State)
}

func TestReleaseStaleGivesUpAfterMaxFailures(t *testing.T) {
	t.Parallel()
	l := storetest.New(t)
	for room, c := range map[string]struct {
		failed []string
		want   string // empty: it goes on
	}{
		"!more:x": {[]string{}, ""},
		"!last:x": {[]string{"deadlock", "too slow"}, "gave up after 3 failures without progress: too slow"},
	} {
		run := l.Claim(l.Queue(room))
		for _, reason := range c.failed {
			_, err := l.Journal.FailBatch(l.Ctx, run, reason)
			require.NoError(t, err)
		}
		l.Age(run.JobID, time.Hour)
		released, err := l.Journal.ReleaseStale(l.Ctx, time.Minute, 3, 9)
		require.NoError(t, err)
		require.Len(t, released, 1)
		require.Empty(t, cmp.Diff(l.Job(run.JobID), released[0], cmp.FilterPath(
			func(p cmp.Path) bool { return p.String() == "EndedFor" }, cmp.Ignore())))
		require.Equal(t, c.want, released[0].Error)
		require.Equal(t, c.want != "", released[0].State == journal.Failed)
	}

	// One that kills every worker.
	id := l.Queue("!killer:x")
	for generation := 1; ; generation++ {
		_, err := l.Journal.ClaimJob(l.Ctx, id, generation, time.Minute, 0)
		require.NoError(t, err)
		l.Age(id, time.Hour)
		released, err := l.Journal.ReleaseStale(l.Ctx, time.Minute, 3, 9)
		require.NoError(t, err)
		require.Len(t, released, 1)
		if released[0].State == journal.Failed {
			require.Equal(t, 3, generation)
			require.Equal(t, "gave up after 3 failures without progress: its worker vanished", released[0].Error)
			return
		}
	}
}

func TestReleaseAndRequeueKeepToTheirLimit(t *testing.T) {
	t.Parallel()
	l := storetest.New(t)
	for range 5 {
		l.Age(l.Claim(l.Queue("!"+jobs.NewID()+":x")).JobID, time.Hour)
	}
	for _, want := range []int{2, 2, 1, 0} {
		released, err := l.Journal.ReleaseStale(l.Ctx, time.Minute, 20, 2)
		require.NoError(t, err)
		require.Len(t, released, want)
		for range 2 { // they stay marked until they are enqueued
			requeued, err := l.Journal.RequeueMissing(l.Ctx, time.Minute, 2)
			require.NoError(t, err)
			require.Len(t, requeued, want)
		}
		for _, job := range released {
			require.NoError(t, l.Journal.MarkTaskEnqueued(l.Ctx, job.ID, job.Generation))
		}
	}
}

func TestRequeueMissing(t *testing.T) {
	t.Parallel()
	l := storetest.New(t)
	missing := func(id string, age time.Duration) {
		require.NoError(t, l.Journal.MarkTaskMissing(l.Ctx, id, 1))
		l.Exec(`UPDATE lethe.jobs SET task_missing_since = task_missing_since - $2::interval WHERE id = $1`, id, age)
	}
	has, never, lately, long := l.Queue(room), l.Queue(room), l.Queue(room), l.Queue(room)
	found, running, otherwise := l.Queue(room), l.Queue("!other:x"), l.Queue(room)
	require.NoError(t, l.Journal.MarkTaskNever(l.Ctx, never, 1))
	require.NoError(t, l.Journal.MarkTaskMissing(l.Ctx, never, 1), "which is no news")
	missing(lately, 59*time.Second)
	missing(long, 61*time.Second)
	require.NoError(t, l.Journal.MarkTaskMissing(l.Ctx, long, 1), "which is no news")
	missing(found, time.Hour)
	require.NoError(t, l.Journal.MarkTaskEnqueued(l.Ctx, found, 1))
	missing(running, time.Hour)
	l.Claim(running)
	require.NoError(t, l.Journal.MarkTaskMissing(l.Ctx, running, 1))
	require.False(t, l.Job(running).TaskMissing, "it is not queued")
	require.NoError(t, l.Journal.MarkTaskNever(l.Ctx, otherwise, 2), "which is no generation of it")

	requeued, err := l.Journal.RequeueMissing(l.Ctx, time.Minute, 99)
	require.NoError(t, err)
	generations := map[string]int{}
	for _, job := range requeued {
		generations[job.ID] = job.Generation
	}
	require.Equal(t, map[string]int{never: 1, long: 2}, generations)
	for _, id := range []string{has, lately, found, running, otherwise} {
		require.Equal(t, 1, l.Job(id).Generation)
	}

	// Until the caller has enqueued it any replica may take the job, but under no
	// further generation.
	again, err := l.Journal.RequeueMissing(l.Ctx, time.Minute, 99)
	require.NoError(t, err)
	require.ElementsMatch(t, requeued, again)
}

func TestQueuedJobsInPages(t *testing.T) {
	t.Parallel()
	l := storetest.New(t)
	ids := map[string]bool{}
	for range 7 {
		ids[l.Queue("!"+jobs.NewID()+":x")] = true
	}
	l.Claim(l.Queue(room))
	after := ""
	for _, want := range []int{3, 3, 1, 0} {
		page, err := l.Journal.QueuedJobs(l.Ctx, after, 3)
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
	l := storetest.New(t)
	run := l.Claim(l.Queue(room))
	require.Zero(t, l.Job(run.JobID).EndedFor)
	require.NoError(t, l.Journal.EndJob(l.Ctx, run, journal.Complete, ""))
	l.Exec(`UPDATE lethe.jobs SET ended_at = ended_at - interval '40 days 1 hour'`)
	require.InDelta(t, 40*24+1, l.Job(run.JobID).EndedFor.Hours(), 0.5)
}

func TestHeartbeatTellsTwoRunsOfAJobApart(t *testing.T) {
	t.Parallel()
	l := storetest.New(t)
	id := l.Queue(room)
	old := l.Claim(id)
	l.Age(id, time.Hour)
	newest := l.Claim(id)
	lost, err := l.Journal.Heartbeat(l.Ctx, []journal.Run{old, newest})
	require.NoError(t, err)
	require.Equal(t, []journal.Run{old}, lost)
}

func TestClaimJobGivesARoomToOneJob(t *testing.T) {
	t.Parallel()
	l := storetest.New(t)
	for i := range 20 {
		r := fmt.Sprint("!", i)
		ids := make(chan string, 8)
		for range 8 {
			ids <- l.Queue(r)
		}
		var n atomic.Int64
		n.Store(atOnce(l, 8, journal.ErrRoomBusy, func() error {
			_, err := l.Journal.ClaimJob(l.Ctx, <-ids, 1, jobs.HeartbeatStale, 0)
			return err
		}))
		require.EqualValues(t, 1, n.Load())
	}
}
