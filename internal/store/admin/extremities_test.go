package admin_test

import (
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"lethe/internal/schema"
	"lethe/internal/store/admin"
	"lethe/internal/store/postgres"
	"lethe/internal/store/purge"
	"lethe/internal/store/storetest"
)

const room = storetest.Room

// A purge decides by all forward extremities which events it may delete. If all but
// one of them were deleted in the middle of its batch, it could delete that one too.
func TestForwardExtremitiesAreNotDeletedDuringABatch(t *testing.T) {
	t.Parallel()
	l := storetest.New(t, schema.Worker)
	api := admin.New(storetest.OnAs(t, l.URL, schema.API).DB)
	l.Chain(room, "", 5, 0)
	l.Exec(`INSERT INTO rooms (room_id) VALUES ($1) ON CONFLICT DO NOTHING`, room)
	l.Exec(`INSERT INTO event_forward_extremities (event_id, room_id) VALUES ('$4', $1), ('$5', $1) ON CONFLICT DO NOTHING`, room)
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
	deleted := make(chan int64, 1)
	group.Go(func() {
		n, err := api.DeleteForwardExtremities(l.Ctx, room)
		if err != nil {
			t.Error(err)
		}
		deleted <- n
	})
	l.RequireLockWait()
	_, err := api.DeleteForwardExtremities(l.Ctx, "!other:x")
	require.ErrorIs(t, err, postgres.ErrNotFound, "another room does not wait")
	require.Empty(t, deleted)

	release()
	require.EqualValues(t, 1, <-deleted)
	extremities := storetest.All[string](l, `SELECT event_id FROM event_forward_extremities WHERE room_id = $1`, room)
	require.Equal(t, []string{"$5"}, extremities)
	require.Equal(t, batch.Fence, storetest.One[int64](l, `SELECT fence FROM lethe.room_fences WHERE room_id = $1`, room),
		"the room's owner still owns it")
}

// Neither asks for more than an operator may grant, nor leaves a trace of a room
// that is not known.
func TestForwardExtremitiesAsTheRoleOfTheAPI(t *testing.T) {
	t.Parallel()
	l := storetest.New(t, schema.API)
	l.Chain(room, "", 3, 0)
	l.Exec(`INSERT INTO rooms (room_id) VALUES ($1) ON CONFLICT DO NOTHING`, room)
	l.Exec(`INSERT INTO event_forward_extremities (event_id, room_id) VALUES ('$2', $1), ('$3', $1) ON CONFLICT DO NOTHING`, room)
	l.RequireUnchanged(func() {
		for _, unknown := range []string{"", "!nobody:x", "!a\x00:x", "\xff"} {
			_, err := l.Admin.DeleteForwardExtremities(l.Ctx, unknown)
			require.ErrorIs(t, err, postgres.ErrNotFound)
			extremities, err := l.Admin.ForwardExtremities(l.Ctx, unknown)
			require.NoError(t, err)
			require.Empty(t, extremities)
		}
	})
	deleted, err := l.Admin.DeleteForwardExtremities(l.Ctx, room)
	require.NoError(t, err)
	require.EqualValues(t, 1, deleted)
	fence, err := l.Journal.NextFence(l.Ctx, room)
	require.NoError(t, err)
	require.Positive(t, fence)
}
