package e2e

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"lethe/internal/devstack/devstacktest"
	"lethe/internal/redisdb"
)

// TestTwoDeploymentsOnOneRedis runs two fleets on one Redis. Each has a user there that may
// use its own keys and channels only, and so proves that it uses no others.
func TestTwoDeploymentsOnOneRedis(t *testing.T) {
	t.Parallel()
	one, purge := demo(t, 200)
	other, otherPurge := demo(t, 200)
	other.api.kill()
	other.operate("migrate", "--new-id") // both are copies of one database
	require.NotEqual(t, one.names().Queue(""), other.names().Queue(""))

	client, err := redisdb.Open(one.redis.URL())
	require.NoError(t, err)
	defer func() { _ = client.Close() }()
	for user, f := range map[string]*fleet{"one": one, "other": other} {
		prefix := f.names().Queue("") // the rules are those of docs/security.md
		require.NoError(t, client.Do(t.Context(), "ACL", "SETUSER", user, "on", ">password", "+@all", "-@admin", "resetchannels",
			"~"+prefix+"*", "~asynq:{"+prefix+"*", "~asynq:servers*", "~asynq:workers*", "~asynq:queues",
			"&"+prefix+"*", "&asynq:cancel").Err())
		u, err := url.Parse(one.redis.URL())
		require.NoError(t, err)
		u.User = url.UserPassword(user, "password")
		f.on(u.String())
	}
	type work struct {
		f       *fleet
		workers []*process
		ids     []string
	}
	works := []*work{{f: one}, {f: other}}
	for _, w := range works {
		w.f.start("scheduler")
		w.workers = []*process{w.f.start("worker"), w.f.start("worker")}
	}
	for range 6 {
		works[0].ids = append(works[0].ids, one.purge(large, purge))
		works[1].ids = append(works[1].ids, other.purge(large, otherPurge))
	}
	for _, w := range works {
		var pids []string
		for _, p := range w.workers {
			pids = append(pids, fmt.Sprint(p.cmd.Process.Pid))
		}
		w.f.await(2*time.Minute, w.ids...)
		require.Zero(t, w.f.left())
		require.Zero(t, query[int](w.f, `SELECT count(*) FROM lethe.jobs WHERE generation > 1 OR failures > 0`), "a task was lost")
		require.Equal(t, 6, query[int](w.f, `SELECT count(*) FROM lethe.jobs`))
		require.Zero(t, query[int](w.f, `
			SELECT count(*) FROM lethe.jobs WHERE worker IS NOT NULL AND NOT (substring(worker FROM '[0-9]+$') = ANY ($1))`, pids),
			"another deployment's worker has done it")
		status, answer := w.f.ask(http.MethodGet, "/_lethe/v1/fleet", nil)
		require.Equal(t, http.StatusOK, status)
		require.Len(t, answer["workers"], 2, "%v", answer)
	}
	denied, err := client.Do(t.Context(), "ACL", "LOG").Slice()
	require.NoError(t, err)
	require.Empty(t, denied, "a name does not have the deployment's id")
}

// TestNothingStartsOnACopy starts each process on a database for which the deployment's id
// was not made.
func TestNothingStartsOnACopy(t *testing.T) {
	t.Parallel()
	f, purge := demo(t, 200)
	f.api.kill()
	_, err := f.sql.Exec(t.Context(), `UPDATE lethe.deployment SET database_oid = 1`)
	require.NoError(t, err)
	run := func(name string, args ...string) (string, error) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		command := exec.CommandContext(ctx, filepath.Join(devstacktest.Binaries(t), name), args...)
		command.Env = append(f.env, "LETHE_RETENTION_ENABLED=true")
		output, err := command.CombinedOutput()
		return string(output), err
	}
	for _, command := range []string{"api", "worker", "scheduler", "scheduler --once", "lethe migrate", "lethe hold list --database"} {
		words := strings.Fields(command)
		said, err := run(words[0], words[1:]...)
		require.Error(t, err, "%s: %s", command, said)
		require.Contains(t, said, "lethe migrate --new-id", command)
		require.Contains(t, said, "lethe migrate --same-id", command)
	}
	said, err := run("lethe", "doctor")
	require.Error(t, err)
	require.Contains(t, said, "--same-id")
	f.operate("migrate", "--same-id")
	f.api = f.start("api")
	f.start("worker")
	f.await(time.Minute, f.purge(large, purge))
}
