package httpapi_test

import (
	"context"
	"encoding/json"
	"log/slog"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"lethe/internal/devstack/devstacktest"
	"lethe/internal/httpapi"
	"lethe/internal/jobs"
	"lethe/internal/redisdb"
	"lethe/internal/store/journal"
	"lethe/internal/store/postgres"
	"lethe/internal/tasks"
)

// real is a bundle with the real things behind the API, but no worker.
type real struct {
	*bundle
	store *postgres.DB
	redis redis.UniversalClient
	board *watchedBoard
}

// A watchedBoard is a board that knows for how many requests it was asked.
type watchedBoard struct {
	*jobs.Board
	mu       sync.Mutex
	requests map[context.Context]bool
}

func (b *watchedBoard) Status(ctx context.Context, kind journal.Kind, id string) (jobs.Status, error) {
	b.mu.Lock()
	b.requests[ctx] = true
	b.mu.Unlock()
	return b.Board.Status(ctx, kind, id)
}

// requireAsked waits until n requests in all have asked for a status.
func (b *watchedBoard) requireAsked(t *testing.T, n int) {
	t.Helper()
	require.Eventually(t, func() bool {
		b.mu.Lock()
		defer b.mu.Unlock()
		return len(b.requests) >= n
	}, time.Minute, 5*time.Millisecond)
}

func setupReal(t *testing.T, options httpapi.Options) *real {
	t.Helper()
	url := devstacktest.Database(t, "httpapi", prepare)
	db := openStore(t, url)
	client, err := redisdb.Open(devstacktest.Redis(t).URL())
	require.NoError(t, err)
	t.Cleanup(func() { _ = client.Close() })
	discard := slog.New(slog.DiscardHandler)
	board := &watchedBoard{Board: jobs.NewBoard(db, client, time.Hour, discard), requests: map[context.Context]bool{}}
	b := &bundle{
		server: httptest.NewUnstartedServer(nil), url: url, log: &log{}, observed: make(chan observed, 1000),
	}
	options.Log = slog.New(slog.NewTextHandler(b.log, nil))
	options.Observe = func(route, method string, status int, _ time.Duration) {
		b.observed <- observed{route, method, status}
	}
	b.server.Config = serverOf(httpapi.New(db, tasks.NewClient(db, client, nil, discard), board, options))
	b.server.Start()
	t.Cleanup(b.server.Close)
	return &real{b, db, client, board}
}

// What a purge's id is good
// for, from its acceptance to its end.
func TestWithRealJobs(t *testing.T) {
	t.Parallel()
	b := setupReal(t, httpapi.Options{SeedDialect: true})

	r := b.send(t, "POST", room, `{"purge_up_to_ts":2000,"delete_local_events":1}`)
	require.Equal(t, 200, r.status, r.body)
	var accepted map[string]string
	require.NoError(t, json.Unmarshal([]byte(r.body), &accepted))
	id := accepted["purge_id"]
	require.Regexp(t, `^[A-Za-z]{16}$`, id)
	requireJSON(t, b.send(t, "GET", status+id, ""), 200, `{"status":"active"}`)
	requireJSON(t, b.send(t, "POST", room+"/$one", ""), 400,
		refusal("M_UNKNOWN", "History purge already in progress for !room:x"))
	require.Equal(t, 200, b.send(t, "POST", "/_synapse/admin/v1/purge_history/!other:x/$other", "").status)

	// Redis loses everything, and the row has it still.
	b.requireExec(t, `UPDATE lethe.jobs SET state = 'failed', error = 'why', ended_at = now() WHERE id = $1`, id)
	require.NoError(t, b.redis.FlushAll(t.Context()).Err())
	requireJSON(t, b.send(t, "GET", status+id, ""), 200, `{"status":"failed","error":"why"}`)
	require.Equal(t, 200, b.send(t, "POST", room+"/$one", "").status)

	b.requireExec(t, `
		INSERT INTO lethe.jobs (id, kind, room_id, parameters, requester)
		VALUES ('DeleteDeleteDele', 'delete_room', '!room:x', '{}', '@admin:x')`)
	for _, unknown := range []string{"DeleteDeleteDele", "NobodyNobodyNobo", "%00", "%FF", "x%2Fy"} {
		r := b.send(t, "GET", status+unknown, "")
		require.Equal(t, 404, r.status)
		require.Contains(t, r.body, "M_NOT_FOUND")
	}
}
