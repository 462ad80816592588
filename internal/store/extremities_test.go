package store_test

import (
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"lethe/internal/devstack/devstacktest"
	"lethe/internal/store"
)

// A purge judges by all forward extremities which events may go. Were all but
// one of them deleted in the middle of its batch, that one could go too.
func TestForwardExtremitiesAreNotDeletedDuringABatch(t *testing.T) {
	t.Parallel()
	l := setup(t)
	l.chain(room, "", 5, 0)
	l.exec(`INSERT INTO rooms (room_id) VALUES ($1) ON CONFLICT DO NOTHING`, room)
	l.exec(`INSERT INTO event_forward_extremities (event_id, room_id) VALUES ('$4', $1), ('$5', $1) ON CONFLICT DO NOTHING`, room)
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
	deleted := make(chan int64, 1)
	group.Go(func() {
		n, err := l.store.DeleteForwardExtremities(l.ctx, room)
		if err != nil {
			t.Error(err)
		}
		deleted <- n
	})
	l.waits()
	_, err := l.store.DeleteForwardExtremities(l.ctx, "!other:x")
	require.ErrorIs(t, err, store.ErrNotFound, "another room does not wait")
	require.Empty(t, deleted)

	release()
	require.EqualValues(t, 1, <-deleted)
	extremities := all[string](l, `SELECT event_id FROM event_forward_extremities WHERE room_id = $1`, room)
	require.Equal(t, []string{"$5"}, extremities)
	require.Equal(t, batch.Fence, one[int64](l, `SELECT fence FROM lethe.room_fences WHERE room_id = $1`, room),
		"the room's owner still owns it")
}

// Neither asks for more than an operator may grant, nor leaves a trace of a room
// that is not known.
func TestForwardExtremitiesAsPlainRole(t *testing.T) {
	t.Parallel()
	l := setup(t)
	l.chain(room, "", 3, 0)
	l.exec(`INSERT INTO rooms (room_id) VALUES ($1) ON CONFLICT DO NOTHING`, room)
	l.exec(`INSERT INTO event_forward_extremities (event_id, room_id) VALUES ('$2', $1), ('$3', $1) ON CONFLICT DO NOTHING`, room)
	plain, err := store.Open(l.ctx, devstacktest.AsPlainRole(t, l.url), store.Options{})
	require.NoError(t, err)
	t.Cleanup(plain.Close)
	l.unchanged(func() {
		for _, unknown := range []string{"", "!nobody:x", "!a\x00:x", "\xff"} {
			_, err := plain.DeleteForwardExtremities(l.ctx, unknown)
			require.ErrorIs(t, err, store.ErrNotFound)
			extremities, err := plain.ForwardExtremities(l.ctx, unknown)
			require.NoError(t, err)
			require.Empty(t, extremities)
		}
	})
	deleted, err := plain.DeleteForwardExtremities(l.ctx, room)
	require.NoError(t, err)
	require.EqualValues(t, 1, deleted)
	fence, err := plain.NextFence(l.ctx, room)
	require.NoError(t, err)
	require.Positive(t, fence)
}
