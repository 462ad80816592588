package tasks

import (
	"strings"
	"testing"
	"time"

	"github.com/hibiken/asynq"
	"github.com/stretchr/testify/require"

	"lethe/internal/dispatch"
	"lethe/internal/jobs"
	"lethe/internal/matrix"
	"lethe/internal/roomgen"
	"lethe/internal/shutdown"
	"lethe/internal/store/journal"
	"lethe/internal/store/storetest"
)

// signing are options of a worker that can write events into federated rooms.
func signing(t *testing.T) WorkerOptions {
	t.Helper()
	key, err := matrix.ParseSigningKey(matrix.GenerateSigningKey())
	require.NoError(t, err)
	return WorkerOptions{Homeserver: shutdown.NewEmbedded(shutdown.EmbeddedOptions{ServerName: "x", SigningKey: key})}
}

// federate makes a room with local and remote members.
func (l *lab) federate(id string, remote int) {
	l.T.Helper()
	_, err := roomgen.Generate(l.Ctx, l.Conn, roomgen.Room{ID: id, Server: "x", Events: 40, LocalMembers: 3, RemoteMembers: remote})
	require.NoError(l.T, err)
}

// sent says how far each process of the homeserver has sent events.
func (l *lab) sent(positions map[string]int64) {
	l.T.Helper()
	for instance, position := range positions {
		l.Exec(`
			INSERT INTO federation_stream_position (type, stream_id, instance_name) VALUES ('events', $2, $1), ('federation', -1, $1)
			ON CONFLICT (type, instance_name) DO UPDATE SET stream_id = excluded.stream_id WHERE excluded.type = 'events'`, instance, position)
	}
}

// again makes the delete's task return now.
func (l *lab) again(id string) {
	l.T.Helper()
	attempt := l.Job(id).Attempt
	require.Eventually(l.T, func() bool {
		_ = l.asynq.RunTask(string(jobs.Critical), dispatch.TaskID(id, l.Job(id).Generation)) // fails while a worker has it
		return l.Job(id).Attempt > attempt
	}, time.Minute, 10*time.Millisecond)
}

// waitsForFederation waits until the delete waits for the homeserver, and returns the
// place that it waits for.
func (l *lab) waitsForFederation(id string) int64 {
	l.T.Helper()
	require.Eventually(l.T, func() bool {
		task, err := l.asynq.GetTaskInfo(string(jobs.Critical), dispatch.TaskID(id, l.Job(id).Generation))
		return err == nil && task.State == asynq.TaskStateRetry && l.checkpoint(id).LeavesAt > 0 && l.Job(id).State == journal.Queued
	}, time.Minute, 10*time.Millisecond)
	require.Zero(l.T, l.Job(id).Failures)
	return l.checkpoint(id).LeavesAt
}

// A federated room is purged only when every process that sends has come past the
// leaves, whichever workers and servers restart meanwhile.
func TestPurgeWaitsUntilOtherServersAreTold(t *testing.T) {
	t.Parallel()
	l := setup(t)
	l.federate(room, 2)
	l.sent(map[string]int64{"master": 1, "sender1": 1})
	id := l.delete(room, nil)
	options := signing(t)
	options.Concurrency = 1
	stop := l.work(options)
	place := l.waitsForFederation(id)
	leaves := storetest.All[int64](l.Lab, `
		SELECT e.stream_ordering FROM events e JOIN room_memberships m USING (event_id)
		WHERE e.room_id = $1 AND m.membership = 'leave' AND right(m.user_id, 2) = ':x' ORDER BY 1`, room)
	require.Len(t, leaves, 3)
	require.Equal(t, leaves[2], place)
	still := func() {
		t.Helper()
		require.Equal(t, place, l.waitsForFederation(id))
		require.Len(t, l.depths(room), 43)
		require.Eventually(t, func() bool { // sooner than a status in Redis would be too old to be believed
			status, err := l.board.Status(l.Ctx, jobs.DeleteRoom, id)
			require.NoError(t, err)
			details, err := DeleteStatusOf([]byte(status.Progress))
			require.NoError(t, err)
			return strings.Contains(status.WaitsFor, "federation_stream_position") && details.Phase == phaseShuttingDown
		}, 5*time.Second, 10*time.Millisecond)
	}
	still()
	// It holds neither the only worker nor the room.
	require.Equal(t, journal.Complete, l.ends(l.submit(room, 5)).State)
	kept := l.depths(room)
	stop()
	require.NoError(t, l.redis.FlushAll(l.Ctx).Err())
	l.Exec(`UPDATE lethe.jobs SET task_missing_since = now() - interval '61 s' WHERE id = $1`, id)
	require.NoError(t, l.reconciler().Check(l.Ctx))
	l.work(options)

	for _, positions := range []map[string]int64{
		{"master": place - 1}, {"master": place, "sender1": place - 1}, {"master": 1 << 40},
	} {
		l.sent(positions)
		l.again(id)
		require.Equal(t, place, l.waitsForFederation(id))
		require.Equal(t, kept, l.depths(room))
	}
	l.sent(map[string]int64{"sender1": place})
	l.again(id)
	status, done := l.deleteEnds(id)
	require.Equal(t, journal.Complete, status.State, status.Error)
	require.Len(t, done.KickedUsers, 3)
	l.gone(room)
	require.Empty(t, status.WaitsFor)
}

