package tasks

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"lethe/internal/jobs"
	"lethe/internal/matrix"
	"lethe/internal/store/journal"
	"lethe/internal/store/storetest"
)

func TestCovers(t *testing.T) {
	t.Parallel()
	of := func(depth int64, local bool) purgeHistoryParameters {
		return purgeHistoryParameters{Token: matrix.Token{Topological: depth, Stream: depth}, DeleteLocalEvents: local}
	}
	swept := of(9, true)
	swept.RetentionJob = "all"
	for _, c := range []struct {
		a, b    purgeHistoryParameters
		covers  bool
		covered bool
	}{
		{of(5, false), of(5, false), true, true},
		{of(5, false), of(4, false), true, false},
		{of(5, true), of(5, false), true, false},
		{of(5, true), of(4, true), true, false},
		{of(5, false), of(4, true), false, false},
		{swept, of(4, true), false, false},
		{of(10, true), swept, false, false},
	} {
		require.Equal(t, c.covers, c.a.covers(c.b), "%+v", c)
		require.Equal(t, c.covered, c.b.covers(c.a), "%+v", c)
	}
	later := of(5, false)
	later.Token.Stream = 1
	require.True(t, later.covers(of(5, false)), "only the depth counts")
}

// submitOf accepts a purge of the room to the depth, of local events too if asked.
func (l *lab) submitOf(before int64, local bool) string {
	l.T.Helper()
	request := purgeOf(room, before)
	request.DeleteLocalEvents = local
	id, err := l.client.SubmitPurgeHistory(l.Ctx, request)
	require.NoError(l.T, err)
	return id
}

// absorberOf is what the served status of the job says has absorbed it.
func (l *lab) absorberOf(id string) string {
	l.T.Helper()
	status, err := l.board.Status(l.Ctx, jobs.PurgeHistory, id)
	require.NoError(l.T, err)
	by, err := AbsorberOf([]byte(status.Progress))
	require.NoError(l.T, err)
	return by
}

// seconds is the time from the end of one job to the start of another.
func (l *lab) seconds(ended, started string) float64 {
	l.T.Helper()
	return storetest.One[float64](l.Lab, `
		SELECT extract(epoch FROM b.started_at - a.ended_at)::float8 FROM lethe.jobs a, lethe.jobs b WHERE a.id = $1 AND b.id = $2`,
		ended, started)
}

// While one purge of the room runs, more are accepted than there are workers. They run
// in that order, and each begins when the one before has ended.
func TestPurgesOfOneRoomRunInOrderAndAtOnce(t *testing.T) {
	t.Parallel()
	l := setup(t)
	l.chain(room, 150)
	l.WatchDeletes(`PERFORM pg_advisory_xact_lock_shared(7);`)
	l.Exec(`SELECT pg_advisory_lock(7)`)
	for range 3 {
		l.work(WorkerOptions{Concurrency: 2})
	}
	running := l.submitOf(60, false)
	l.RequireLockWait()
	// Neither of these covers the other.
	order := []string{running, l.submitOf(70, true), l.submitOf(120, false)}
	deletion := l.delete(room, nil)
	require.Eventually(t, func() bool {
		return value(t, l.metrics.JobYields.WithLabelValues("purge_history", "room busy")) >= 2 &&
			value(t, l.metrics.JobYields.WithLabelValues("delete_room", "room busy")) >= 1
	}, time.Minute, time.Millisecond, "workers have found the room busy")
	l.Exec(`SELECT pg_advisory_unlock(7)`)
	for _, id := range order {
		status := l.ends(id)
		require.Equal(t, journal.Complete, status.State, status.Error)
		require.Empty(t, l.absorberOf(id))
	}
	l.deleteEnds(deletion)
	order = append(order, deletion)
	for i, id := range order[1:] {
		pause := l.seconds(order[i], id)
		require.Positive(t, pause, "job %d began too early", i+1)
		require.Less(t, pause, 1.0, "job %d began too late", i+1)
	}
}

