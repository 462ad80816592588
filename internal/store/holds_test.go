package store_test

import (
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"lethe/internal/store"
)

func TestHoldsAreKeptAsAJournal(t *testing.T) {
	t.Parallel()
	l := setup(t)
	_, err := l.store.ReleaseHold(l.ctx, room, "@b:x")
	require.ErrorIs(t, err, store.ErrNotFound)
	_, err = l.store.Hold(l.ctx, room)
	require.ErrorIs(t, err, store.ErrNotFound)
	require.NoError(t, l.store.CheckHold(l.ctx, room))

	first, err := l.store.PlaceHold(l.ctx, room, "case 1\x00", "@a:x")
	require.NoError(t, err)
	require.Equal(t, "case 1\uFFFD", first.Reason)
	require.WithinDuration(t, time.Now(), first.PlacedAt, time.Minute)
	require.True(t, first.ReleasedAt.IsZero())
	same, err := l.store.PlaceHold(l.ctx, room, "case 1\x00", "@c:x")
	require.NoError(t, err)
	require.Equal(t, first, same)
	other, err := l.store.PlaceHold(l.ctx, room, "case 2", "@c:x")
	require.ErrorIs(t, err, store.ErrExists, "or its release would be the end of both")
	require.Equal(t, first, other)
	require.ErrorContains(t, l.store.CheckHold(l.ctx, room), "may be deleted: case 1")
	require.NoError(t, l.store.CheckHold(l.ctx, "!other:x"))

	released, err := l.store.ReleaseHold(l.ctx, room, "@b:x")
	require.NoError(t, err)
	require.Equal(t, "@b:x", released.ReleasedBy)
	require.False(t, released.ReleasedAt.Before(released.PlacedAt))
	_, err = l.store.ReleaseHold(l.ctx, room, "@b:x")
	require.ErrorIs(t, err, store.ErrNotFound)
	second, err := l.store.PlaceHold(l.ctx, room, "case 2", "@c:x")
	require.NoError(t, err)

	open, err := l.store.Holds(l.ctx, false, 9)
	require.NoError(t, err)
	require.Equal(t, []store.Hold{second}, open)
	every, err := l.store.Holds(l.ctx, true, 9)
	require.NoError(t, err)
	require.Equal(t, []store.Hold{second, released}, every)
	newest, err := l.store.Holds(l.ctx, true, 1)
	require.NoError(t, err)
	require.Equal(t, []store.Hold{second}, newest)
	for _, hostile := range []string{"", "\x00", "\xff"} {
		_, err := l.store.PlaceHold(l.ctx, hostile, "r", "@a:x")
		require.ErrorIs(t, err, store.ErrNotFound)
		_, err = l.store.Hold(l.ctx, hostile)
		require.ErrorIs(t, err, store.ErrNotFound)
	}
}

// A batch that began before the hold was placed is over when it has been, and no
// other commits.
func TestPlaceHoldWaitsForTheBatchInProgress(t *testing.T) {
	t.Parallel()
	l := setup(t)
	l.chain(room, "", 5, 0)
	batch := l.begin(room)
	inside, goOn := make(chan struct{}), make(chan struct{})
	release := sync.OnceFunc(func() { close(goOn) })
	var group sync.WaitGroup
	defer group.Wait()
	defer release()
	group.Go(func() {
		if _, err := l.batchWith(batch, 4, 1, func(store.HistoryBatch) any {
			close(inside)
			<-goOn
			return nil
		}); err != nil {
			t.Error(err)
		}
	})
	<-inside
	placed := make(chan error, 1)
	group.Go(func() {
		_, err := l.store.PlaceHold(l.ctx, room, "why", "@a:x")
		placed <- err
	})
	l.waits()
	_, err := l.store.PlaceHold(l.ctx, "!other:x", "why", "@a:x")
	require.NoError(t, err, "another room's hold does not wait")
	require.Empty(t, placed)
	require.Len(t, l.timeline(room), 5)

	release()
	require.NoError(t, <-placed)
	require.Equal(t, []string{"$2", "$3", "$4", "$5"}, l.timeline(room))
	l.unchanged(func() {
		_, err := l.batch(batch, 4, 1)
		require.ErrorIs(t, err, store.ErrHeld)
		require.ErrorContains(t, err, "why")
		require.ErrorIs(t, l.store.MoveCheckpoint(l.ctx, batch, nil), store.ErrHeld)
	})
	_, err = l.store.ReleaseHold(l.ctx, room, "@a:x")
	require.NoError(t, err)
	_, err = l.batch(batch, 4, 1)
	require.NoError(t, err)
}

