package launch

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"lethe/internal/command"
	"lethe/internal/devstack/devstacktest"
	"lethe/internal/store/migrate"
)

// run runs a program with nothing but these variables, and returns its exit status and
// what it has said. It must end by itself.
func run(t *testing.T, environ []string, program string, args ...string) (status int, stdout, stderr string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 40*time.Second)
	defer cancel()
	var out, err strings.Builder
	c := exec.CommandContext(ctx, program, args...)
	c.Env, c.Stdout, c.Stderr = append([]string{"PATH=/nowhere"}, environ...), &out, &err
	_ = c.Run() // the status says it
	require.NoError(t, ctx.Err(), "%s %s does not end: %s", program, args, err.String())
	return c.ProcessState.ExitCode(), out.String(), err.String()
}

// programs returns the paths of everything that acts as a process, by the first line of
// its version.
func programs(t *testing.T) map[string]string {
	t.Helper()
	binaries, links := devstacktest.Binaries(t), t.TempDir()
	found := map[string]string{"asynqmon": filepath.Join(binaries, "asynqmon")}
	for _, name := range []string{"api", "worker", "scheduler"} {
		found[name] = filepath.Join(binaries, name)
		link := filepath.Join(links, name)
		require.NoError(t, os.Symlink(filepath.Join(binaries, "lethe"), link))
		found[name+" by a link"] = link
	}
	return found
}

func TestProcessesReadTheirArguments(t *testing.T) {
	t.Parallel()
	for name, program := range programs(t) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			process, _, _ := strings.Cut(name, " ")
			status, stdout, stderr := run(t, nil, program, "--help")
			require.Equal(t, command.Done, status, stderr)
			require.Contains(t, stdout, "--check")
			require.Contains(t, stdout, "Usage:\n  "+process)
			status, stdout, _ = run(t, nil, program, "--version")
			require.Equal(t, command.Done, status)
			require.Regexp(t, `^`+process+` \S+ \(revision \S+, go1\.`, stdout)
			for _, arg := range []string{"now", "--frob"} {
				status, stdout, stderr = run(t, nil, program, arg)
				require.Equal(t, command.BadUsage, status)
				require.Contains(t, stderr, arg)
				require.NotContains(t, stderr, "database.url", "it has read the settings")
				require.Empty(t, stdout)
			}
			status, _, stderr = run(t, nil, program, "--check")
			require.Equal(t, command.Failed, status)
			require.Contains(t, stderr, "redis.url: must be set")
		})
	}
}

func TestLetheRunsAProcess(t *testing.T) {
	t.Parallel()
	lethe := filepath.Join(devstacktest.Binaries(t), "lethe")
	for _, name := range []string{"api", "worker", "scheduler"} {
		status, _, stderr := run(t, nil, lethe, name)
		require.Equal(t, command.Failed, status)
		require.Contains(t, stderr, "redis.url: must be set")
	}
	status, stdout, _ := run(t, nil, lethe, "version")
	require.Equal(t, command.Done, status)
	require.Regexp(t, `^lethe `, stdout)
}

// The flags of the version before, with a single dash.
func TestOldFlagsOfTheScheduler(t *testing.T) {
	t.Parallel()
	all := programs(t)
	for _, name := range []string{"scheduler", "scheduler by a link"} {
		for _, flag := range OldFlags["scheduler"] {
			args := []string{"-" + flag, "1h", "--help"}
			if flag == "once" || flag == "wait" {
				args = []string{"-" + flag, "--help"}
			}
			status, stdout, stderr := run(t, nil, all[name], args...)
			require.Equal(t, command.Done, status, stderr)
			require.Contains(t, stdout, "Usage:")
			require.Equal(t, "lethe: -"+flag+" is an old form, which a later version refuses: write --"+flag+"\n", stderr)
		}
	}
	status, _, stderr := run(t, nil, all["scheduler"], "-once", "-timeout", "1h")
	require.Equal(t, command.BadUsage, status)
	require.Contains(t, stderr, "--timeout needs --wait")
}

func TestNameOf(t *testing.T) {
	t.Parallel()
	for called, want := range map[string]string{
		"worker": "worker", "/usr/local/bin/api": "api", "./scheduler": "scheduler", "worker.exe": "worker",
		"lethe": "", "/lethe": "", "": "", "asynqmon": "", "my-api": "", "/api/lethe": "",
	} {
		require.Equal(t, want, NameOf(called), called)
	}
}

// --check finds what is away, and starts nothing.
func TestCheck(t *testing.T) {
	t.Parallel()
	database := devstacktest.Database(t, "embedded", migrate.UpEmbedded)
	redis := devstacktest.Redis(t)
	environ := func(name, value string) []string {
		settings := map[string]string{
			"LETHE_DATABASE_URL": database, "LETHE_REDIS_URL": redis.URL(), "LETHE_SERVER_NAME": "lethe.test", "LETHE_LOG_LEVEL": "error",
			// An address of no machine: a process that listens fails.
			"LETHE_API_LISTEN": "192.0.2.1:1", "LETHE_WORKER_LISTEN": "192.0.2.1:1", "LETHE_SCHEDULER_LISTEN": "192.0.2.1:1", "LETHE_ASYNQMON_LISTEN": "192.0.2.1:1",
		}
		settings[name] = value
		var entries []string
		for name, value := range settings {
			entries = append(entries, name+"="+value)
		}
		return entries
	}
	for name, program := range programs(t) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			process, _, _ := strings.Cut(name, " ")
			status, stdout, stderr := run(t, environ("LETHE_DIALECT", "now"), program, "--check")
			require.Equal(t, command.Done, status, stderr)
			require.Equal(t, process+" can start\n", stdout)
			for variable, value := range map[string]string{"LETHE_DATABASE_URL": "postgres://127.0.0.1:1/x", "LETHE_REDIS_URL": "redis://127.0.0.1:1", "LETHE_STATUS_TTL": "soon"} {
				status, stdout, stderr = run(t, environ(variable, value), program, "--check")
				require.NotEqual(t, command.Done, status, variable)
				require.NotEqual(t, command.BadUsage, status, variable)
				require.Empty(t, stdout)
				require.NotEmpty(t, stderr, variable)
			}
		})
	}
	empty := devstacktest.EmptyDatabase(t)
	status, _, stderr := run(t, environ("LETHE_DATABASE_URL", empty), programs(t)["worker"], "--check")
	require.Equal(t, command.Failed, status)
	require.Contains(t, stderr, "lethe worker cannot start")
	require.Contains(t, stderr, "lethe migrate")
}
