package journal_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"lethe/internal/jobs"
	"lethe/internal/store/journal"
	"lethe/internal/store/storetest"
)

func TestQueues(t *testing.T) {
	t.Parallel()
	l := storetest.New(t)
	look := func() map[string]journal.OpenJobs {
		t.Helper()
		open, err := l.Journal.Queues(l.Ctx)
		require.NoError(t, err)
		queues := map[string]journal.OpenJobs{}
		for _, o := range open {
			queues[string(o.Queue)+"/"+string(o.Kind)] = o
		}
		require.Len(t, queues, len(open))
		return queues
	}
	require.Empty(t, look())

	// add makes a job that is so old, in seconds, and that was moved so long ago.
	add := func(kind, room, queue, state string, age, moved int, checkpoint string) {
		t.Helper()
		l.Exec(`
			INSERT INTO lethe.jobs (id, kind, room_id, queue, parameters, requester, state, created_at, started_at, updated_at,
			                        heartbeat_at, ended_at, error, checkpoint)
			SELECT $1, $2, $3, nullif($4, ''), '{}', 'x', $5, t.made,
			       CASE WHEN $7 > 0 THEN t.made END, clock_timestamp() - make_interval(secs => $7),
			       CASE WHEN $5 = 'running' THEN clock_timestamp() END, CASE WHEN $5 = 'failed' THEN clock_timestamp() END,
			       CASE WHEN $5 = 'failed' THEN 'x' END, nullif($8, '')::jsonb
			FROM (SELECT clock_timestamp() - make_interval(secs => $6) AS made) t`,
			jobs.NewID(), kind, room, queue, state, float64(age), float64(moved), checkpoint)
	}
	about := func(seconds int, d time.Duration) {
		t.Helper()
		require.InDelta(t, seconds, d.Seconds(), 30, "%s", d)
	}
	add("purge_history", "!a:x", "", "queued", 1000, 0, "")
	add("purge_history", "!b:x", "", "queued", 9000, 500, `{"purge_at": "soon"}`)
	add("purge_history", "!c:x", "", "running", 9000, 300, "")
	add("purge_history", "!d:x", "", "running", 9000, 200, "")
	// What is not waiting for a worker: its room's other job runs, its purge is
	// delayed, its homeserver has not sent the leaves, it has ended.
	add("purge_history", "!c:x", "", "queued", 5000, 0, "")
	add("delete_room", "!e:x", "", "queued", 6000, 6000, `{"purge_at": 99999999999999}`)
	add("delete_room", "!h:x", "", "queued", 6500, 6500, `{"phase": "shutting_down", "leaves_at": 7}`)
	add("purge_history", "!f:x", "", "failed", 8000, 0, "")
	add("purge_history", "!g:x", "low", "queued", 7000, 0, "")

	queues := look()
	require.Len(t, queues, 3)
	purges := queues["/purge_history"]
	require.Equal(t, []int{3, 2}, []int{purges.Queued, purges.Running})
	about(1000, purges.Oldest)
	about(300, purges.Stalled)
	deletes := queues["/delete_room"]
	require.Equal(t, []int{2, 0}, []int{deletes.Queued, deletes.Running})
	require.Zero(t, deletes.Oldest)
	require.Zero(t, deletes.Stalled)
	about(7000, queues["low/purge_history"].Oldest)

	waiting, place, err := l.Journal.WaitingDeletes(l.Ctx)
	require.NoError(t, err)
	require.Equal(t, 1, waiting)
	require.EqualValues(t, 7, place)

	// A delay that is over is none, and a clock that was set back gives no age.
	l.Exec(`UPDATE lethe.jobs SET checkpoint = '{"purge_at": 1000}' WHERE room_id = '!e:x'`)
	about(6000, look()["/delete_room"].Oldest)
	l.Exec(`UPDATE lethe.jobs SET updated_at = clock_timestamp() + interval '1 h'`)
	require.Zero(t, look()["/delete_room"].Oldest)
}

func TestJobKeepsItsOrigin(t *testing.T) {
	t.Parallel()
	l := storetest.New(t)
	const parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
	for i, alone := range []bool{true, false} {
		job := storetest.NewJob(jobs.NewID(), "!"+string(rune('a'+i))+":x")
		job.TraceParent, job.RequestID = parent, "request-1"
		require.NoError(t, l.Journal.InsertJob(l.Ctx, job, alone))
		read := l.Job(job.ID)
		require.Equal(t, []string{parent, "request-1"}, []string{read.TraceParent, read.RequestID})
		queued, err := l.Journal.QueuedJobs(l.Ctx, "", 10)
		require.NoError(t, err)
		require.True(t, slices.ContainsFunc(queued, func(q journal.Job) bool { return q.ID == job.ID && q.TraceParent == parent }))
	}
	job := storetest.NewJob(jobs.NewID(), "!z:x")
	job.RequestID = strings.Repeat("x", 65)
	require.Error(t, l.Journal.InsertJob(l.Ctx, job, false))
}

func TestConnections(t *testing.T) {
	t.Parallel()
	l := storetest.New(t)
	require.NoError(t, l.DB.Ping(l.Ctx))
	connections := l.DB.Connections()
	require.Equal(t, 16, connections.Max)
	require.Positive(t, connections.Open)
	require.LessOrEqual(t, connections.InUse, connections.Open)
	require.Positive(t, connections.Waits, "the first had to be opened")
}
