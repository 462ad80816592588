package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"lethe/internal/roomgen"
)

const mortal = "the token of a user who is no admin"

// asynqmon asks asynqmon, and returns the status, the headers and the body.
func (p *process) asynqmon(method, path, token string) (int, http.Header, string) {
	p.t.Helper()
	request, err := http.NewRequestWithContext(p.t.Context(), method, "http://"+p.address+path, http.NoBody)
	require.NoError(p.t, err)
	if token != "" {
		request.SetBasicAuth("", token)
	}
	response, err := http.DefaultClient.Do(request)
	require.NoError(p.t, err)
	defer func() { _ = response.Body.Close() }()
	body, err := io.ReadAll(response.Body)
	require.NoError(p.t, err)
	return response.StatusCode, response.Header, string(body)
}

// A shownTask is what asynqmon tells of a task.
type shownTask struct {
	ID      string `json:"id"`
	Type    string `json:"type"`
	Payload string `json:"payload"`
}

// A shownQueue is what asynqmon tells of a queue.
type shownQueue struct {
	Queue     string `json:"queue"`
	Active    int    `json:"active"`
	Pending   int    `json:"pending"`
	Processed int    `json:"processed"`
	Failed    int    `json:"failed"`
}

func TestAsynqmonShowsTheQueues(t *testing.T) {
	t.Parallel()
	f, purge := demo(t, 400)
	require.NoError(t, roomgen.Account(t.Context(), f.sql, "@mortal:"+server, mortal, false))
	const listen = "LETHE_ASYNQMON_LISTEN=127.0.0.1:0"
	name := f.names().Queue("default")
	shown := f.start("asynqmon", listen)
	read := func(path string, into any) {
		status, _, body := shown.asynqmon(http.MethodGet, path, token)
		require.Equal(t, http.StatusOK, status, body)
		require.NoError(t, json.Unmarshal([]byte(body), into), body)
	}
	tasks := func(state string) []shownTask {
		var list struct {
			Tasks []shownTask `json:"tasks"`
		}
		read("/api/queues/"+name+"/"+state+"_tasks?page=1&size=20", &list)
		return list.Tasks
	}
	queue := func() shownQueue {
		var answer struct {
			Current shownQueue `json:"current"`
		}
		read("/api/queues/"+name, &answer)
		return answer.Current
	}

	// Queued: there is no worker yet.
	id := f.purge(large, purge)
	want := []shownTask{{ID: id + "~1", Type: "purge_history", Payload: fmt.Sprintf(
		`{"job_id":"%s","generation":1,"kind":"purge_history","room_id":"%s"}`, id, large)}}
	require.Equal(t, want, tasks("pending"))
	require.Equal(t, shownQueue{Queue: name, Pending: 1}, queue())

	// Nobody else sees it, and nobody changes it.
	for _, path := range []string{"/", "/api/queues", "/api/queues/" + name + "/pending_tasks", "/static/js/main.5adda2da.chunk.js", "/api/redis_info"} {
		status, header, body := shown.asynqmon(http.MethodGet, path, "")
		require.Equal(t, http.StatusUnauthorized, status, path)
		require.Contains(t, header.Get("WWW-Authenticate"), "Basic ")
		require.Contains(t, body, "M_MISSING_TOKEN")
		status, _, _ = shown.asynqmon(http.MethodGet, path, mortal)
		require.Equal(t, http.StatusForbidden, status, path)
		status, _, _ = shown.asynqmon(http.MethodGet, path+"?access_token="+f.token, "")
		require.Equal(t, http.StatusUnauthorized, status, path)
	}
	changes := map[string]string{
		"/api/queues/" + name + "/pending_tasks/" + id + "~1":         http.MethodDelete,
		"/api/queues/" + name + "/pending_tasks/" + id + "~1:archive": http.MethodPost,
		"/api/queues/" + name + "/pending_tasks:delete_all":           http.MethodDelete,
		"/api/queues/" + name + ":pause":                              http.MethodPost,
		"/api/queues/" + name:                                         http.MethodDelete,
		"/api/queues/" + name + "/active_tasks:cancel_all":            http.MethodPost,
	}
	for path, method := range changes {
		status, _, _ := shown.asynqmon(method, path, token)
		require.Equal(t, http.StatusMethodNotAllowed, status, path)
	}
	require.Equal(t, want, tasks("pending"))

	// The page knows that it is read-only, and may load nothing from elsewhere.
	status, header, page := shown.asynqmon(http.MethodGet, "/queues/"+name, token)
	require.Equal(t, http.StatusOK, status)
	require.Contains(t, page, `FLAG_READ_ONLY="true"`)
	require.Contains(t, header.Get("Content-Security-Policy"), "default-src 'none'; script-src 'self' 'sha256-")
	for _, script := range regexp.MustCompile(`src="([^"]+)"`).FindAllStringSubmatch(page, -1) {
		status, header, _ := shown.asynqmon(http.MethodGet, script[1], token)
		require.Equal(t, http.StatusOK, status)
		require.Contains(t, header.Get("Content-Type"), "javascript")
	}

	// Running: it waits for a row that we hold.
	tx, err := f.sql.Begin(t.Context())
	require.NoError(t, err)
	defer func() { _ = tx.Rollback(context.WithoutCancel(t.Context())) }()
	_, err = tx.Exec(t.Context(), `SELECT FROM room_depth WHERE room_id = $1 FOR UPDATE`, large)
	require.NoError(t, err)
	worker := f.start("worker")
	f.eventually(30*time.Second, func() bool { return queue().Active == 1 }, "no task is active")
	require.Equal(t, want, tasks("active"))
	require.Empty(t, tasks("pending"))
	var servers struct {
		Servers []struct {
			Queues map[string]int `json:"queue_priorities"`
		} `json:"servers"`
	}
	f.eventually(30*time.Second, func() bool { read("/api/servers", &servers); return len(servers.Servers) == 2 }, "the worker is not shown")

	// Done.
	require.NoError(t, tx.Rollback(t.Context()))
	f.await(time.Minute, id)
	f.eventually(30*time.Second, func() bool { return queue() == shownQueue{Queue: name, Processed: 1} }, "it is not shown as done")
	worker.kill()

	// One that may change things says so, and does.
	free := f.start("asynqmon", listen, "LETHE_ASYNQMON_READ_ONLY=false")
	_, _, page = free.asynqmon(http.MethodGet, "/", token)
	require.Contains(t, page, `FLAG_READ_ONLY="false"`)
	status, _, body := free.asynqmon(http.MethodPost, "/api/queues/"+name+":pause", token)
	require.Equal(t, http.StatusNoContent, status, body)
	var paused struct {
		Current struct {
			Paused bool `json:"paused"`
		} `json:"current"`
	}
	read("/api/queues/"+name, &paused)
	require.True(t, paused.Current.Paused)
	require.Contains(t, free.tail(), `"msg":"asynqmon changes something","requester":"`+admin)
	status, _, _ = free.asynqmon(http.MethodPost, "/api/queues/"+name+":resume", mortal)
	require.Equal(t, http.StatusForbidden, status)
	require.Equal(t, http.StatusOK, get(t, free, "/readyz"))
}
