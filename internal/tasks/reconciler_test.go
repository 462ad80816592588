package tasks

import (
	"context"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"lethe/internal/dispatch"
	"lethe/internal/jobs"
	"lethe/internal/store/journal"
	"lethe/internal/store/storetest"
)

func (l *lab) reconciler() *dispatch.Reconciler {
	return dispatch.NewReconciler(l.ofScheduler, l.redis, l.board, l.log, l.metrics)
}

// claim makes us the run of a job of generation 1.
func (l *lab) claim(id string) journal.Run {
	l.T.Helper()
	job, err := l.Journal.ClaimJob(l.Ctx, id, 1, jobs.HeartbeatStale, 0)
	require.NoError(l.T, err)
	return journal.Run{JobID: id, Generation: job.Generation, Attempt: job.Attempt}
}

// vanish lets the worker of a job die.
func (l *lab) vanish(id string) {
	l.T.Helper()
	l.Exec(`UPDATE lethe.jobs SET heartbeat_at = heartbeat_at - interval '1 hour' WHERE id = $1`, id)
}

func TestReconcilersTogetherEnqueueEachLostJobOnce(t *testing.T) {
	t.Parallel()
	l := setup(t)
	var want []string
	for i := range 12 {
		id := l.submit("!"+jobs.NewID()+":x", 7)
		switch i % 4 {
		case 0: // its worker died
			l.claim(id)
			l.vanish(id)
			want = append(want, id+"~2")
		case 1: // its task is gone for long
			l.Exec(`UPDATE lethe.jobs SET task_missing_since = now() - interval '61 s' WHERE id = $1`, id)
			want = append(want, id+"~2")
		case 2: // it never had one
			require.NoError(t, l.Journal.MarkTaskNever(l.Ctx, id, 1))
			want = append(want, id+"~1")
		case 3: // its task is gone for a moment
			l.Exec(`UPDATE lethe.jobs SET task_missing_since = now() - interval '30 s' WHERE id = $1`, id)
		}
	}
	require.NoError(t, l.redis.FlushAll(l.Ctx).Err())
	for range 2 {
		var group sync.WaitGroup
		for range 6 {
			group.Go(func() {
				if err := l.reconciler().Check(l.Ctx); err != nil {
					t.Error(err)
				}
			})
		}
		group.Wait()
		require.ElementsMatch(t, want, l.pending())
	}
	require.Equal(t, []int{0, 1}, storetest.All[int](l.Lab, `SELECT DISTINCT failures FROM lethe.jobs ORDER BY 1`), "a death counts once, a lost task not")
}

func TestTaskIsMissingOnlyAfterAMinute(t *testing.T) {
	t.Parallel()
	l := setup(t)
	id := l.submit(room, 7)
	reconciler := l.reconciler()
	look := func(missing bool, generation int) {
		t.Helper()
		require.NoError(t, reconciler.Check(l.Ctx))
		require.Equal(t, missing, l.Job(id).TaskMissing)
		require.Equal(t, generation, l.Job(id).Generation)
	}
	look(false, 1)
	require.NoError(t, l.redis.FlushAll(l.Ctx).Err())
	look(true, 1)
	look(true, 1)
	l.Exec(`UPDATE lethe.jobs SET task_missing_since = task_missing_since - interval '59 s'`)
	look(true, 1)
	require.Empty(t, l.pending())
	l.Exec(`UPDATE lethe.jobs SET task_missing_since = task_missing_since - interval '2 s'`)
	look(false, 2)
	require.Equal(t, []string{id + "~2"}, l.pending())

	require.NoError(t, l.Journal.MarkTaskMissing(l.Ctx, id, 2))
	look(false, 2) // for there is one
}

func TestReconcilerChangesNothingWithoutRedis(t *testing.T) {
	t.Parallel()
	l := setup(t)
	vanished, missing := l.submit("!1:x", 7), l.submit("!2:x", 7)
	l.claim(vanished)
	l.vanish(vanished)
	require.NoError(t, l.Journal.MarkTaskNever(l.Ctx, missing, 1))
	rows := func() []string {
		return storetest.All[string](l.Lab, `SELECT to_jsonb(j)::text FROM lethe.jobs j ORDER BY id`)
	}
	before := rows()
	l.server.Kill()
	require.Error(t, l.reconciler().Check(l.Ctx))
	require.Equal(t, before, rows())
}

func TestReconcilerShowsTheQueues(t *testing.T) {
	t.Parallel()
	l := setup(t)
	l.submit(room, 7)
	require.NoError(t, l.redis.FlushAll(l.Ctx).Err())
	require.NoError(t, l.reconciler().Check(l.Ctx))
	names, err := l.asynq.Queues()
	require.NoError(t, err)
	slices.Sort(names)
	require.Equal(t, []string{"critical", "default", "low"}, names)
}

func TestReconcilerGivesUpAJobThatKillsWorkers(t *testing.T) {
	t.Parallel()
	l := setup(t)
	id := l.submit(room, 7)
	l.claim(id)
	l.vanish(id)
	l.Exec(`UPDATE lethe.jobs SET failures = $1`, dispatch.MaxFailures-1)
	require.NoError(t, l.reconciler().Check(l.Ctx))
	status, err := l.board.Status(l.Ctx, jobs.PurgeHistory, id)
	require.NoError(t, err)
	require.Equal(t, journal.Failed, status.State)
	require.Equal(t, "gave up after 20 failures without progress: its worker vanished", status.Error)
	require.NotContains(t, l.pending(), id+"~2")
}

// A queued job whose task asynq considers active, although no worker runs it, has no
// task.
func TestReconcilerDoesNotTrustAnActiveTask(t *testing.T) {
	t.Parallel()
	l := setup(t)
	id := l.submit(room, 7)
	key := func(list string) string { return "asynq:{default}:" + list }
	require.NoError(t, l.redis.LMove(l.Ctx, key("pending"), key("active"), "right", "left").Err())
	require.NoError(t, l.redis.HSet(l.Ctx, key("t:"+id+"~1"), "state", "active").Err())
	require.NoError(t, l.reconciler().Check(l.Ctx))
	l.Exec(`UPDATE lethe.jobs SET task_missing_since = task_missing_since - interval '1 hour'`)
	require.NoError(t, l.reconciler().Check(l.Ctx))
	require.Equal(t, []string{id + "~2"}, l.pending())
}

func TestReconcilerRunsUntilItsContextEnds(t *testing.T) {
	t.Parallel()
	l := setup(t)
	id := l.submit(room, 7)
	require.NoError(t, l.redis.FlushAll(l.Ctx).Err())
	l.work(WorkerOptions{})
	ctx, cancel := context.WithCancel(l.Ctx)
	var group sync.WaitGroup
	group.Go(func() { l.reconciler().Run(ctx) })
	require.Eventually(t, func() bool { return l.Job(id).TaskMissing }, time.Minute, 20*time.Millisecond)
	l.Exec(`UPDATE lethe.jobs SET task_missing_since = task_missing_since - interval '1 hour'`)
	require.Equal(t, journal.Complete, l.ends(id).State)
	cancel()
	group.Wait()
}
