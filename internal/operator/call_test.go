package operator_test

import (
	"encoding/json"
	"net/http"
	"net/url"
	"testing"

	"github.com/stretchr/testify/require"

	"lethe/internal/operator"
	"lethe/internal/store/storetest"
	"lethe/internal/wire"
)

// A call in the process is answered as a request is.
func TestCallsAreRequests(t *testing.T) {
	t.Parallel()
	l := setup(t)
	o := operator.New(l.DB, nil, nil, nil, operator.Options{ServerName: "x"})
	one, other := l.Queue("!a:x"), l.Queue("!b/%2F:x")

	var job, same operator.Job
	require.NoError(t, o.Call(l.Ctx, admin, operator.Call{Method: "GET", Path: "/jobs/{job_id}", Parameters: map[string]string{"job_id": one}}, &job))
	require.NoError(t, json.Unmarshal([]byte(l.do("GET", "/jobs/"+one, "").body), &same))
	require.Equal(t, operator.NoWorker, same.WaitsFor)
	same.WaitsFor, same.WaitsSince = "", 0 // this Operator is not told of workers
	require.Equal(t, same, job)

	var list operator.Jobs
	require.NoError(t, o.Call(l.Ctx, admin, operator.Call{Method: "GET", Path: "/jobs", Query: url.Values{"room": {"!b/%2F:x"}}}, &list))
	require.Len(t, list.Jobs, 1)
	require.Equal(t, other, list.Jobs[0].ID)

	var pause operator.Pause
	require.NoError(t, o.Call(l.Ctx, "@b:x", operator.Call{
		Method: "PUT", Path: "/pauses/{scope}/{value}", Parameters: map[string]string{"scope": "room", "value": "!b/%2F:x"}, Body: operator.PauseRequest{Reason: "r"},
	}, &pause))
	require.Equal(t, "!b/%2F:x", pause.Value)
	require.Equal(t, "@b:x", storetest.One[string](l.Lab, `SELECT who FROM lethe.pauses`))

	var refused *wire.Error
	l.RequireUnchanged(func() {
		err := o.Call(l.Ctx, admin, operator.Call{
			Method: "POST", Path: "/jobs/{job_id}/retry", Parameters: map[string]string{"job_id": one}, Body: operator.VerbRequest{},
		}, &operator.Outcome{})
		require.ErrorAs(t, err, &refused)
		require.Equal(t, http.StatusConflict, refused.Status)
		for _, call := range []operator.Call{
			{Method: "GET", Path: "/jobs/{job_id}/events", Parameters: map[string]string{"job_id": one}}, // which never ends
			{Method: "DELETE", Path: "/jobs"},
			{Method: "GET", Path: "/jobs/" + one},
		} {
			require.ErrorContains(t, o.Call(l.Ctx, admin, call, &job), "there is no route "+call.Method+" "+call.Path)
		}
	})
}

func TestJobsThatHaveEndedSince(t *testing.T) {
	t.Parallel()
	l := setup(t)
	early, late, open := l.Queue("!a:x"), l.Queue("!b:x"), l.Queue("!c:x")
	l.Exec(`UPDATE lethe.jobs SET state = 'failed', error = 'x', ended_at = to_timestamp(1000) WHERE id = $1`, early)
	l.Exec(`UPDATE lethe.jobs SET state = 'failed', error = 'x', ended_at = to_timestamp(2000) WHERE id = $1`, late)
	ids := func(query string) (found []string) {
		for _, job := range get[operator.Jobs](l, "GET", "/jobs"+query, "").Jobs {
			found = append(found, job.ID)
		}
		return found
	}
	require.ElementsMatch(t, []string{early, late, open}, ids(""))
	require.ElementsMatch(t, []string{early, late}, ids("?ended_since=1000000"))
	require.Equal(t, []string{late}, ids("?ended_since=1000001"))
	require.Empty(t, ids("?ended_since=2000001"))
	l.refused(400, "ended_since", "GET", "/jobs?ended_since=x", "")
	l.refused(400, "'ended_since_ts' must be a time", "POST", "/jobs/bulk", `{"verb": "retry", "filter": {"ended_since_ts": -1}}`)
	done := get[operator.Outcomes](l, "POST", "/jobs/bulk", `{"verb": "retry", "dry_run": true, "filter": {"ended_since_ts": 1500000}}`)
	require.Equal(t, 1, done.Matched)
}
