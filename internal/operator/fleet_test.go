package operator_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"lethe/internal/operator"
	"lethe/internal/tasks"
)

func TestPauses(t *testing.T) {
	t.Parallel()
	l := setup(t)
	l.Chain(room, "a", 9, 0)
	l.refused(404, "nothing to pause", "PUT", "/pauses/room/x", `{"reason":"r"}`)
	l.refused(404, "nothing to pause", "PUT", "/pauses/kind/x", `{"reason":"r"}`)
	l.refused(404, "nothing to pause", "PUT", "/pauses/all/x", `{"reason":"r"}`)
	l.refused(404, "no job", "PUT", "/pauses/job/AbCdEfGhIjKlMnOp", `{"reason":"r"}`)
	l.refused(400, "reason", "PUT", "/pauses/all/all", `{}`)
	l.refused(400, "is in the past", "PUT", "/pauses/all/all", `{"reason":"r","until_ts":5}`)
	l.refused(404, "There is no pause of all jobs\"", "DELETE", "/pauses/all/all", ``)
	l.refused(404, "There is no pause of all jobs of the kind purge_history\"", "DELETE", "/pauses/kind/purge_history", ``)
	l.refused(404, "There is no pause of the room !room:x\"", "DELETE", "/pauses/room/!room:x", ``)
	pause := get[operator.Pause](l, "PUT", "/pauses/kind/purge_history", `{"reason":"backup"}`)
	require.Equal(t, admin, pause.Who)
	id := l.purge("$a5", "").ID
	l.work(tasks.WorkerOptions{})
	require.Eventually(t, func() bool {
		return get[operator.Job](l, "GET", "/jobs/"+id, "").State == "paused"
	}, time.Minute, 50*time.Millisecond)
	require.Contains(t, get[operator.Job](l, "GET", "/jobs/"+id, "").WaitsFor, "backup")
	get[operator.Pause](l, "DELETE", "/pauses/kind/purge_history", ``)
	require.Equal(t, "complete", l.ends(id).State)
}

func TestFleet(t *testing.T) {
	t.Parallel()
	l := setup(t)
	require.Empty(t, get[operator.Fleet](l, "GET", "/fleet", "").Workers)
	limit := get[operator.Limit](l, "PUT", "/fleet/purge_history", `{"rows_per_second":5000,"jobs":2}`)
	require.Equal(t, 5000, *limit.RowsPerSecond)
	require.Equal(t, admin, limit.Who)
	limit = get[operator.Limit](l, "PUT", "/fleet/purge_history", `{"jobs":3}`)
	require.Nil(t, limit.RowsPerSecond)
	for _, body := range []string{`{"jobs":0}`, `{"jobs":-1}`, `{"jobs":1001}`, `{"rows_per_second":0}`, `{"jobs":"2"}`, `{"rate":5}`} {
		l.refused(400, "", "PUT", "/fleet/purge_history", body)
	}
	l.refused(404, "no kind", "PUT", "/fleet/x", `{"jobs":1}`)
	require.Equal(t, []operator.Limit{limit}, get[operator.Fleet](l, "GET", "/fleet", "").Limits)
	l.work(tasks.WorkerOptions{Concurrency: 3})
	require.Eventually(t, func() bool {
		fleet := get[operator.Fleet](l, "GET", "/fleet", "")
		return len(*fleet.Workers) == 1 && (*fleet.Workers)[0].Concurrency >= 3
	}, time.Minute, 50*time.Millisecond)
}

// A request whose body was lost takes no limit away.
func TestLimitsStayWithoutABody(t *testing.T) {
	t.Parallel()
	l := setup(t)
	limit := get[operator.Limit](l, "PUT", "/fleet/purge_history", `{"jobs":2}`)
	l.refused(400, "not JSON", "PUT", "/fleet/purge_history", "")
	require.Equal(t, []operator.Limit{limit}, get[operator.Fleet](l, "GET", "/fleet", "").Limits)

	signal := get[operator.BrakeSignal](l, "PUT", "/brake/standby_seconds", `{"soft":5,"hard":30}`)
	l.refused(400, "not JSON", "PUT", "/brake/standby_seconds", "")
	require.Contains(t, get[operator.Brake](l, "GET", "/brake", "").Signals, signal)
	require.Len(t, get[operator.Audit](l, "GET", "/audit", "").Entries, 2)
}

// Without Redis it is not known which workers there are, which is not the same as none.
func TestWorkersThatAreNotKnown(t *testing.T) {
	t.Parallel()
	l := setup(t)
	require.Equal(t, []operator.FleetWorker{}, *get[operator.Fleet](l, "GET", "/fleet", "").Workers)
	blind := setupWith(t, operator.Options{}, func(options *operator.Options) { options.Workers = nil })
	require.Nil(t, get[operator.Fleet](blind, "GET", "/fleet", "").Workers)
}

func TestGrace(t *testing.T) {
	t.Parallel()
	l := setupWith(t, operator.Options{Grace: time.Hour})
	l.Chain(room, "a", 9, 0)
	accepted := l.purge("$a5", "")
	require.Equal(t, "scheduled", accepted.State)
	require.InDelta(t, time.Now().Add(time.Hour).UnixMilli(), accepted.Due, 60_000)
	require.Contains(t, get[operator.Job](l, "GET", "/jobs/"+accepted.ID, "").WaitsFor, "grace: it ends at ")
	require.Equal(t, "cancelled", get[operator.Outcome](l, "POST", "/jobs/"+accepted.ID+"/cancel", "").Job.State)
	retried := get[operator.Outcome](l, "POST", "/jobs/"+accepted.ID+"/retry", "").Job
	require.Equal(t, "scheduled", retried.State, "its grace has not ended")
	require.Equal(t, accepted.Due, retried.Due)
	l.Exec(`UPDATE lethe.jobs SET due_at = now() - interval '1 s', state = 'cancelled', ended_at = now()`)
	require.Equal(t, "queued", get[operator.Outcome](l, "POST", "/jobs/"+accepted.ID+"/retry", "").Job.State)
	require.Equal(t, "queued", l.purge("$a5", `,"grace":"0s"`).State)
	for _, grace := range []string{"x", "-1s", "9000h", "24"} {
		l.refused(400, "'grace' must be a duration", "POST", "/purges", `{"room_id":"!room:x","before_event_id":"$a5","grace":"`+grace+`"}`)
	}
}

// TestPauseOfAJobThatHasEnded checks that there is no pause that no job waits for, and that
// one is not lost with its job.
func TestPauseOfAJobThatHasEnded(t *testing.T) {
	t.Parallel()
	l := setup(t)
	l.Chain(room, "a", 40, 0)
	id := l.purge("$a30", "").ID
	get[operator.Outcome](l, "POST", "/jobs/"+id+"/cancel", "{}")
	l.refused(409, "The job cannot be paused: it has ended, and is cancelled", "PUT", "/pauses/job/"+id, `{"reason":"r"}`)
	require.Empty(t, get[operator.Pauses](l, "GET", "/pauses", "").Pauses)
	l.refused(404, "There is no pause of the job "+id, "DELETE", "/pauses/job/"+id, "")
}
