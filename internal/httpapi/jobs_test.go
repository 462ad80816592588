package httpapi_test

import (
	"context"
	"encoding/json"
	"log/slog"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"lethe/internal/devstack/devstacktest"
	"lethe/internal/httpapi"
	"lethe/internal/jobs"
	"lethe/internal/redisdb"
	"lethe/internal/store"
	"lethe/internal/tasks"
)

// The one test with the real things behind the API: what a purge's id is good
// for, from its acceptance to its end.
func TestWithRealJobs(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	url := devstacktest.Database(t, "httpapi", prepare)
	conn, err := pgx.Connect(ctx, url)
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close(context.Background()) })
	db, err := store.Open(ctx, url, store.Options{})
	require.NoError(t, err)
	t.Cleanup(db.Close)
	client, err := redisdb.Open(devstacktest.Redis(t).URL())
	require.NoError(t, err)
	t.Cleanup(func() { _ = client.Close() })
	log := slog.New(slog.DiscardHandler)
	board := jobs.NewBoard(db, client, time.Hour, log)
	b := &bundle{server: httptest.NewUnstartedServer(nil)}
	b.server.Config = serverOf(httpapi.New(db, tasks.NewClient(db, client, board, log), board, httpapi.Options{Log: log, SeedDialect: true}))
	b.server.Start()
	t.Cleanup(b.server.Close)

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
	_, err = conn.Exec(ctx, `UPDATE lethe.jobs SET state = 'failed', error = 'why', ended_at = now() WHERE id = $1`, id)
	require.NoError(t, err)
	require.NoError(t, client.FlushAll(ctx).Err())
	requireJSON(t, b.send(t, "GET", status+id, ""), 200, `{"status":"failed","error":"why"}`)
	require.Equal(t, 200, b.send(t, "POST", room+"/$one", "").status)

	_, err = conn.Exec(ctx, `
		INSERT INTO lethe.jobs (id, kind, room_id, parameters, requester)
		VALUES ('DeleteDeleteDele', 'delete_room', '!room:x', '{}', '@admin:x')`)
	require.NoError(t, err)
	for _, unknown := range []string{"DeleteDeleteDele", "NobodyNobodyNobo", "%00", "%FF", "x%2Fy"} {
		r := b.send(t, "GET", status+unknown, "")
		require.Equal(t, 404, r.status)
		require.Contains(t, r.body, "M_NOT_FOUND")
	}
}
