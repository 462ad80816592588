package operator_test

import (
	"fmt"
	"net/url"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"lethe/internal/operator"
	"lethe/internal/store/storetest"
	"lethe/internal/tasks"
)

// ends waits for the job's end.
func (l *lab) ends(id string) (job operator.Job) {
	l.T.Helper()
	require.Eventually(l.T, func() bool {
		job = get[operator.Job](l, "GET", "/jobs/"+id, "")
		return job.Ended > 0
	}, time.Minute, 50*time.Millisecond)
	return job
}

// purge accepts a purge of the room before the event.
func (l *lab) purge(event, more string) operator.Accepted {
	l.T.Helper()
	return get[operator.Accepted](l, "POST", "/purges", fmt.Sprintf(`{"room_id":%q,"before_event_id":%q%s}`, room, event, more))
}

func TestPurgeFromRequestToEnd(t *testing.T) {
	t.Parallel()
	l := setup(t)
	l.Chain(room, "a", 30, 0)
	planned := get[struct {
		Events int64  `json:"events"`
		Digest string `json:"digest"`
	}](l, "POST", "/plans", `{"kind":"purge_history","room_id":"!room:x","before_event_id":"$a20","delete_local_events":true}`)
	require.EqualValues(t, 19, planned.Events)
	accepted := l.purge("$a20", `,"delete_local_events":true,"plan":"`+planned.Digest+`","reason":"case 7"`)
	require.Equal(t, "queued", accepted.State)
	job := get[operator.Job](l, "GET", "/jobs/"+accepted.ID, "")
	require.Equal(t, "no worker", job.WaitsFor)
	require.Equal(t, admin, job.Requester)

	l.work(tasks.WorkerOptions{})
	job = l.ends(accepted.ID)
	require.Equal(t, "complete", job.State, job.Error)
	require.EqualValues(t, 19, job.Events)
	require.EqualValues(t, 19, job.Deleted["events"])
	require.NotNil(t, job.CompleteBelow)
	require.EqualValues(t, 20, *job.CompleteBelow)
	var events []string
	for _, event := range job.Log {
		events = append(events, event.Event)
	}
	require.Equal(t, []string{"queued", "running", "complete"}, events)
	require.Contains(t, job.Log[0].Reason+string(job.Log[0].Detail), "case 7")
	require.Len(t, l.Timeline(room), 11)
}

func TestListOfJobs(t *testing.T) {
	t.Parallel()
	l := setup(t)
	l.Chain(room, "a", 9, 0)
	var want []string
	for i := range 5 {
		id := l.purge(fmt.Sprintf("$a%d", 5+i%3), "").ID
		want = append([]string{id}, want...)
	}
	var got []string
	for from := ""; ; {
		page := get[operator.Jobs](l, "GET", "/jobs?limit=2&room="+url.QueryEscape(room)+from, "")
		require.LessOrEqual(t, len(page.Jobs), 2)
		for _, job := range page.Jobs {
			got = append(got, job.ID)
		}
		if page.Next == nil {
			break
		}
		from = "&from=" + *page.Next
	}
	require.Equal(t, want, got)
	count := func(query string) int { return len(get[operator.Jobs](l, "GET", "/jobs?"+query, "").Jobs) }
	require.Equal(t, 5, count("state=queued&state=running&kind=purge_history"))
	require.Zero(t, count("state=complete"))
	require.Zero(t, count("kind=delete_room"))
	require.Zero(t, count("room=!other:x"))
	require.Equal(t, 5, count("requester=@admin:x"))
	require.Zero(t, count("requester=@user:x"))
	require.Equal(t, 5, count("since=1"))
	require.Zero(t, count("before=1"))
	require.Zero(t, count("since=32503680000000"))
	require.Equal(t, 5, count("before=32503680000000"))
	require.Equal(t, "turn: 5th of this room", get[operator.Job](l, "GET", "/jobs/"+want[0], "").WaitsFor)

	for query, text := range map[string]string{
		"state=done": "must be one of", "kind=x": "must be one of", "limit=0": "from 1 to 1000", "limit=1001": "from 1 to 1000",
		"limit=x": "must be an integer", "room=x": "not a legal room ID", "from=x": "must be the next of another page", "since=-1": "positive",
	} {
		l.refused(400, text, "GET", "/jobs?"+query, "")
	}
	for _, id := range []string{"x", "AbCdEfGhIjKlMnOp", "%00", ".."} {
		l.refused(404, "", "GET", "/jobs/"+id, "")
	}
}

func TestOnlyAdmins(t *testing.T) {
	t.Parallel()
	l := setup(t)
	for _, route := range operator.New(nil, nil, nil, nil, operator.Options{}).Routes() {
		require.Equal(t, 403, l.as("user", route.Method, route.Path, `{}`).status, route.Path)
	}
	require.Equal(t, 401, l.as("none", "GET", "/jobs", ``).status)
	require.Zero(t, storetest.One[int](l.Lab, `SELECT count(*) FROM lethe.jobs`))
}
