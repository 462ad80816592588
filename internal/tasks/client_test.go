package tasks

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"lethe/internal/jobs"
	"lethe/internal/store/journal"
)

func TestAcceptedPurgeHasARowAStatusAndATask(t *testing.T) {
	t.Parallel()
	l := setup(t)
	id := l.submit(room, 7)
	job := l.Job(id)
	require.JSONEq(t, `{"token":"t7-0","delete_local_events":false}`, string(job.Parameters))
	job.Parameters = nil
	require.Equal(t, journal.Job{
		ID: id, Kind: "purge_history", Room: room, Requester: "@admin:x", State: journal.Queued, Generation: 1,
	}, job)
	status, err := l.board.Status(l.Ctx, jobs.PurgeHistory, id)
	require.NoError(t, err)
	require.Equal(t, jobs.Status{ID: id, Kind: jobs.PurgeHistory, Room: room, State: journal.Queued, Generation: 1}, status)
	require.Equal(t, []string{id + "~1"}, l.pending())
}

func TestPurgeIsAcceptedWithoutRedis(t *testing.T) {
	t.Parallel()
	l := setup(t)
	l.server.Kill()
	started := time.Now()
	id := l.submit(room, 7)
	require.Less(t, time.Since(started), 10*time.Second)
	require.True(t, l.Job(id).TaskMissing)

	require.NoError(t, l.server.Restart(l.Ctx))
	require.NoError(t, l.reconciler().Check(l.Ctx))
	require.Equal(t, []string{id + "~1"}, l.pending(), "at once, and under the generation that it has")
	require.False(t, l.Job(id).TaskMissing)
}

func TestPurgeIsNotAcceptedWithoutPostgreSQL(t *testing.T) {
	t.Parallel()
	l := setup(t)
	l.Exec(`ALTER TABLE lethe.jobs RENAME TO hidden`)
	_, err := l.client.SubmitPurgeHistory(l.Ctx, purgeOf(room, 7))
	require.Error(t, err)
	require.Zero(t, l.redis.DBSize(l.Ctx).Val())
}

func TestExclusivePurgeIsRefusedWhileTheRoomIsBusy(t *testing.T) {
	t.Parallel()
	l := setup(t)
	l.submit(room, 7)
	purge := purgeOf(room, 7)
	purge.Exclusive = true
	_, err := l.client.SubmitPurgeHistory(l.Ctx, purge)
	require.ErrorIs(t, err, journal.ErrRoomBusy)
	l.submit(room, 7)
	require.Len(t, l.pending(), 2)
}
