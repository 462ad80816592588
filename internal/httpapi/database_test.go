package httpapi_test

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"lethe/internal/devstack/devstacktest"
	"lethe/internal/httpapi"
	"lethe/internal/store/postgres"
)

// A database that cannot be reached is no fault of the caller's nor of the api's: every
// route says so, and when to ask again.
func TestDatabaseIsDown(t *testing.T) {
	t.Parallel()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	require.NoError(t, listener.Close()) // the connection is refused
	db, err := postgres.Open(t.Context(), "postgres://lethe@"+listener.Addr().String()+"/matrix", postgres.Options{})
	require.NoError(t, err)
	defer db.Close()
	b := setupOn(t, db, httpapi.Options{})
	for _, request := range [][2]string{
		{"GET", "/_synapse/admin/v1/rooms"},
		{"GET", "/_matrix/client/v3/rooms/!room:x/messages?dir=b"},
		{"POST", "/_synapse/admin/v1/purge_history/!room:x"},
		{"DELETE", "/_synapse/admin/v2/rooms/!room:x"},
	} {
		r := b.send(t, request[0], request[1], "{}")
		require.Equal(t, "5", r.header.Get("Retry-After"), request)
		requireJSON(t, r, http.StatusServiceUnavailable, `{"errcode":"M_UNKNOWN","error":"The database cannot be reached","retry_after_ms":5000}`)
		require.NotContains(t, r.body, listener.Addr().String())
	}
	require.Contains(t, b.log.String(), "connection refused", "the operator learns why")

	b = setup(t, httpapi.Options{})
	b.tasks.instead = func(context.Context) error { return fmt.Errorf("insert the job: %w", net.ErrClosed) }
	require.Equal(t, http.StatusServiceUnavailable, b.send(t, "POST", "/_synapse/admin/v1/purge_history/!room:x/$one", "").status)
}

// A request that needs rows which another transaction has locked is not kept waiting.
func TestDatabaseIsLocked(t *testing.T) {
	t.Parallel()
	url := devstacktest.Database(t, "httpapi", prepare)
	b := setupOn(t, openStore(t, url), httpapi.Options{})
	conn, err := pgx.Connect(t.Context(), url)
	require.NoError(t, err)
	defer func() { _ = conn.Close(context.Background()) }()
	_, err = conn.Exec(t.Context(), `BEGIN; INSERT INTO public.blocked_rooms VALUES ('!room:x', '@somebody:x')`)
	require.NoError(t, err)
	r := b.send(t, "PUT", "/_synapse/admin/v1/rooms/!room:x/block", `{"block": true}`)
	require.Equal(t, "2", r.header.Get("Retry-After"))
	requireJSON(t, r, http.StatusServiceUnavailable,
		`{"errcode":"M_UNKNOWN","error":"Another transaction has locked what the request needs","retry_after_ms":2000}`)
}