// A batch that comes while the hold is being placed waits for it, and then sees it:
// the snapshot by which it looks is not older than its wait.
func TestBatchSeesAHoldThatItWaitedFor(t *testing.T) {
	t.Parallel()
	l := setup(t)
	l.chain(room, "", 5, 0)
	batch := l.begin(room)
	var group sync.WaitGroup
	defer group.Wait()
	tx, err := l.conn.Begin(l.ctx)
	require.NoError(t, err)
	// As PlaceHold does.
	_, err = tx.Exec(l.ctx, `UPDATE lethe.room_fences SET fence = fence WHERE room_id = $1`, room)
	require.NoError(t, err)
	result := make(chan error, 1)
	group.Go(func() {
		_, err := l.batch(batch, 4, 9)
		result <- err
	})
	l.waits()
	_, err = tx.Exec(l.ctx, `INSERT INTO lethe.holds (room_id, reason, placed_by) VALUES ($1, 'r', '@a:x')`, room)
	require.NoError(t, err)
	require.NoError(t, tx.Commit(l.ctx))
	require.ErrorIs(t, <-result, store.ErrHeld)
	require.Len(t, l.timeline(room), 5)
}

// What deletes from a room but a job's batch.
func TestHeldRoomKeepsItsForwardExtremities(t *testing.T) {
	t.Parallel()
	l := setup(t)
	l.chain(room, "", 5, 0)
	l.exec(`INSERT INTO event_forward_extremities VALUES ('$3', $1)`, room)
	_, err := l.store.PlaceHold(l.ctx, room, "r", "@a:x")
	require.NoError(t, err)
	l.unchanged(func() {
		_, err := l.store.DeleteForwardExtremities(l.ctx, room)
		require.ErrorIs(t, err, store.ErrHeld)
	})
}

func TestHeldJobWaitsAndKeepsItsPlace(t *testing.T) {
	t.Parallel()
	l := setup(t)
	low := newJob("LowPurgeLowPurge", room)
	low.Queue = store.LowQueue
	gone := newJob("DeleteRoomDelete", room)
	gone.Kind = "delete_room"
	for _, job := range []store.Job{low, gone} {
		require.NoError(t, l.store.InsertJob(l.ctx, job, false))
		run := l.claim(job.ID)
		require.NoError(t, l.store.HoldJob(l.ctx, run))
		require.ErrorIs(t, l.store.HoldJob(l.ctx, run), store.ErrSuperseded)
		_, err := l.store.ClaimJob(l.ctx, job.ID, 1, 0, 0)
		require.ErrorIs(t, err, store.ErrSuperseded)
	}
	again := low
	again.ID = "LowPurgeLowPurgE"
	require.ErrorIs(t, l.store.InsertJob(l.ctx, again, false), store.ErrRoomBusy)
	again = gone
	again.ID = "DeleteRoomDeletE"
	require.ErrorIs(t, l.store.InsertJob(l.ctx, again, false), store.ErrRoomBusy)
	require.ErrorIs(t, l.store.InsertJob(l.ctx, newJob("AloneAloneAloneA", room), true), store.ErrRoomBusy)
	open, err := l.store.OpenJob(l.ctx, "delete_room", room)
	require.NoError(t, err)
	require.Equal(t, store.JobHeld, open.State)
	count, err := l.store.OpenLowJobs(l.ctx)
	require.NoError(t, err)
	require.Zero(t, count, "or the held would fill the queue")

	// The reconciler's other looks leave it alone.
	stale, err := l.store.ReleaseStale(l.ctx, 0, 9, 9)
	require.NoError(t, err)
	missing, err := l.store.RequeueMissing(l.ctx, 0, 9)
	require.NoError(t, err)
	require.Empty(t, append(stale, missing...))

	_, err = l.store.PlaceHold(l.ctx, room, "r", "@a:x")
	require.NoError(t, err)
	resumed, err := l.store.ResumeHeld(l.ctx, 9)
	require.NoError(t, err)
	require.Empty(t, resumed)
	_, err = l.store.ReleaseHold(l.ctx, room, "@a:x")
	require.NoError(t, err)
	resumed, err = l.store.ResumeHeld(l.ctx, 1)
	require.NoError(t, err)
	require.Len(t, resumed, 1)
	more, err := l.store.ResumeHeld(l.ctx, 9)
	require.NoError(t, err)
	for _, job := range append(resumed, more...) {
		require.Equal(t, store.JobQueued, job.State)
		require.Equal(t, 2, job.Generation)
		require.Zero(t, job.Failures)
	}
	missing, err = l.store.RequeueMissing(l.ctx, time.Hour, 9)
	require.NoError(t, err)
	require.Len(t, missing, 2, "they get a task at once")
	require.Equal(t, 2, missing[0].Generation)
}
