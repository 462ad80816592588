package synapserun_test

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"lethe/internal/bench/synapserun"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("net/http.(*persistConn).readLoop"), goleak.IgnoreAnyFunction("net/http.(*persistConn).writeLoop"))
}

// An answerer gives Synapse's answers in turn, and records the requests. It is healthy while
// the file exists that the command makes.
type answerer struct {
	file string

	mu       sync.Mutex
	answers  []string
	requests []string
}

func (a *answerer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path == "/health" {
		if _, err := os.Stat(a.file); err != nil {
			w.WriteHeader(http.StatusBadGateway)
		}
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	body, _ := io.ReadAll(r.Body)
	a.requests = append(a.requests, strings.TrimSpace(r.Method+" "+r.URL.EscapedPath()+" "+string(body)))
	if r.Header.Get("Authorization") != "Bearer secret" || len(a.answers) == 0 {
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	_, _ = io.WriteString(w, a.answers[0])
	a.answers = a.answers[1:]
}

func newSynapse(t *testing.T, answers ...string) (context.Context, *answerer, synapserun.Synapse) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	a := &answerer{file: filepath.Join(t.TempDir(), "running"), answers: answers}
	server := httptest.NewServer(a)
	t.Cleanup(server.Close)
	return ctx, a, synapserun.Synapse{
		URL: server.URL + "/", Token: "secret",
		Command: `trap 'rm ` + a.file + `; exit' TERM; echo "$PGHOST $PGPORT $PGUSER $PGDATABASE" >` + a.file + `; sleep 60 & wait`,
	}
}

const database = "postgres://lethe@127.0.0.1:5432/copy"

func TestPurgeHistory(t *testing.T) {
	t.Parallel()
	ctx, a, synapse := newSynapse(t, `{"purge_id":"p/1"}`, `{"status":"active"}`, `{"status":"complete"}`)
	require.NoError(t, synapse.On(ctx, database, func(ctx context.Context) error {
		said, err := os.ReadFile(a.file)
		require.NoError(t, err)
		require.Equal(t, "127.0.0.1 5432 lethe copy\n", string(said))
		took, err := synapse.PurgeHistory(ctx, "!room:x", "$event")
		require.Positive(t, took)
		return err
	}))
	require.NoFileExists(t, a.file, "the command was told to stop")
	require.Equal(t, []string{
		`POST /_synapse/admin/v1/purge_history/%21room:x {"delete_local_events":true,"purge_up_to_event_id":"$event"}`,
		`GET /_synapse/admin/v1/purge_history_status/p%2F1`, `GET /_synapse/admin/v1/purge_history_status/p%2F1`,
	}, a.requests)
}

func TestDeleteRoom(t *testing.T) {
	t.Parallel()
	ctx, a, synapse := newSynapse(t, `{"delete_id":"d"}`, `{"status":"shutting_down"}`, `{"status":"purging"}`, `{"status":"complete"}`)
	_, err := synapse.DeleteRoom(ctx, "!room:x")
	require.NoError(t, err)
	require.Equal(t, []string{
		`DELETE /_synapse/admin/v2/rooms/%21room:x {"force_purge":true,"purge":true}`, `GET /_synapse/admin/v2/rooms/delete_status/d`,
	}, a.requests[:2])
}

func TestFailures(t *testing.T) {
	t.Parallel()
	ctx, _, synapse := newSynapse(t, `{"purge_id":"p"}`, `{"status":"failed","error":"no room left"}`)
	_, err := synapse.PurgeHistory(ctx, "!room:x", "$event")
	require.ErrorContains(t, err, "no room left")
	_, err = synapse.DeleteRoom(ctx, "!room:x")
	require.ErrorContains(t, err, "status 401")
	require.NotContains(t, err.Error(), "secret")

	broken := errors.New("broken")
	require.ErrorIs(t, synapse.On(ctx, database, func(context.Context) error { return broken }), broken)
	require.ErrorContains(t, synapse.On(ctx, "host=x password=secret port=y", nil), "not valid")

	synapse.Command = "exit 3"
	require.ErrorContains(t, synapse.On(ctx, database, nil), "exit status 3")
}

// A Synapse that answers already runs on another database.
func TestBusy(t *testing.T) {
	t.Parallel()
	ctx, a, synapse := newSynapse(t)
	require.NoError(t, os.WriteFile(a.file, nil, 0o600))
	require.ErrorIs(t, synapse.On(ctx, database, nil), synapserun.ErrBusy)
}
