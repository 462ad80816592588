package journal_test

import (
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"lethe/internal/store/journal"
	"lethe/internal/store/postgres"
	"lethe/internal/store/purge"
	"lethe/internal/store/storetest"
)

func TestHoldsAreKeptAsAJournal(t *testing.T) {
	t.Parallel()
	l := storetest.New(t)
	_, err := l.Holds.Release(l.Ctx, room, "@b:x")
	require.ErrorIs(t, err, postgres.ErrNotFound)
	_, err = l.Holds.Of(l.Ctx, room)
	require.ErrorIs(t, err, postgres.ErrNotFound)
	require.NoError(t, l.Holds.Check(l.Ctx, room))

	first, err := l.Holds.Place(l.Ctx, room, "case 1\x00", "@a:x")
	require.NoError(t, err)
	require.Equal(t, "case 1\uFFFD", first.Reason)
	require.WithinDuration(t, time.Now(), first.PlacedAt, time.Minute)
	require.True(t, first.ReleasedAt.IsZero())
	same, err := l.Holds.Place(l.Ctx, room, "case 1\x00", "@c:x")
	require.NoError(t, err)
	require.Equal(t, first, same)
	other, err := l.Holds.Place(l.Ctx, room, "case 2", "@c:x")
	require.ErrorIs(t, err, journal.ErrExists, "or its release would be the end of both")
	require.Equal(t, first, other)
	require.ErrorContains(t, l.Holds.Check(l.Ctx, room), "may be deleted: case 1")
	require.NoError(t, l.Holds.Check(l.Ctx, "!other:x"))

	released, err := l.Holds.Release(l.Ctx, room, "@b:x")
	require.NoError(t, err)
	require.Equal(t, "@b:x", released.ReleasedBy)
	require.False(t, released.ReleasedAt.Before(released.PlacedAt))
	_, err = l.Holds.Release(l.Ctx, room, "@b:x")
	require.ErrorIs(t, err, postgres.ErrNotFound)
	second, err := l.Holds.Place(l.Ctx, room, "case 2", "@c:x")
	require.NoError(t, err)

	open, err := l.Holds.List(l.Ctx, false, 9)
	require.NoError(t, err)
	require.Equal(t, []journal.Hold{second}, open)
	every, err := l.Holds.List(l.Ctx, true, 9)
	require.NoError(t, err)
	require.Equal(t, []journal.Hold{second, released}, every)
	newest, err := l.Holds.List(l.Ctx, true, 1)
	require.NoError(t, err)
	require.Equal(t, []journal.Hold{second}, newest)
	for _, hostile := range []string{"", "\x00", "\xff"} {
		_, err := l.Holds.Place(l.Ctx, hostile, "r", "@a:x")
		require.ErrorIs(t, err, postgres.ErrNotFound)
		_, err = l.Holds.Of(l.Ctx, hostile)
		require.ErrorIs(t, err, postgres.ErrNotFound)
	}
}

