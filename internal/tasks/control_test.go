package tasks

import (
	"context"
	"encoding/json"
	"errors"
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/hibiken/asynq"
	"github.com/stretchr/testify/require"

	"lethe/internal/dispatch"
	"lethe/internal/jobs"
	"lethe/internal/schema"
	"lethe/internal/store/beside"
	"lethe/internal/store/control"
	"lethe/internal/store/journal"
	"lethe/internal/store/storetest"
)

// operator returns a Control with the rights of the api.
func (l *lab) operator() *control.Control {
	l.T.Helper()
	return control.New(storetest.OnAs(l.T, l.URL, schema.API).DB)
}

// do does a verb to a job, which must not refuse it.
func (l *lab) do(c *control.Control, verb control.Verb, id string) control.Job {
	l.T.Helper()
	outcomes, err := c.Do(l.Ctx, control.Request{Verb: verb, Who: "@op:x", Reason: "because"}, control.Filter{IDs: []string{id}}, 1)
	require.NoError(l.T, err)
	require.Len(l.T, outcomes, 1)
	require.True(l.T, outcomes[0].Done, outcomes[0].Refusal)
	return outcomes[0].Job
}

// underWay waits until the job has deleted some events but not all.
func (l *lab) underWay(room string, events int) {
	l.T.Helper()
	require.Eventually(l.T, func() bool { return len(l.depths(room)) < events-3 }, time.Minute, time.Millisecond)
	require.NotEmpty(l.T, l.depths(room))
}

func TestCancelledPurgeStopsAndGoesOnWhenRetried(t *testing.T) {
	t.Parallel()
	l := setup(t)
	c := l.operator()
	const events = 300
	l.chain(room, events)
	l.work(WorkerOptions{BatchEvents: 1})
	id := l.submit(room, events)
	l.underWay(room, events)
	job := l.do(c, control.VerbCancel, id)
	left := l.depths(room)
	require.Equal(t, journal.Cancelled, job.State)
	require.Equal(t, left[0], *job.CompleteBelow, "it says to which depth it is complete")
	require.EqualValues(t, events-len(left), job.Deleted["events"])
	require.EqualValues(t, events-1, *job.Total)

	// The room is free at once.
	other := l.submit(room, left[0]+2)
	require.Equal(t, journal.Complete, l.ends(other).State)
	require.Equal(t, left[2:], l.depths(room), "the cancelled purge deletes nothing more")
	require.Equal(t, journal.Cancelled, l.ends(id).State)

	l.do(c, control.VerbRetry, id)
	require.NoError(t, l.reconciler().Check(l.Ctx))
	require.Eventually(t, func() bool {
		status, err := l.board.Status(l.Ctx, jobs.PurgeHistory, id)
		return err == nil && status.State == journal.Complete
	}, time.Minute, 20*time.Millisecond, "the board shows a retried job again")
	require.Equal(t, []int64{events}, l.depths(room))
	log, err := c.Log(l.Ctx, id)
	require.NoError(t, err)
	var names []string
	for _, e := range log {
		names = append(names, e.Event)
	}
	require.Equal(t, []string{"queued", "running", "cancel", "cancelled", "retry", "queued", "running", "complete"}, names)
}

func TestCancelWithNoWorkerAlive(t *testing.T) {
	t.Parallel()
	l := setup(t)
	l.chain(room, 20)
	id := l.submit(room, 20)
	l.do(l.operator(), control.VerbCancel, id)
	l.work(WorkerOptions{})
	require.Equal(t, journal.Complete, l.ends(l.submit("!other:x", 1)).State, "the worker has seen the old task by now")
	require.NoError(t, l.reconciler().Check(l.Ctx))
	require.Equal(t, journal.Cancelled, l.Job(id).State)
	require.Len(t, l.depths(room), 20)
}

