package journal_test

import (
	"context"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"lethe/internal/store/journal"
	"lethe/internal/store/postgres"
	"lethe/internal/store/purge"
	"lethe/internal/store/storetest"
)

func TestFencesOfARoomGrow(t *testing.T) {
	t.Parallel()
	l := storetest.New(t)
	const callers, each = 8, 25
	given := make([][]int64, callers)
	var group sync.WaitGroup
	for i := range given {
		group.Go(func() {
			for range each {
				fence, err := l.Journal.NextFence(l.Ctx, room)
				if err != nil {
					t.Error(err)
					return
				}
				given[i] = append(given[i], fence)
			}
		})
	}
	group.Wait()
	for _, fences := range given {
		require.True(t, slices.IsSorted(fences))
	}
	together := slices.Concat(given...)
	slices.Sort(together)
	require.Len(t, slices.Compact(together), callers*each)

	// A token that a crash of the server took from its row is not given out again.
	before, err := l.Journal.NextFence(l.Ctx, "!other:x")
	require.NoError(t, err)
	for _, lost := range []string{`UPDATE lethe.room_fences SET fence = 1`, `DELETE FROM lethe.room_fences`} {
		l.Exec(lost)
		fence, err := l.Journal.NextFence(l.Ctx, "!other:x")
		require.NoError(t, err)
		require.Greater(t, fence, before)
		before = fence
	}
	// Nor does a clock that was put back.
	l.Exec(`UPDATE lethe.room_fences SET fence = fence + 3600000000`)
	ahead := storetest.One[int64](l, `SELECT fence FROM lethe.room_fences WHERE room_id = '!other:x'`)
	fence, err := l.Journal.NextFence(l.Ctx, "!other:x")
	require.NoError(t, err)
	require.Equal(t, ahead+1, fence)
}

// A new owner's token comes after the old owner's last commit, and the old owner
// commits nothing after it.
func TestNextFenceWaitsForTheBatchInProgress(t *testing.T) {
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
		_, err := l.PurgeBatchWith(batch, 4, 1, func(purge.HistoryBatch) any {
			close(inside)
			<-goOn
			return nil
		})
		if err != nil {
			t.Error(err)
		}
	})
	<-inside
	fenced := make(chan int64, 1)
	group.Go(func() {
		fence, err := l.Journal.NextFence(l.Ctx, room)
		if err != nil {
			t.Error(err)
		}
		fenced <- fence
	})
	l.RequireLockWait()
	_, err := l.Journal.NextFence(l.Ctx, "!other:x")
	require.NoError(t, err, "another room's owner does not wait")
	require.Empty(t, fenced)
	require.Len(t, l.Timeline(room), 5)

	release()
	newest := <-fenced
	require.Greater(t, newest, batch.Fence)
	require.Equal(t, []string{"$2", "$3", "$4", "$5"}, l.Timeline(room))
	l.RequireUnchanged(func() {
		_, err := l.PurgeBatch(batch, 4, 1)
		require.ErrorIs(t, err, journal.ErrFenced)
	})
	batch.Fence = newest
	_, err = l.PurgeBatch(batch, 4, 1)
	require.NoError(t, err)
}

func TestBatchWithoutTheNewestFenceChangesNothing(t *testing.T) {
	t.Parallel()
	l := storetest.New(t)
	l.Chain(room, "", 3, 0)
	batch := l.Work(room)
	for _, fence := range []int64{batch.Fence - 1, batch.Fence + 1, 0, -1} {
		stale := batch
		stale.Fence = fence
		l.RequireUnchanged(func() {
			_, err := l.PurgeBatch(stale, 3, 9)
			require.ErrorIs(t, err, journal.ErrFenced)
		})
	}
	stranger := batch
	stranger.Room = "!never locked:x"
	l.RequireUnchanged(func() {
		_, err := l.PurgeBatch(stranger, 3, 9)
		require.ErrorIs(t, err, journal.ErrFenced)
	})
}

// A batch waits for a new token that is being taken, and is then refused.
func TestBatchWaitsForTheBumpInProgress(t *testing.T) {
	t.Parallel()
	l := storetest.New(t)
	l.Chain(room, "", 3, 0)
	batch := l.Work(room)
	tx, err := l.Conn.Begin(l.Ctx)
	require.NoError(t, err)
	l.Exec(`UPDATE lethe.room_fences SET fence = fence + 1`)
	refused := make(chan error, 1)
	go func() {
		_, err := l.PurgeBatch(batch, 3, 9)
		refused <- err
	}()
	l.RequireLockWait()
	require.NoError(t, tx.Commit(l.Ctx))
	require.ErrorIs(t, <-refused, journal.ErrFenced)
	require.Len(t, l.Timeline(room), 3)
}

// A new owner waits for the old one's batch no longer than that may take.
func TestNextFenceDoesNotWaitForEver(t *testing.T) {
	t.Parallel()
	l := storetest.New(t)
	_, err := l.Journal.NextFence(l.Ctx, room)
	require.NoError(t, err)
	other, err := pgx.Connect(l.Ctx, l.URL)
	require.NoError(t, err)
	defer func() { _ = other.Close(l.Ctx) }()
	_, err = other.Exec(l.Ctx, `BEGIN; SELECT FROM lethe.room_fences FOR SHARE`)
	require.NoError(t, err)
	ctx, cancel := context.WithTimeout(l.Ctx, 25*time.Second)
	defer cancel()
	begun := time.Now()
	_, err = l.Journal.NextFence(ctx, room)
	require.True(t, postgres.IsLocked(err), "%v", err)
	require.Greater(t, time.Since(begun), 14*time.Second, "the bound of the session is shorter than a batch")
}
