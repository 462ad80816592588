package e2e

import (
	"context"
	"net/http"
	"os/exec"
	"path/filepath"
	"regexp"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"lethe/internal/devstack/devstacktest"
)

// operate runs the operator's tool, and returns its exit status and what it says.
func operate(t *testing.T, environ []string, args ...string) (int, string) {
	t.Helper()
	binary := filepath.Join(devstacktest.Binaries(t), "lethe") // which may be built first
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	command := exec.CommandContext(ctx, binary, args...)
	command.Env = environ
	said, err := command.CombinedOutput()
	if command.ProcessState == nil {
		require.NoError(t, err)
	}
	return command.ProcessState.ExitCode(), string(said)
}

// An image without a shell has nothing else to ask a process with.
func TestProbe(t *testing.T) {
	t.Parallel()
	f, _ := demo(t, 200)
	scheduler := f.start("scheduler")
	f.eventually(10*time.Second, func() bool { return get(t, scheduler, "/readyz") == http.StatusOK }, "the scheduler is not ready")

	status, said := operate(t, nil, "probe", "http://"+scheduler.address+"/readyz")
	require.Zero(t, status, said)
	f.redis.Kill()
	f.eventually(10*time.Second, func() bool {
		status, said = operate(t, nil, "probe", "http://"+scheduler.address+"/readyz")
		return status == 1
	}, "a scheduler without Redis is ready")
	require.Contains(t, said, "redis")

	scheduler.kill()
	status, said = operate(t, nil, "probe", "http://"+scheduler.address+"/readyz")
	require.Equal(t, 1, status, said)
	status, _ = operate(t, nil, "probe")
	require.Equal(t, 2, status)
}

func TestDemo(t *testing.T) {
	t.Parallel()
	environ := []string{"LETHE_DATABASE_URL=" + devstacktest.EmptyDatabase(t), "LETHE_SERVER_NAME=demo.test"}
	token := regexp.MustCompile(`access token of @admin:demo\.test \(each run creates a new one\): (demo_\w+)`)

	status, said := operate(t, environ, "demo")
	require.Zero(t, status, said)
	require.Regexp(t, token, said)
	require.Equal(t, 3, len(regexp.MustCompile(`\d+ events, made by @\S+:demo\.test`).FindAllString(said, -1)), said)
	first := token.FindStringSubmatch(said)[1]

	// What is there stays, and there is one more token.
	status, said = operate(t, environ, "demo")
	require.Zero(t, status, said)
	require.Regexp(t, token, said)
	require.NotEqual(t, first, token.FindStringSubmatch(said)[1])

	status, said = operate(t, environ[:1], "demo")
	require.Equal(t, 1, status)
	require.Contains(t, said, "LETHE_SERVER_NAME")
}

func TestDemoLeavesAHomeserversDatabaseAlone(t *testing.T) {
	t.Parallel()
	database := devstacktest.Restored(t, devstacktest.Shared(t, "fixtures", "synapse-1.160-corpus.dump"))
	status, said := operate(t, []string{"LETHE_DATABASE_URL=" + database, "LETHE_SERVER_NAME=lab.test"}, "demo")
	require.Equal(t, 1, status, said)
	require.NotContains(t, said, "access token")
}
