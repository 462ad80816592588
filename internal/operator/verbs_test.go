package operator_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"lethe/internal/jobs"
	"lethe/internal/operator"
	"lethe/internal/store/journal"
	"lethe/internal/tasks"
)

func TestVerbsOnAJob(t *testing.T) {
	t.Parallel()
	l := setup(t)
	l.Chain(room, "a", 30, 0)
	id := l.purge("$a20", `,"delete_local_events":true`).ID
	verb := func(name, body string) operator.Outcome {
		t.Helper()
		return get[operator.Outcome](l, "POST", "/jobs/"+id+"/"+name, body)
	}
	dry := verb("cancel", `{"dry_run":true}`)
	require.True(t, dry.Done)
	require.Equal(t, "queued", get[operator.Job](l, "GET", "/jobs/"+id, "").State, "a dry run changes nothing")

	require.Equal(t, "critical", verb("priority", `{"queue":"critical","reason":"urgent"}`).Job.Queue)
	paused := verb("pause", fmt.Sprintf(`{"reason":"backup","until_ts":%d}`, time.Now().Add(time.Hour).UnixMilli()))
	require.Equal(t, "paused", paused.Job.State)
	require.Contains(t, get[operator.Job](l, "GET", "/jobs/"+id, "").WaitsFor, "backup")
	require.Len(t, get[operator.Pauses](l, "GET", "/pauses", "").Pauses, 1)
	require.Equal(t, "queued", verb("resume", ``).Job.State)
	require.Empty(t, get[operator.Pauses](l, "GET", "/pauses", "").Pauses)
	cancelled := verb("cancel", `{"reason":"wrong room"}`)
	require.Equal(t, "cancelled", cancelled.Job.State)
	l.refused(409, "The job cannot be cancelled: it has ended, and is cancelled", "POST", "/jobs/"+id+"/cancel", ``)
	l.refused(409, "The job cannot be paused: it has ended, and is cancelled", "POST", "/jobs/"+id+"/pause", `{"reason":"x"}`)
	require.Equal(t, "queued", verb("retry", `{"reason":"the right one"}`).Job.State)

	l.work(tasks.WorkerOptions{})
	job := l.ends(id)
	require.Equal(t, "complete", job.State, job.Error)
	require.Eventually(t, func() bool {
		status, err := l.board.Status(l.Ctx, jobs.PurgeHistory, id)
		return err == nil && status.State == journal.Complete
	}, time.Minute, 50*time.Millisecond, "it is no longer that of the cancelled job")
	var verbs []string
	for _, event := range job.Log {
		if event.Who != "" && event.Who != "queued" {
			verbs = append(verbs, event.Event+": "+event.Reason)
			require.Equal(t, admin, event.Who)
		}
	}
	for _, want := range []string{"priority: urgent", "pause: backup", "resume: ", "cancel: wrong room", "retry: the right one"} {
		require.Contains(t, verbs, want)
	}
}

func TestVerbRefusals(t *testing.T) {
	t.Parallel()
	l := setup(t)
	l.Chain(room, "a", 9, 0)
	id := l.purge("$a5", "").ID
	for _, c := range []struct{ path, body, text string }{
		{"cancel", `{"until_ts":5}`, "only for the verb pause"},
		{"cancel", `{"queue":"low"}`, "only for the verb priority"},
		{"cancel", `{"who":"me"}`, "Unknown param 'who'"},
		{"cancel", `[]`, "must be a JSON object"},
		{"cancel", `{"reason":"a\u0000b"}`, "zero byte"},
		{"pause", `{"reason":"x","until_ts":-5}`, "Unix milliseconds"},
		{"pause", `{"reason":"x","until_ts":5}`, "is in the past"},
		{"priority", `{}`, "queue"},
		{"priority", `{"queue":"high"}`, "must be one of"},
	} {
		l.refused(400, c.text, "POST", "/jobs/"+id+"/"+c.path, c.body)
	}
	l.refused(404, "no job", "POST", "/jobs/AbCdEfGhIjKlMnOp/cancel", "")
	for _, c := range []struct{ body, text string }{
		{`{"verb":"kill"}`, "must be one of"},
		{`{"verb":"cancel"}`, "must select jobs"},
		{`{"verb":"cancel","filter":{}}`, "must select jobs"},
		{`{"verb":"cancel","filter":{"state":[],"kind":[]}}`, "must select jobs"},
		{`{"verb":"cancel","filter":{"room":"","requester":"","since_ts":0,"before_ts":0,"kind":null}}`, "must select jobs"},
		{`{"verb":"cancel","filter":{"STATE":["queued"]}}`, "Param 'filter'"},
		{`{"verb":"cancel","filter":{"state":["x"]}}`, "must be one of"},
		{`{"verb":"cancel","filter":{"room_id":"x"}}`, "Param 'filter'"},
		{`{"verb":"cancel","limit":1001}`, "from 1 to 1000"},
		{`{"verb":"pause","until_ts":5,"filter":{"state":["queued"]}}`, "is in the past"},
		{`{"verb":"cancel","filter":{"since_ts":-1}}`, "Unix milliseconds"},
	} {
		l.refused(400, c.text, "POST", "/jobs/bulk", c.body)
	}
	require.Equal(t, "queued", get[operator.Job](l, "GET", "/jobs/"+id, "").State)
}

func TestBulk(t *testing.T) {
	t.Parallel()
	l := setup(t)
	l.Chain(room, "a", 9, 0)
	for i := range 4 {
		l.purge(fmt.Sprintf("$a%d", 5+i), "")
	}
	dry := get[operator.Outcomes](l, "POST", "/jobs/bulk", `{"verb":"cancel","filter":{"kind":["purge_history"]},"dry_run":true}`)
	require.Equal(t, 4, dry.Matched)
	require.Equal(t, 4, dry.Done)
	some := get[operator.Outcomes](l, "POST", "/jobs/bulk", `{"verb":"cancel","filter":{"room":"!room:x"},"limit":1,"reason":"r"}`)
	require.Equal(t, 1, some.Done)
	rest := get[operator.Outcomes](l, "POST", "/jobs/bulk", `{"verb":"cancel","filter":{"state":["queued"]}}`)
	require.Equal(t, 3, rest.Done)
	require.Len(t, get[operator.Jobs](l, "GET", "/jobs?state=cancelled", "").Jobs, 4)
}
