package operator_test

import (
	"fmt"
	"net/url"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"lethe/internal/operator"
	"lethe/internal/retention"
	"lethe/internal/store/leftover"
	"lethe/internal/store/storetest"
	"lethe/internal/store/vacuum"
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
	require.Equal(t, &operator.JobRequest{
		Reason: "case 7", BeforeEvent: "$a20", BeforeDepth: new(int64(20)), DeleteLocal: new(true), Plan: planned.Digest,
	}, job.Request)
	require.Nil(t, job.Result)

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

	l.Exec(`UPDATE events SET received_ts = depth`)
	accepted = get[operator.Accepted](l, "POST", "/purges", `{"room_id":"!room:x","before_ts":25}`)
	request := get[operator.Job](l, "GET", "/jobs/"+accepted.ID, "").Request
	require.Equal(t, &operator.JobRequest{BeforeTime: new(int64(25)), BeforeDepth: request.BeforeDepth, DeleteLocal: new(false)}, request)
	require.NotZero(t, *request.BeforeDepth)
	for _, listed := range get[operator.Jobs](l, "GET", "/jobs", "").Jobs {
		require.Nil(t, listed.Request)
	}
}

func TestDeleteTellsItsRequestAndResult(t *testing.T) {
	t.Parallel()
	l := setup(t)
	l.Chain(room, "a", 9, 0)
	id := get[operator.Accepted](l, "POST", "/deletes",
		`{"room_id":"!room:x","block":true,"new_room_user_id":"@user:x","room_name":"Here","message":"moved","reason":"spam"}`).ID
	job := get[operator.Job](l, "GET", "/jobs/"+id, "")
	require.Equal(t, &operator.JobRequest{
		Reason: "spam", Block: new(true), Purge: new(true), ForcePurge: new(false), NewRoomUser: "@user:x", RoomName: "Here", Message: "moved",
	}, job.Request)
	require.Nil(t, job.Result, "it has not begun")
	l.Exec(`
		UPDATE lethe.jobs SET checkpoint = '{"phase": "purging", "shutdown_room": {
			"kicked_users": ["@a:x", "@b:x"], "failed_to_kick_users": ["@c:x"], "local_aliases": null, "new_room_id": "!new:x"},
			"left": [], "kept": [{"table": "event_reports", "rows": 2, "column": "room_id", "keys": ["!room:x"], "why": "moderators read them"}]}'`)
	require.Equal(t, &operator.JobResult{
		KickedUsers: []string{"@a:x", "@b:x"}, FailedToKickUsers: []string{"@c:x"}, LocalAliases: []string{}, NewRoom: new("!new:x"),
		Report: &leftover.Report{Left: []leftover.Table{}, Kept: []leftover.Table{{
			Table: "event_reports", Rows: 2, Column: "room_id", Keys: []string{room}, Why: "moderators read them",
		}}},
	}, get[operator.Job](l, "GET", "/jobs/"+id, "").Result)
	l.Exec(`UPDATE lethe.jobs SET parameters = '[1]', checkpoint = '"x"'`)
	job = get[operator.Job](l, "GET", "/jobs/"+id, "")
	require.Equal(t, &operator.JobRequest{Reason: "spam"}, job.Request, "the job itself will say what is wrong")
	require.Nil(t, job.Result)
}

// What is done after a job's end about the space that it has left is in the row.
func TestAJobTellsItsVacuum(t *testing.T) {
	t.Parallel()
	l := setup(t)
	l.Chain(room, "a", 9, 0)
	id := get[operator.Accepted](l, "POST", "/purges", `{"room_id":"!room:x","before_event_id":"$a5"}`).ID
	shown := func() *vacuum.Phase { return get[operator.Job](l, "GET", "/jobs/"+id, "").Vacuum }
	require.Nil(t, shown())
	l.Exec(`UPDATE lethe.jobs SET vacuum = '{"state": "done", "generation": 1, "horizon": "777", "tables": [
		{"name": "events", "state": "skipped", "reason": "why"}, {"name": "event_json", "state": "done", "seconds": 2, "pages": 3, "space": {"bytes": 9}}]}'`)
	require.Nil(t, shown(), "it is that of an earlier end, before a retry")
	l.Exec(`UPDATE lethe.jobs SET state = 'complete', ended_at = clock_timestamp()`)
	require.Equal(t, &vacuum.Phase{State: vacuum.Done, Generation: 1, Tables: []vacuum.EmptiedTable{
		{Name: "events", State: vacuum.Skipped, Reason: "why"},
		{Name: "event_json", State: vacuum.Done, Seconds: 2, Pages: 3, Space: &vacuum.Space{Bytes: 9}},
	}}, shown())
	require.Nil(t, get[operator.Jobs](l, "GET", "/jobs", "").Jobs[0].Vacuum, "lists are without it")
	l.Exec(`UPDATE lethe.jobs SET vacuum = '{"state": 7}'`)
	require.Nil(t, shown())
}

// A sweep counts rooms, and says which of them got a job.
func TestSweepTellsItsResult(t *testing.T) {
	t.Parallel()
	l := setupWith(t, operator.Options{RetentionJobs: []string{"nightly"}})
	for i, room := range []string{"!a:x", "!b:x", "!c:x"} {
		l.Chain(room, room[1:2], 9, 10*i)
		l.Exec(`INSERT INTO current_state_events (event_id, room_id, type, state_key) VALUES ('$create' || $1, $1, 'm.room.create', '')`, room)
	}
	l.Exec(`UPDATE events SET received_ts = CASE room_id WHEN '!a:x' THEN 1 ELSE extract(epoch FROM now()) * 1000 END`)
	l.work(tasks.WorkerOptions{Retention: retention.Config{
		Enabled: true, DefaultPolicy: retention.Policy{MaxLifetime: new(int64(3_600_000))}, Jobs: []retention.Job{{Name: "nightly"}},
	}})
	job := l.ends(get[operator.Accepted](l, "POST", "/sweeps", `{"kind":"retention_sweep"}`).ID)
	require.Equal(t, "complete", job.State, job.Error)
	require.Equal(t, &operator.JobRequest{Name: "nightly"}, job.Request)
	require.EqualValues(t, 3, job.Done, "%+v", job.Result)
	require.EqualValues(t, 3, *job.Result.Rooms)
	require.EqualValues(t, 1, *job.Result.Enqueued)
	require.EqualValues(t, 2, job.Result.Skipped["nothing_expired"])
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