func TestPauseOfEachScopeStopsARunningJob(t *testing.T) {
	t.Parallel()
	l := setup(t)
	c := l.operator()
	l.work(WorkerOptions{BatchEvents: 1})
	for _, scope := range []string{control.ScopeJob, control.ScopeRoom, control.ScopeKind, control.ScopeAll} {
		t.Run(scope, func(t *testing.T) {
			const events = 200
			room := "!" + scope + ":x"
			l.chain(room, events)
			id := l.submit(room, events)
			l.underWay(room, events)
			value := map[string]string{control.ScopeJob: id, control.ScopeRoom: room, control.ScopeKind: "purge_history", control.ScopeAll: "all"}[scope]
			_, err := c.SetPause(l.Ctx, control.Pause{Scope: scope, Value: value, Who: "@op:x", Reason: "backup"})
			require.NoError(t, err)
			require.Eventually(t, func() bool { return l.Job(id).State == journal.Paused }, time.Minute, time.Millisecond)
			left := l.depths(room)
			require.NotEmpty(t, left)
			require.Contains(t, l.Job(id).WaitsFor, "by @op:x: backup")
			require.Zero(t, l.Job(id).Failures)
			require.NoError(t, l.reconciler().Check(l.Ctx))
			require.Equal(t, journal.Paused, l.Job(id).State)

			l.Exec(`UPDATE lethe.pauses SET until = clock_timestamp()`) // it ends by itself
			require.NoError(t, l.reconciler().Check(l.Ctx))
			require.Eventually(t, func() bool { return l.Job(id).State == journal.Complete }, time.Minute, 5*time.Millisecond)
			require.Equal(t, []int64{events}, l.depths(room))
		})
	}
}

func TestGrace(t *testing.T) {
	t.Parallel()
	l := setup(t)
	l.chain(room, 20)
	l.work(WorkerOptions{})
	request := purgeOf(room, 20)
	request.Grace, request.Reason = time.Hour, "too large"
	id, err := l.client.SubmitPurgeHistory(l.Ctx, request)
	require.NoError(t, err)
	blocking, err := l.client.SubmitDeleteRoom(l.Ctx, DeleteRoom{
		Room: "!other:x", Requester: "@admin:x", Block: true, Acceptance: Acceptance{Grace: time.Hour},
	})
	require.NoError(t, err)
	_, err = l.client.SubmitDeleteRoom(l.Ctx, DeleteRoom{Room: "!other:x", Requester: "@admin:x"})
	require.ErrorIs(t, err, journal.ErrRoomBusy, "it is the room's delete already")
	require.NoError(t, l.reconciler().Check(l.Ctx))
	for _, id := range []string{id, blocking} {
		require.Equal(t, journal.Scheduled, l.Job(id).State)
	}
	require.Len(t, l.depths(room), 20)
	require.Empty(t, storetest.All[string](l.Lab, `SELECT room_id FROM blocked_rooms`))

	// A hold that is placed meanwhile stops it after its grace.
	l.place(room)
	l.Exec(`UPDATE lethe.jobs SET due_at = clock_timestamp()`)
	require.NoError(t, l.reconciler().Check(l.Ctx))
	l.held(id)
	require.Len(t, l.depths(room), 20)
	require.Eventually(t, func() bool { return l.Job(blocking).State == journal.Complete }, time.Minute, 5*time.Millisecond)
	require.Equal(t, []string{"!other:x"}, storetest.All[string](l.Lab, `SELECT room_id FROM blocked_rooms`))
	l.release(room)
	require.Equal(t, journal.Complete, l.ends(id).State)
	require.Equal(t, []int64{20}, l.depths(room))
}

func TestPlanIsCheckedBeforeTheFirstBatch(t *testing.T) {
	t.Parallel()
	l := setup(t)
	drifted := errors.New("the room has drifted by 3 events")
	l.work(WorkerOptions{CheckPlan: func(_ context.Context, job journal.Job) error {
		var plan struct{ Fits bool }
		if err := json.Unmarshal(job.Plan, &plan); err != nil || plan.Fits {
			return err
		}
		return drifted
	}})
	for plan, want := range map[string]journal.State{`{"fits": true}`: journal.Complete, `{"fits": false}`: journal.Failed, ``: journal.Complete} {
		room := "!" + string(want) + plan + ":x"
		l.chain(room, 20)
		request := purgeOf(room, 20)
		request.Plan = json.RawMessage(plan)
		id, err := l.client.SubmitPurgeHistory(l.Ctx, request)
		require.NoError(t, err)
		status := l.ends(id)
		require.Equal(t, want, status.State, plan)
		if want == journal.Failed {
			require.Equal(t, drifted.Error(), status.Error)
			require.Len(t, l.depths(room), 20)
		}
	}
}

