package operator_test

import (
	"bufio"
	"context"
	"encoding/json"
	"io"
	"math"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"lethe/internal/operator"
	"lethe/internal/tasks"
)

// A message is a server-sent event.
type message struct{ id, event, data string }

// follow sends the messages of a stream to a channel, which is closed at its end. The
// status is that of the answer.
func (l *lab) follow(ctx context.Context, path, lastEventID string) (<-chan message, int) {
	l.T.Helper()
	r, err := http.NewRequestWithContext(ctx, "GET", l.server.URL+root+path, nil)
	require.NoError(l.T, err)
	r.Header.Set("Authorization", "Bearer admin")
	if lastEventID != "" {
		r.Header.Set("Last-Event-ID", lastEventID)
	}
	response, err := l.server.Client().Do(r)
	require.NoError(l.T, err)
	l.T.Cleanup(func() { _ = response.Body.Close() })
	messages := make(chan message, 1000)
	if response.StatusCode != http.StatusOK {
		close(messages)
		return messages, response.StatusCode
	}
	require.Equal(l.T, "text/event-stream", response.Header.Get("Content-Type"))
	go func() {
		defer close(messages)
		read(response.Body, messages)
	}()
	return messages, response.StatusCode
}

func read(body io.Reader, messages chan<- message) {
	var m message
	lines := bufio.NewScanner(body)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		name, value, _ := strings.Cut(lines.Text(), ": ")
		switch {
		case lines.Text() == "" && m.event != "":
			messages <- m
			m = message{}
		case name == "id":
			m.id = value
		case name == "event":
			m.event = value
		case name == "data":
			m.data = value
		}
	}
}

func TestFollowAJob(t *testing.T) {
	t.Parallel()
	l := setup(t)
	l.Chain(room, "a", 40, 0)
	id := l.purge("$a30", `,"delete_local_events":true`).ID
	stream, status := l.follow(l.Ctx, "/jobs/"+id+"/events", "")
	require.Equal(t, 200, status)
	l.work(tasks.WorkerOptions{BatchEvents: 5})
	var events, ids []string
	for m := range stream { // which ends with the job
		switch m.event {
		case "job":
			requireSchema(t, "/components/schemas/JobEvent", []byte(m.data))
			var change operator.JobEvent
			require.NoError(t, json.Unmarshal([]byte(m.data), &change))
			require.Equal(t, strconv.FormatInt(change.Event.ID, 10), m.id)
			require.Equal(t, id, change.Job.ID)
			events, ids = append(events, change.Event.Event), append(ids, m.id)
		case "progress":
			requireSchema(t, "/components/schemas/Job", []byte(m.data))
			require.Empty(t, m.id)
		default:
			require.Fail(t, "unknown event", m.event)
		}
	}
	require.Equal(t, []string{"queued", "running", "complete"}, events)

	// A client that connects again gets what it has missed, and nothing twice.
	stream, status = l.follow(l.Ctx, "/jobs/"+id+"/events", ids[0])
	require.Equal(t, 200, status)
	var again []string
	for m := range stream {
		again = append(again, m.id)
	}
	require.Equal(t, ids[1:], again)
	stream, _ = l.follow(l.Ctx, "/jobs/"+id+"/events?after="+ids[1], ids[0])
	require.Equal(t, ids[2], (<-stream).id, "the parameter comes first")
	_, status = l.follow(l.Ctx, "/jobs/"+id+"/events?after="+ids[2], "")
	require.Equal(t, 204, status, "there is no more")
	_, status = l.follow(l.Ctx, "/events", "x")
	require.Equal(t, 400, status)
	l.refused(400, "after must be an integer", "GET", "/events?after=x", "")
}

func TestFollowAllJobs(t *testing.T) {
	t.Parallel()
	l := setup(t)
	l.Chain(room, "a", 40, 0)
	l.purge("$a3", "")
	ctx, cancel := context.WithCancel(l.Ctx)
	defer cancel()
	stream, status := l.follow(ctx, "/events", "")
	require.Equal(t, 200, status)
	id := l.purge("$a5", "").ID
	get[operator.Outcome](l, "POST", "/jobs/"+id+"/cancel", `{"reason":"r"}`)
	var events []string
	deadline := time.After(time.Minute)
	for len(events) == 0 || events[len(events)-1] != "cancelled" {
		select {
		case m := <-stream:
			if m.event == "job" {
				var change operator.JobEvent
				require.NoError(t, json.Unmarshal([]byte(m.data), &change))
				require.Equal(t, id, change.Job.ID, "only what comes after the connection")
				events = append(events, change.Event.Event)
			}
		case <-deadline:
			require.Fail(t, "no event", "%v", events)
		}
	}
	require.Equal(t, []string{"queued", "cancel", "cancelled"}, events)
}