// A batch that began before the hold has ended when the hold is placed, and no other
// batch commits.
func TestPlaceHoldWaitsForTheBatchInProgress(t *testing.T) {
	t.Parallel()
	l := storetest.New(t)
	l.Chain(room, "", 5, 0)
	batch := l.Work(room)
	inside, goOn := make(chan struct{}), make(chan struct{})
	release := sync.OnceFunc(func() { close(goOn) })
	var group sync.WaitGroup
	defer group.Wait()
	defer release()
	group.Go(func() {
		if _, err := l.PurgeBatchWith(batch, 4, 1, func(purge.HistoryBatch) any {
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
		_, err := l.Holds.Place(l.Ctx, room, "why", "@a:x")
		placed <- err
	})
	l.RequireLockWait()
	_, err := l.Holds.Place(l.Ctx, "!other:x", "why", "@a:x")
	require.NoError(t, err, "another room's hold does not wait")
	require.Empty(t, placed)
	require.Len(t, l.Timeline(room), 5)

	release()
	require.NoError(t, <-placed)
	require.Equal(t, []string{"$2", "$3", "$4", "$5"}, l.Timeline(room))
	l.RequireUnchanged(func() {
		_, err := l.PurgeBatch(batch, 4, 1)
		require.ErrorIs(t, err, journal.ErrHeld)
		require.ErrorContains(t, err, "why")
		require.ErrorIs(t, l.InBatch(batch, func(*journal.Batch) (any, error) { return nil, nil }), journal.ErrHeld)
	})
	_, err = l.Holds.Release(l.Ctx, room, "@a:x")
	require.NoError(t, err)
	_, err = l.PurgeBatch(batch, 4, 1)
	require.NoError(t, err)
}

// A batch that begins while a hold is being placed waits for the hold, and then sees
// it: its check has a snapshot from after the wait.
func TestBatchSeesAHoldThatItWaitedFor(t *testing.T) {
	t.Parallel()
	l := storetest.New(t)
	l.Chain(room, "", 5, 0)
	batch := l.Work(room)
	var group sync.WaitGroup
	defer group.Wait()
	tx, err := l.Conn.Begin(l.Ctx)
	require.NoError(t, err)
	// As PlaceHold does.
	_, err = tx.Exec(l.Ctx, `UPDATE lethe.room_fences SET fence = fence WHERE room_id = $1`, room)
	require.NoError(t, err)
	result := make(chan error, 1)
	group.Go(func() {
		_, err := l.PurgeBatch(batch, 4, 9)
		result <- err
	})
	l.RequireLockWait()
	_, err = tx.Exec(l.Ctx, `INSERT INTO lethe.holds (room_id, reason, placed_by) VALUES ($1, 'r', '@a:x')`, room)
	require.NoError(t, err)
	require.NoError(t, tx.Commit(l.Ctx))
	require.ErrorIs(t, <-result, journal.ErrHeld)
	require.Len(t, l.Timeline(room), 5)
}

// Deleting forward extremities is the only delete that is not a job's batch.
func TestHeldRoomKeepsItsForwardExtremities(t *testing.T) {
	t.Parallel()
	l := storetest.New(t)
	l.Chain(room, "", 5, 0)
	l.Exec(`INSERT INTO event_forward_extremities VALUES ('$3', $1)`, room)
	_, err := l.Holds.Place(l.Ctx, room, "r", "@a:x")
	require.NoError(t, err)
	l.RequireUnchanged(func() {
		_, err := l.Admin.DeleteForwardExtremities(l.Ctx, room)
		require.ErrorIs(t, err, journal.ErrHeld)
	})
}

func TestHeldJobWaitsAndKeepsItsPlace(t *testing.T) {
	t.Parallel()
	l := storetest.New(t)
	low := storetest.NewJob("LowPurgeLowPurge", room)
	low.Queue = journal.LowQueue
	gone := storetest.NewJob("DeleteRoomDelete", room)
	gone.Kind = "delete_room"
	for _, job := range []journal.Job{low, gone} {
		require.NoError(t, l.Journal.InsertJob(l.Ctx, job, false))
		run := l.Claim(job.ID)
		require.NoError(t, l.Journal.HoldJob(l.Ctx, run))
		require.ErrorIs(t, l.Journal.HoldJob(l.Ctx, run), journal.ErrSuperseded)
		_, err := l.Journal.ClaimJob(l.Ctx, job.ID, 1, 0, 0)
		require.ErrorIs(t, err, journal.ErrSuperseded)
	}
	again := low
	again.ID = "LowPurgeLowPurgE"
	require.ErrorIs(t, l.Journal.InsertJob(l.Ctx, again, false), journal.ErrRoomBusy)
	again = gone
	again.ID = "DeleteRoomDeletE"
	require.ErrorIs(t, l.Journal.InsertJob(l.Ctx, again, false), journal.ErrRoomBusy)
	require.ErrorIs(t, l.Journal.InsertJob(l.Ctx, storetest.NewJob("AloneAloneAloneA", room), true), journal.ErrRoomBusy)
	open, err := l.Journal.OpenJob(l.Ctx, "delete_room", room)
	require.NoError(t, err)
	require.Equal(t, journal.Held, open.State)
	count, err := l.Journal.OpenLowJobs(l.Ctx)
	require.NoError(t, err)
	require.Zero(t, count, "or the held would fill the queue")
	waiting := low
	waiting.ID, waiting.Room = "WaitingWaitingWa", "!waiting:x"
	require.NoError(t, l.Journal.InsertJob(l.Ctx, waiting, false))
	for phase, want := range map[string]int{"events": 1, "mappings": 0, "state_groups": 1} {
		l.Exec(`UPDATE lethe.jobs SET checkpoint = jsonb_build_object('phase', $1::text) WHERE id = $2`, phase, waiting.ID)
		count, err = l.Journal.OpenLowJobs(l.Ctx)
		require.NoError(t, err)
		require.Equal(t, want, count, "%s: or a sweep would wait for the delay of mappings", phase)
	}
	l.Exec(`DELETE FROM lethe.jobs WHERE id = $1`, waiting.ID)

	// The reconciler's other looks leave it alone.
	stale, err := l.Journal.ReleaseStale(l.Ctx, 0, 9, 9)
	require.NoError(t, err)
	missing, err := l.Journal.RequeueMissing(l.Ctx, 0, 9)
	require.NoError(t, err)
	require.Empty(t, append(stale, missing...))

	_, err = l.Holds.Place(l.Ctx, room, "r", "@a:x")
	require.NoError(t, err)
	resumed, err := l.Journal.ResumeHeld(l.Ctx, 9)
	require.NoError(t, err)
	require.Empty(t, resumed)
	_, err = l.Holds.Release(l.Ctx, room, "@a:x")
	require.NoError(t, err)
	resumed, err = l.Journal.ResumeHeld(l.Ctx, 1)
	require.NoError(t, err)
	require.Len(t, resumed, 1)
	more, err := l.Journal.ResumeHeld(l.Ctx, 9)
	require.NoError(t, err)
	for _, job := range append(resumed, more...) {
		require.Equal(t, journal.Queued, job.State)
		require.Equal(t, 2, job.Generation)
		require.Zero(t, job.Failures)
	}
	missing, err = l.Journal.RequeueMissing(l.Ctx, time.Hour, 9)
	require.NoError(t, err)
	require.Len(t, missing, 2, "they get a task at once")
	require.Equal(t, 2, missing[0].Generation)
}
