package tasks

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"lethe/internal/jobs"
)

func TestAcceptedPurgeHasARowAStatusAndATask(t *testing.T) {
	t.Parallel()
	l := setup(t)
	id := l.submit(room, 7)
	job := l.job(id)
	require.JSONEq(t, `{"token":"t7-0","delete_local_events":false}`, string(job.Parameters))
	job.Parameters = nil
	require.Equal(t, store.Job{
		ID: id, Kind: "purge_history", Room: room, Requester: "@admin:x", State: store.JobQueued, Generation: 1,
	}, job)
	status, err := l.board.Status(l.ctx, jobs.PurgeHistory, id)
	require.NoError(t, err)
	require.Equal(t, jobs.Status{ID: id, Kind: jobs.PurgeHistory, Room: room, State: jobs.Queued, Generation: 1}, status)
	require.Equal(t, []string{id + "~1"}, l.pending())
}

func TestPurgeIsAcceptedWithoutRedis(t *testing.T) {
	t.Parallel()
	l := setup(t)
	l.server.Kill()
	started := time.Now()
	id := l.submit(room, 7)
	require.Less(t, time.Since(started), 10*time.Second)
	require.True(t, l.job(id).TaskMissing)

	require.NoError(t, l.server.Restart(l.ctx))
	require.NoError(t, l.reconciler().Look(l.ctx))
	require.Equal(t, []string{id + "~1"}, l.pending(), "at once, and under the generation that it has")
	require.False(t, l.job(id).TaskMissing)
}

func TestPurgeIsNotAcceptedWithoutPostgreSQL(t *testing.T) {
	t.Parallel()
	l := setup(t)
	l.exec(`ALTER TABLE lethe.jobs RENAME TO hidden`)
	_, err := l.client.SubmitPurgeHistory(l.ctx, purgeOf(room, 7))
	require.Error(t, err)
	require.Zero(t, l.redis.DBSize(l.ctx).Val())
}

func TestExclusivePurgeIsRefusedWhileTheRoomIsBusy(t *testing.T) {
	t.Parallel()
	l := setup(t)
	l.submit(room, 7)
	purge := purgeOf(room, 7)
	purge.Exclusive = true
	_, err := l.client.SubmitPurgeHistory(l.ctx, purge)
	require.ErrorIs(t, err, store.ErrRoomBusy)
	l.submit(room, 7)
	require.Len(t, l.pending(), 2)
}
