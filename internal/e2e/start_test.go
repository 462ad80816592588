package e2e

import (
	"context"
	"fmt"
	"net/http"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"lethe/internal/devstack/devstacktest"
	"lethe/internal/store/migrate"
)

// refused runs a binary that is to exit with an error, and returns what it says.
func refused(t *testing.T, name string, env ...string) string {
	t.Helper()
	binary := filepath.Join(devstacktest.Binaries(t), name) // which may be built first
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	command := exec.CommandContext(ctx, binary)
	command.Env = append([]string{
		"LETHE_REDIS_URL=redis://127.0.0.1:1", "LETHE_API_LISTEN=127.0.0.1:0", "LETHE_API_METRICS_LISTEN=",
		"LETHE_WORKER_LISTEN=", "LETHE_SCHEDULER_LISTEN=",
	}, env...)
	output, err := command.CombinedOutput()
	require.NoError(t, ctx.Err(), "it does not exit: %s", output)
	require.Error(t, err, "%s", output)
	return string(output)
}

func TestBadSettingsAreAllRefusedAtOnce(t *testing.T) {
	t.Parallel()
	said := refused(t, "worker", "LETHE_DATABASE_URL=postgres://u:hunter2@[/db", "LETHE_SYNAPSE_BESIDE=maybe", "LETHE_STATUS_TTL=soon", "LETHE_SPEED=9")
	for _, name := range []string{"LETHE_DATABASE_URL", "LETHE_SYNAPSE_BESIDE", "LETHE_STATUS_TTL", "LETHE_SPEED", "LETHE_SERVER_NAME", "auto, true, false"} {
		require.Contains(t, said, name)
	}
	require.NotContains(t, said, "hunter2")
}

func TestDoubtfulRetentionIsToldAtTheStart(t *testing.T) {
	t.Parallel()
	empty := "LETHE_DATABASE_URL=" + devstacktest.EmptyDatabase(t)
	jobs := "LETHE_RETENTION_PURGE_JOBS=[{interval: 1d, shortest_max_lifetime: 3d}]"
	const doubt = `level=WARN msg="doubtful retention" warning="no purge job covers a max_lifetime up to 3d:`
	require.Contains(t, refused(t, "scheduler", empty, jobs, "LETHE_RETENTION_ENABLED=true"), doubt)
	require.NotContains(t, refused(t, "scheduler", empty, jobs), "doubtful")
}

func TestSchemaThatDoesNotFitIsRefused(t *testing.T) {
	t.Parallel()
	empty := "LETHE_DATABASE_URL=" + devstacktest.EmptyDatabase(t)
	for _, name := range []string{"api", "worker", "scheduler"} {
		require.Contains(t, refused(t, name, empty, "LETHE_SERVER_NAME=x"), "lethe migrate")
	}
	f, _ := demo(t, 200)
	_, err := f.sql.Exec(t.Context(), `INSERT INTO lethe.migrations_lethe (version_id, is_applied) VALUES (99, true)`)
	require.NoError(t, err)
	require.Contains(t, refused(t, "scheduler", "LETHE_DATABASE_URL="+f.database), "run a newer Lethe")
}

func TestWorkerMustKnowItsServerName(t *testing.T) {
	t.Parallel()
	synapse := devstacktest.Restored(t, devstacktest.Shared(t, "fixtures", "synapse-1.160-corpus.dump"))
	require.NoError(t, migrate.Up(t.Context(), synapse))
	redis := "LETHE_REDIS_URL=" + devstacktest.Redis(t).URL()
	require.Contains(t, refused(t, "worker", "LETHE_DATABASE_URL="+synapse, "LETHE_SERVER_NAME=other.test", redis), "LETHE_SERVER_NAME")
}

func TestReadiness(t *testing.T) {
	t.Parallel()
	f, _ := demo(t, 200)
	worker := f.start("worker")
	ready := func(p *process) func() bool {
		return func() bool { return get(t, p, "/readyz") == http.StatusOK }
	}
	f.eventually(10*time.Second, ready(f.api), "the api is not ready")
	f.eventually(10*time.Second, ready(worker), "the worker is not ready")
	f.redis.Kill()
	f.eventually(10*time.Second, func() bool { return !ready(worker)() }, "the worker is ready without Redis")
	f.eventually(10*time.Second, ready(f.api), "the api is not ready without Redis")
	require.Equal(t, http.StatusOK, get(t, worker, "/healthz"))
	require.Equal(t, http.StatusOK, get(t, worker, "/metrics"))
}

func get(t *testing.T, p *process, path string) int {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, fmt.Sprintf("http://%s%s", p.address, path), http.NoBody)
	require.NoError(t, err)
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return 0
	}
	require.NoError(t, response.Body.Close())
	return response.StatusCode
}