// counts are the numbers of rows of all tables of the homeserver's.
func (l *lab) counts() map[string]int64 {
	l.T.Helper()
	counts := map[string]int64{}
	for _, table := range storetest.All[string](l.Lab, `SELECT tablename::text FROM pg_tables WHERE schemaname = 'public'`) {
		counts[table] = storetest.One[int64](l.Lab, `SELECT count(*) FROM `+table)
	}
	return counts
}

// requireCounted compares what a job says that it has deleted with what is gone.
func (l *lab) requireCounted(id string, before map[string]int64, except ...string) {
	l.T.Helper()
	job, err := l.operator().Job(l.Ctx, id)
	require.NoError(l.T, err)
	require.Equal(l.T, journal.Complete, job.State, job.Error)
	gone := map[string]int64{}
	for table, n := range l.counts() {
		if before[table] != n {
			gone[table] = before[table] - n
		}
	}
	for _, table := range except {
		delete(gone, table)
		delete(job.Deleted, table)
	}
	require.Equal(l.T, gone, job.Deleted)
	require.GreaterOrEqual(l.T, len(gone), 5, slices.Collect(maps.Keys(gone)))
}

func TestDeletedRowsAreCountedByTable(t *testing.T) {
	t.Parallel()
	l := setup(t)
	l.work(WorkerOptions{BatchEvents: 7})
	l.Chain(room, "a", 60, 0)
	before := l.counts()
	id := l.submit(room, 40)
	l.ends(id)
	l.requireCounted(id, before, "event_backward_extremities") // a purge adds some, too

	before = l.counts()
	id, err := l.client.SubmitDeleteRoom(l.Ctx, DeleteRoom{Room: room, Requester: "@admin:x", Purge: true, ForcePurge: true})
	require.NoError(t, err)
	require.Eventually(t, func() bool { return l.Job(id).State.Ended() }, time.Minute, 5*time.Millisecond)
	l.requireCounted(id, before)
}

// smallestBatch is the smallest size of a batch of events.
const smallestBatch = 50

// sizes are the sizes of the next batch that the checkpoints of a phase have, in their order.
func (l *lab) sizes(phase string) []int {
	l.T.Helper()
	return storetest.All[int](l.Lab, `
		SELECT (checkpoint ->> 'size')::int FROM aside.checkpoints WHERE checkpoint ->> 'phase' = $1 ORDER BY place`, phase)
}

// A batch that takes longer than it should is followed by a smaller one.
func TestSizeOfABatchFollowsItsTime(t *testing.T) {
	t.Parallel()
	l := setup(t)
	const events = 300
	l.Chain(room, "a", events, 0)
	l.WatchDeletes(`PERFORM pg_sleep(0.005);`) // the first batch of 200 takes ten times as long as it should
	l.noteBatches()
	l.work(WorkerOptions{BatchTime: 100 * time.Millisecond, BatchEvents: 1000})
	id := l.submit(room, events)
	require.Equal(t, journal.Complete, l.ends(id).State)
	sizes := l.sizes(phaseEvents)
	require.NotEmpty(t, sizes)
	require.Equal(t, smallestBatch, sizes[0])
}

// The batches of a delete do, too.
func TestSizeOfADeletesBatchFollowsItsTime(t *testing.T) {
	t.Parallel()
	l := setup(t)
	const events, largest = 300, 200
	l.Chain(room, "a", events, 0)
	l.WatchDeletes(`PERFORM pg_sleep(0.005);`) // a batch of the largest size takes ten times as long as it should
	l.noteBatches()
	l.work(WorkerOptions{BatchTime: 100 * time.Millisecond, BatchEvents: largest})
	id, err := l.client.SubmitDeleteRoom(l.Ctx, DeleteRoom{Room: room, Requester: "@admin:x", Purge: true, ForcePurge: true})
	require.NoError(t, err)
	require.Equal(t, journal.Complete, l.endsAs(jobs.DeleteRoom, id).State)
	require.Contains(t, l.sizes(phasePurging), smallestBatch)
}