// A client that does not read has one of the streams, and others are refused until it goes.
func TestStreamsAreBounded(t *testing.T) {
	t.Parallel()
	l := setup(t)
	ctx, cancel := context.WithCancel(l.Ctx)
	defer cancel()
	const most = 100
	for range most {
		_, status := l.follow(ctx, "/events", "")
		require.Equal(t, 200, status)
	}
	l.refused(503, "Too many clients follow events", "GET", "/events", "")
	require.NotNil(t, get[operator.Fleet](l, "GET", "/fleet", "").Limits, "other requests are served")
	cancel()
	require.Eventually(t, func() bool {
		ctx, cancel := context.WithCancel(l.Ctx)
		defer cancel()
		_, status := l.follow(ctx, "/events", "")
		return status == 200
	}, time.Minute, 50*time.Millisecond)
}

// TestFollowFromBeyondTheNewestEvent checks that a place which no event has had yet, as
// after a restore of the database, hides none of the later events.
func TestFollowFromBeyondTheNewestEvent(t *testing.T) {
	t.Parallel()
	l := setup(t)
	l.Chain(room, "a", 40, 0)
	id := l.purge("$a30", "").ID
	beyond := strconv.FormatInt(math.MaxInt64, 10)
	ofJob, status := l.follow(l.Ctx, "/jobs/"+id+"/events", beyond)
	require.Equal(t, 200, status)
	ctx, cancel := context.WithTimeout(l.Ctx, time.Minute)
	defer cancel()
	ofAll, status := l.follow(ctx, "/events", beyond)
	require.Equal(t, 200, status)
	get[operator.Outcome](l, "POST", "/jobs/"+id+"/cancel", "{}")
	require.Equal(t, "job", (<-ofAll).event)
	cancel()
	var last message
	for m := range ofJob { // which ends with the job
		last = m
	}
	require.Contains(t, last.data, `"cancelled"`)
}

// TestFollowWhileAnEventIsWritten checks that a client learns when to ask again if the
// newest event cannot be known.
func TestFollowWhileAnEventIsWritten(t *testing.T) {
	t.Parallel()
	l := setup(t)
	l.Exec(`BEGIN`)
	l.Exec(`LOCK TABLE lethe.job_events IN ROW EXCLUSIVE MODE`)
	l.refused(503, "M_LIMIT_EXCEEDED", "GET", "/events", "")
	l.Exec(`ROLLBACK`)
}

// TestFollowTheProgress checks that a stream tells how far a job is, though nothing has
// happened to it.
func TestFollowTheProgress(t *testing.T) {
	t.Parallel()
	l := setup(t)
	l.Chain(room, "a", 40, 0)
	id := l.purge("$a30", "").ID
	l.Exec(`UPDATE lethe.jobs SET state = 'running', attempt = 1, started_at = now(), heartbeat_at = now() WHERE id = $1`, id)
	for i, path := range []string{"/jobs/" + id + "/events", "/events"} {
		ctx, cancel := context.WithTimeout(l.Ctx, time.Minute)
		stream, status := l.follow(ctx, path, "")
		require.Equal(t, 200, status)
		want := int64(5 + i)
		var shown operator.Job
		for m := range stream {
			if m.event == "progress" {
				require.NoError(t, json.Unmarshal([]byte(m.data), &shown))
				if shown.Done == want {
					break
				}
			}
			// Only now, because the first message has the job as it is.
			l.Exec(`UPDATE lethe.jobs SET updated_at = clock_timestamp(), checkpoint = jsonb_build_object('events_deleted', $2::int) WHERE id = $1`, id, want)
		}
		cancel()
		require.Equal(t, id, shown.ID, path)
		require.Equal(t, want, shown.Done, path)
	}
}
