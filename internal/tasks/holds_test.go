package tasks

import (
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"lethe/internal/dispatch"
	"lethe/internal/jobs"
	"lethe/internal/retention"
	"lethe/internal/store/journal"
	"lethe/internal/store/storetest"
)

func (l *lab) place(room string) {
	l.T.Helper()
	_, err := l.Holds.Place(l.Ctx, room, "case 7", "@counsel:x")
	require.NoError(l.T, err)
}

func (l *lab) release(room string) {
	l.T.Helper()
	_, err := l.Holds.Release(l.Ctx, room, "@counsel:x")
	require.NoError(l.T, err)
	require.NoError(l.T, l.reconciler().Check(l.Ctx))
}

// held waits until the job waits for the end of a hold.
func (l *lab) held(id string) journal.Job {
	l.T.Helper()
	require.Eventually(l.T, func() bool { return l.Job(id).State == journal.Held }, time.Minute, 5*time.Millisecond)
	return l.Job(id)
}

// rows are how many rows each table has of the room, those of our own too.
func (l *lab) rows(room string) map[string]int {
	l.T.Helper()
	counts := map[string]int{}
	for _, table := range storetest.All[string](l.Lab, `
		SELECT format('%I.%I', table_schema, table_name) FROM information_schema.columns
		WHERE table_schema = 'public' AND column_name = 'room_id' AND table_name NOT LIKE 'lethe%'`) {
		counts[table] = storetest.All[int](l.Lab, `SELECT count(*) FROM `+table+` WHERE room_id = $1`, room)[0]
	}
	return counts
}

// Once a hold is placed, at any time, nothing of the room is deleted. After its
// release the purge goes on.
func TestHoldStopsAPurgeAtAnyBatch(t *testing.T) {
	t.Parallel()
	l := setup(t)
	const events = 120
	l.chain(room, events)
	l.work(WorkerOptions{BatchEvents: 1})
	id := l.submit(room, events)
	var stopped int
	for hold := range 8 {
		// A random number of batches after the last.
		below := len(l.depths(room)) - rand.IntN(12)
		require.Eventually(t, func() bool {
			return len(l.depths(room)) <= below || journal.State(l.Job(id).State).Ended()
		}, time.Minute, time.Millisecond)
		l.place(room)
		left := l.depths(room)
		if journal.State(l.Job(id).State).Ended() {
			break
		}
		job := l.held(id)
		stopped++
		require.Equal(t, left, l.depths(room), "hold %d", hold)
		require.Zero(t, job.Failures)
		require.Eventually(t, func() bool {
			status, err := l.board.Status(l.Ctx, jobs.PurgeHistory, id)
			return err == nil && status.State == journal.Held
		}, time.Minute, 5*time.Millisecond)

		// No worker takes it, and it has no task that would return again and again.
		require.NoError(t, l.reconciler().Check(l.Ctx))
		require.Equal(t, job.Attempt, l.Job(id).Attempt)
		require.Equal(t, journal.Held, l.Job(id).State)
		_, err := l.asynq.GetTaskInfo(string(jobs.Default), dispatch.TaskID(id, job.Generation+1))
		require.Error(t, err)
		require.Equal(t, left, l.depths(room))
		l.release(room)
	}
	require.GreaterOrEqual(t, stopped, 3)
	if _, err := l.Holds.Of(l.Ctx, room); err == nil {
		l.release(room)
	}
	require.Equal(t, journal.Complete, l.ends(id).State)
	require.Equal(t, []int64{events}, l.depths(room))
}

func TestHoldStopsADeleteAtAnyBatch(t *testing.T) {
	t.Parallel()
	l := setup(t)
	users := l.furnish(room, 12)
	l.place(room)
	id := l.delete(room, func(d *DeleteRoom) { d.Block = true })
	whole := l.rows(room)
	l.work(WorkerOptions{BatchEvents: 1})
	l.held(id)
	require.Equal(t, whole, l.rows(room))
	require.Equal(t, users, l.joined(room), "nor is it shut down")
	require.Empty(t, l.blocker(room))
	l.release(room)

	var stopped int
	for range 12 {
		before := l.checkpoint(id).Batches + int64(rand.IntN(4))
		require.Eventually(t, func() bool {
			return l.checkpoint(id).Batches > before || journal.State(l.Job(id).State).Ended()
		}, time.Minute, time.Millisecond)
		l.place(room)
		left := l.rows(room)
		if journal.State(l.Job(id).State).Ended() {
			break
		}
		// The last batch may have been the one before the hold.
		require.Eventually(t, func() bool {
			state := journal.State(l.Job(id).State)
			return state == journal.Held || state.Ended()
		}, time.Minute, time.Millisecond)
		require.Equal(t, left, l.rows(room))
		if journal.State(l.Job(id).State).Ended() {
			break
		}
		stopped++
		l.release(room)
	}
	require.GreaterOrEqual(t, stopped, 2)
	if _, err := l.Holds.Of(l.Ctx, room); err == nil {
		l.release(room)
	}
	status, result := l.deleteEnds(id)
	require.Equal(t, journal.Complete, status.State, status.Error)
	require.ElementsMatch(t, users, result.KickedUsers)
	l.gone(room)
}

func TestSweepSkipsHeldRooms(t *testing.T) {
	t.Parallel()
	l := setup(t)
	l.arrive(slices.Concat(steps("!held:x", 9, 8, 7, 0), steps("!kept:x", 9, 8), steps("!open:x", 9, 8, 7, 0))...)
	l.policy("!kept:x", nil, 50*day)
	rules := keeping(5 * day)
	longest := 9 * day
	rules.Jobs = []retention.Job{{Name: "all", LongestMaxLifetime: &longest}}
	l.place("!held:x")
	l.place("!kept:x")
	l.work(WorkerOptions{Retention: rules})
	got := l.swept(l.sweep("all"))
	want := sweepResult{Rooms: 3, Enqueued: 1}
	want.Skipped.Held, want.Skipped.OtherJob = 1, 1
	require.Equal(t, want, got)
	require.Equal(t, []string{"!open:x"}, l.purged())
	require.Equal(t, []int64{1, 2, 3, 4}, l.depths("!held:x"))

	l.release("!held:x")
	got = l.swept(l.sweep("all"))
	require.EqualValues(t, 1, got.Enqueued)
	require.Equal(t, []int64{3, 4}, l.depths("!held:x"))
}