func TestCancelBesideSynapseGivesItsLocksUp(t *testing.T) {
	t.Parallel()
	l := setupBeside(t)
	s := l.byStream(time.Millisecond)
	const events = 60
	l.Chain(room, "a", events, 0)
	l.work(WorkerOptions{BatchEvents: 1, MappingDelay: quickly, Synapse: s})
	id := l.submit(room, events)
	l.underWay(room, events)
	c := control.New(storetest.On(t, l.URL).DB)
	l.do(c, control.VerbCancel, id)
	locks := func() int { return storetest.One[int](l.Lab, `SELECT count(*) FROM worker_read_write_locks`) }
	l.soon(func() bool { return locks() == 0 })
	left := l.depths(room)
	l.sweep(s)
	l.soon(func() bool { return l.delayed() == 0 })
	require.Equal(t, left, l.depths(room))
	job, err := c.Job(l.Ctx, id)
	require.NoError(t, err)
	require.EqualValues(t, events-len(left), job.Deleted["event_to_state_groups"], "the mappings that are swept later count for the job")
	require.EqualValues(t, events-len(left), job.Deleted["events"])
}

// A delete leaves locks at Synapse for its next run. If it is cancelled meanwhile, none
// follows.
func TestLocksThatACancelledJobHasLeftAreReleased(t *testing.T) {
	t.Parallel()
	l := setupBeside(t)
	s := l.byStream(time.Millisecond)
	lock := func(id string) {
		held, err := beside.TryLock(l.Ctx, l.DB, beside.RoomLock{Room: room, Token: id, Names: []beside.LockName{beside.NewEventLock}}, time.Second)
		require.NoError(t, err)
		require.True(t, held)
	}
	locks := func() int { return storetest.One[int](l.Lab, `SELECT count(*) FROM worker_read_write_locks`) }
	id := l.submit(room, 1)
	lock(id)
	l.do(control.New(storetest.On(t, l.URL).DB), control.VerbCancel, id)
	require.Zero(t, locks(), "with a role that may")

	id = l.submit(room, 1)
	lock(id)
	l.do(l.operator(), control.VerbCancel, id)
	require.Equal(t, 1, locks(), "with the api's own role")
	l.sweep(s)
	l.soon(func() bool { return locks() == 0 }, "a worker releases them")
}

// Those who look at the queues see the kind and the room of a task, also of one that has
// ended. Tasks of older versions have neither.
func TestTasksTellTheirRoom(t *testing.T) {
	t.Parallel()
	l := setup(t)
	l.client.Keeping(time.Hour)
	l.chain(room, 20)
	id := l.submit(room, 20)
	payload := func(state func(string, ...asynq.ListOption) ([]*asynq.TaskInfo, error)) string {
		tasks, err := state(string(jobs.Default))
		require.NoError(t, err)
		require.Len(t, tasks, 1)
		return string(tasks[0].Payload)
	}
	want := `{"job_id": "` + id + `", "generation": 1, "kind": "purge_history", "room_id": "` + room + `"}`
	require.JSONEq(t, want, payload(l.asynq.ListPendingTasks))
	l.work(WorkerOptions{})
	require.Equal(t, journal.Complete, l.ends(id).State)
	require.Eventually(t, func() bool {
		tasks, err := l.asynq.ListCompletedTasks(string(jobs.Default))
		return err == nil && len(tasks) == 1
	}, time.Minute, 10*time.Millisecond)
	require.JSONEq(t, want, payload(l.asynq.ListCompletedTasks))
	old, err := dispatch.Decode(asynq.NewTask("purge_history", []byte(`{"job_id": "`+id+`", "generation": 3}`)))
	require.NoError(t, err)
	require.Equal(t, dispatch.Task{JobID: id, Generation: 3}, old)
}