func TestPurgeThatNeedNotWaitForFederation(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		remote int
		change func(*DeleteRoom)
		sent   map[string]int64
	}{
		"no members of other servers": {-1, nil, map[string]int64{"master": 1}},
		"forced":                      {2, func(d *DeleteRoom) { d.ForcePurge = true }, map[string]int64{"master": 1}},
		"no homeserver has ever run":  {2, nil, nil},
		"sent already":                {2, nil, map[string]int64{"master": 1 << 40}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := setup(t)
			l.federate(room, c.remote)
			l.sent(c.sent)
			l.work(signing(t))
			status, done := l.deleteEnds(l.delete(room, c.change))
			require.Equal(t, journal.Complete, status.State, status.Error)
			require.Len(t, done.KickedUsers, 3)
			l.gone(room)
			require.Zero(t, value(t, l.metrics.JobYields.WithLabelValues("delete_room", "federation")))
		})
	}
}

// The operator can decide later that the homeserver will never run again.
func TestWaitForFederationEndsWhenItIsForced(t *testing.T) {
	t.Parallel()
	l := setup(t)
	l.federate(room, 2)
	l.sent(map[string]int64{"master": 1})
	id := l.delete(room, func(d *DeleteRoom) { d.PurgeDelay = time.Millisecond })
	l.work(signing(t))
	l.waitsForFederation(id)
	require.Positive(t, l.checkpoint(id).PurgeAt)
	l.Exec(`UPDATE lethe.jobs SET parameters = parameters || '{"force_purge": true}' WHERE id = $1`, id)
	l.again(id)
	status, _ := l.deleteEnds(id)
	require.Equal(t, journal.Complete, status.State, status.Error)
	l.gone(room)
}

// Users who have left in an earlier delete, or shutdown, count too.
func TestPurgeWaitsForLeavesOfAnEarlierDelete(t *testing.T) {
	t.Parallel()
	l := setup(t)
	l.federate(room, 2)
	l.sent(map[string]int64{"master": 1})
	l.work(signing(t))
	status, shut := l.deleteEnds(l.delete(room, func(d *DeleteRoom) { d.Purge = false }))
	require.Equal(t, journal.Complete, status.State, status.Error)
	require.Len(t, shut.KickedUsers, 3)
	leave := storetest.One[int64](l.Lab, `SELECT max(stream_ordering) FROM events WHERE room_id = $1`, room)

	// What users of other servers have sent since needs no sending.
	l.Exec(`
		INSERT INTO events (event_id, room_id, type, sender, topological_ordering, depth, stream_ordering, processed, outlier)
		SELECT '$later', room_id, 'm.room.message', '@far:away', depth + 1, depth + 1, stream_ordering + 5, true, false
		FROM events WHERE stream_ordering = $1`, leave)
	id := l.delete(room, nil)
	require.Equal(t, leave, l.waitsForFederation(id))
	require.Len(t, l.depths(room), 44)
	l.sent(map[string]int64{"master": leave})
	l.again(id)
	status, done := l.deleteEnds(id)
	require.Equal(t, journal.Complete, status.State, status.Error)
	require.Empty(t, done.KickedUsers)
	l.gone(room)
}