func TestWiderPurgeAbsorbsNarrowerOnes(t *testing.T) {
	t.Parallel()
	l := setup(t)
	l.chain(room, 100)
	narrow := []string{l.submitOf(20, false), l.submitOf(10, true)}
	wide := l.submitOf(50, true)
	narrow = append(narrow, l.submitOf(30, true), l.submitOf(50, true))
	wider := l.submitOf(60, false) // which leaves local events that the others delete
	elsewhere := l.submit("!elsewhere:x", 5)
	for range 2 {
		l.work(WorkerOptions{BatchEvents: 1})
	}
	require.Equal(t, journal.Complete, l.ends(wide).State)
	require.Equal(t, journal.Complete, l.ends(wider).State)
	require.Equal(t, journal.Complete, l.ends(elsewhere).State)
	for _, id := range narrow {
		require.Equal(t, journal.Complete, l.ends(id).State)
	}
	for _, id := range narrow {
		require.Equal(t, wide, l.absorberOf(id))
		require.False(t, storetest.One[bool](l.Lab, `
			SELECT a.ended_at < o.ended_at FROM lethe.jobs a, lethe.jobs o WHERE a.id = $1 AND o.id = $2`, id, wide))
	}
	require.Empty(t, l.absorberOf(wide))
	require.Empty(t, l.absorberOf(wider))
	require.EqualValues(t, 60, l.depths(room)[0])
}

// What polls an absorbed purge sees it end as the other does, wherever the workers
// die.
func TestAbsorbedPurgeEndsWithItsAbsorber(t *testing.T) {
	t.Parallel()
	for _, end := range []journal.State{journal.Complete, journal.Failed, journal.Cancelled} {
		t.Run(string(end), func(t *testing.T) {
			t.Parallel()
			l := setup(t)
			l.chain(room, 100)
			depth := map[journal.State]int64{journal.Complete: 90, journal.Failed: 101, journal.Cancelled: 80}[end]
			narrow, wide := l.submit(room, 40), l.submit(room, depth)
			stop := l.work(WorkerOptions{Concurrency: 1, BatchEvents: 1})
			require.Eventually(t, func() bool { return l.Job(narrow).State == journal.Absorbed || l.Job(narrow).State.Ended() },
				time.Minute, time.Millisecond)
			stop()
			if end != journal.Failed {
				// No worker runs, so nothing changes.
				require.Equal(t, journal.Absorbed, l.Job(narrow).State)
				require.NoError(t, l.reconciler().Check(l.Ctx))
				require.Equal(t, journal.Absorbed, l.Job(narrow).State)
				status, err := l.board.Status(l.Ctx, jobs.PurgeHistory, narrow)
				require.NoError(t, err)
				require.False(t, status.State.Ended())
				require.Equal(t, wide, l.absorberOf(narrow))
			}
			switch end {
			case journal.Cancelled:
				l.Exec(`UPDATE lethe.jobs SET state = 'cancelled', heartbeat_at = NULL, ended_at = now() WHERE id = $1`, wide)
				require.NoError(t, l.reconciler().Check(l.Ctx))
				require.Equal(t, journal.Queued, l.Job(narrow).State)
				require.Equal(t, 2, l.Job(narrow).Generation)
			case journal.Complete:
				// A worker that dies after it has stored the end.
				l.Exec(`UPDATE lethe.jobs SET state = 'complete', heartbeat_at = NULL, ended_at = now() WHERE id = $1`, wide)
				require.NoError(t, l.redis.FlushAll(l.Ctx).Err())
				require.NoError(t, l.reconciler().Check(l.Ctx))
				require.Equal(t, journal.Complete, l.ends(narrow).State)
				require.Equal(t, wide, l.absorberOf(narrow))
				return
			}
			l.work(WorkerOptions{})
			status := l.ends(narrow)
			if end == journal.Failed {
				require.Equal(t, journal.Failed, status.State)
				require.Equal(t, fmt.Sprintf("the purge %s, which had absorbed this one, failed: %s", wide, l.ends(wide).Error), status.Error)
				require.EqualValues(t, 1, l.depths(room)[0])
				return
			}
			require.Equal(t, journal.Complete, status.State, "nothing has done its work, so it does it itself")
			require.Empty(t, l.absorberOf(narrow))
			require.LessOrEqual(t, int64(40), l.depths(room)[0])
		})
	}
}

func TestAbsorbedPurgeWaitsForAHold(t *testing.T) {
	t.Parallel()
	l := setup(t)
	l.chain(room, 50)
	narrow, wide := l.submit(room, 20), l.submit(room, 40)
	l.place(room)
	l.work(WorkerOptions{})
	l.held(wide)
	require.Equal(t, journal.Absorbed, l.Job(narrow).State)
	require.EqualValues(t, 1, l.depths(room)[0])
	l.release(room)
	require.Equal(t, journal.Complete, l.ends(narrow).State)
	require.EqualValues(t, 40, l.depths(room)[0])
}
