package store_test

import (
	"slices"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"lethe/internal/store"
)

func TestFencesOfARoomGrow(t *testing.T) {
	t.Parallel()
	l := setup(t)
	const callers, each = 8, 25
	given := make([][]int64, callers)
	var group sync.WaitGroup
	for i := range given {
		group.Go(func() {
			for range each {
				fence, err := l.store.NextFence(l.ctx, room)
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
	before, err := l.store.NextFence(l.ctx, "!other:x")
	require.NoError(t, err)
	for _, lost := range []string{`UPDATE lethe.room_fences SET fence = 1`, `DELETE FROM lethe.room_fences`} {
		l.exec(lost)
		fence, err := l.store.NextFence(l.ctx, "!other:x")
		require.NoError(t, err)
		require.Greater(t, fence, before)
		before = fence
	}
	// Nor does a clock that was put back.
	l.exec(`UPDATE lethe.room_fences SET fence = fence + 3600000000`)
	ahead := one[int64](l, `SELECT fence FROM lethe.room_fences WHERE room_id = '!other:x'`)
	fence, err := l.store.NextFence(l.ctx, "!other:x")
	require.NoError(t, err)
	require.Equal(t, ahead+1, fence)
}

// A new owner's token comes after the old owner's last commit, and no commit of
// his comes after the token.
func TestNextFenceWaitsForTheBatchInProgress(t *testing.T) {
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
		_, err := l.batchWith(batch, 4, 1, func(store.HistoryBatch) any {
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
		fence, err := l.store.NextFence(l.ctx, room)
		if err != nil {
			t.Error(err)
		}
		fenced <- fence
	})
	l.waits()
	_, err := l.store.NextFence(l.ctx, "!other:x")
	require.NoError(t, err, "another room's owner does not wait")
	require.Empty(t, fenced)
	require.Len(t, l.timeline(room), 5)

	release()
	newest := <-fenced
	require.Greater(t, newest, batch.Fence)
	require.Equal(t, []string{"$2", "$3", "$4", "$5"}, l.timeline(room))
	l.unchanged(func() {
		_, err := l.batch(batch, 4, 1)
		require.ErrorIs(t, err, store.ErrFenced)
	})
	batch.Fence = newest
	_, err = l.batch(batch, 4, 1)
	require.NoError(t, err)
}

func TestBatchWithoutTheNewestFenceChangesNothing(t *testing.T) {
	t.Parallel()
	l := setup(t)
	l.chain(room, "", 3, 0)
	batch := l.begin(room)
	for _, fence := range []int64{batch.Fence - 1, batch.Fence + 1, 0, -1} {
		stale := batch
		stale.Fence = fence
		l.unchanged(func() {
			_, err := l.batch(stale, 3, 9)
			require.ErrorIs(t, err, store.ErrFenced)
		})
	}
	stranger := batch
	stranger.Room = "!never locked:x"
	l.unchanged(func() {
		_, err := l.batch(stranger, 3, 9)
		require.ErrorIs(t, err, store.ErrFenced)
	})
}

// The batch that meets a bump in progress waits for it, and is then refused.
func TestBatchWaitsForTheBumpInProgress(t *testing.T) {
	t.Parallel()
	l := setup(t)
	l.chain(room, "", 3, 0)
	batch := l.begin(room)
	tx, err := l.conn.Begin(l.ctx)
	require.NoError(t, err)
	l.exec(`UPDATE lethe.room_fences SET fence = fence + 1`)
	refused := make(chan error, 1)
	go func() {
		_, err := l.batch(batch, 3, 9)
		refused <- err
	}()
	l.waits()
	require.NoError(t, tx.Commit(l.ctx))
	require.ErrorIs(t, <-refused, store.ErrFenced)
	require.Len(t, l.timeline(room), 3)
}
