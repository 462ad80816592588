package e2e

import (
	"context"
	"errors"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"lethe/internal/devstack/devstacktest"
)

// yearly makes a fleet's retention have one job, which is not due while it is
// tested.
var yearly = []string{"LETHE_RETENTION_ENABLED=true", "LETHE_RETENTION_PURGE_JOBS=[{name: yearly, cron: '@yearly'}]"}

// An ending is how a process that ends by itself did so.
type ending struct {
	status int
	said   string
}

// scheduler runs the scheduler with arguments until it ends. It is to take an
// address that is taken, so it fails if it listens.
func (f *fleet) scheduler(ctx context.Context, env []string, args ...string) ending {
	f.t.Helper()
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	command := exec.CommandContext(ctx, filepath.Join(devstacktest.Binaries(f.t), "scheduler"), args...)
	command.Cancel = func() error { return command.Process.Signal(syscall.SIGTERM) }
	command.WaitDelay = 20 * time.Second
	command.Env = append(append([]string{"PATH=" + os.Getenv("PATH")}, f.env...), "LETHE_SCHEDULER_LISTEN="+f.api.address)
	command.Env = append(command.Env, env...)
	output, err := command.CombinedOutput()
	var exit *exec.ExitError
	if !errors.As(err, &exit) && ctx.Err() == nil {
		require.NoError(f.t, err, "%s", output)
	}
	return ending{command.ProcessState.ExitCode(), string(output)}
}

func (f *fleet) sweeps() int {
	f.t.Helper()
	return query[int](f, `SELECT count(*) FROM lethe.jobs WHERE kind = 'retention_sweep'`)
}

// endSweeps plays the worker.
func (f *fleet) endSweeps(state, reason string) {
	f.t.Helper()
	_, err := f.sql.Exec(f.t.Context(), `
		UPDATE lethe.jobs SET state = $1, error = nullif($2, ''), heartbeat_at = NULL, ended_at = now()
		WHERE kind = 'retention_sweep' AND ended_at IS NULL`, state, reason)
	require.NoError(f.t, err)
}

func TestSchedulerRefusesWhatItDoesNotKnow(t *testing.T) {
	t.Parallel()
	f, _ := demo(t, 200)
	for _, c := range []struct {
		args string
		env  []string
		want string
	}{
		{"--twice", nil, "-twice"},
		{"--once now", nil, `"now"`},
		{"--job yearly", yearly, "--once"},
		{"--wait", nil, "--once"},
		{"--once --timeout 1h", nil, "--wait"},
		{"--once --wait --timeout 0s", nil, "--timeout"},
		{"--once --wait --timeout soon", nil, "soon"},
		{"--once --job", yearly, "-job"},
		{"--once --job=", yearly, "--job needs a name"},
		{"--once --job weekly", yearly, `"weekly"; there are: yearly`},
		{"--once --job weekly", nil, `"weekly"; there are: all-every-1d`},
		{"--once", []string{"LETHE_DATABASE_URL=", "LETHE_RETENTION_ENABLED=perhaps"}, "LETHE_RETENTION_ENABLED"},
	} {
		got := f.scheduler(t.Context(), c.env, strings.Fields(c.args)...)
		require.Equal(t, 2, got.status, "%s: %s", c.args, got.said)
		require.Contains(t, got.said, c.want)
	}
	got := f.scheduler(t.Context(), nil, "--help")
	require.Equal(t, 0, got.status)
	require.Contains(t, got.said, "--timeout time")
	require.Zero(t, query[int](f, `SELECT count(*) FROM lethe.schedules`))
}

func TestOnce(t *testing.T) {
	t.Parallel()
	f, _ := demo(t, 200)
	got := f.scheduler(t.Context(), nil, "--once")
	require.Equal(t, 0, got.status, "whoever turns retention off wants no CronJob to fail: %s", got.said)
	require.Contains(t, got.said, "retention is not enabled")
	got = f.scheduler(t.Context(), append(yearly, "LETHE_DATABASE_URL="+devstacktest.EmptyDatabase(t)), "--once")
	require.Equal(t, 1, got.status)
	require.Contains(t, got.said, "lethe migrate")
	require.Zero(t, f.sweeps())

	// Many, beside a scheduler which has noted the tick.
	f.env = append(f.env, yearly...)
	f.start("scheduler")
	f.eventually(10*time.Second, func() bool { return query[int](f, `SELECT count(*) FROM lethe.schedules`) == 1 }, "no tick is noted")
	require.Zero(t, f.sweeps())
	var group sync.WaitGroup
	results := make([]ending, 4)
	for i := range results {
		group.Go(func() { results[i] = f.scheduler(t.Context(), nil, "--once", "--job", "yearly") })
	}
	group.Wait()
	for _, got := range results {
		require.Equal(t, 0, got.status, got.said)
	}
	require.Equal(t, 1, f.sweeps())
	require.Equal(t, 0, f.scheduler(t.Context(), nil, "--once").status)
	require.Equal(t, 1, f.sweeps())
	require.True(t, query[bool](f, `
		SELECT (parameters->>'tick')::timestamptz = date_trunc('year', now(), 'UTC') AND parameters->>'job' = 'yearly' FROM lethe.jobs`))
	require.Equal(t, "accepted", query[string](f, `SELECT outcome FROM lethe.schedules`))
}

func TestOnceWaits(t *testing.T) {
	t.Parallel()
	f, _ := demo(t, 200)
	f.env = append(f.env, yearly...)
	wait := func(ctx context.Context, args ...string) <-chan ending {
		done := make(chan ending, 1)
		go func() { done <- f.scheduler(ctx, nil, append([]string{"--once", "--wait"}, args...)...) }()
		return done
	}
	told, tell := context.WithCancel(t.Context())
	defer tell()
	stopped := wait(told)
	f.eventually(30*time.Second, func() bool {
		return query[bool](f, `SELECT count(*) = 1 FROM lethe.jobs WHERE task_missing_since IS NULL`)
	}, "no sweep is enqueued")
	id := query[string](f, `SELECT id FROM lethe.jobs`)
	tell()
	got := <-stopped
	require.Equal(t, 1, got.status, got.said)
	require.Contains(t, got.said, "lethe: sweep "+id+" has not ended, and goes on")

	got = <-wait(t.Context(), "--timeout", "100ms")
	require.Equal(t, 1, got.status)
	require.Contains(t, got.said, "sweep "+id+" has not ended, and goes on: waited for 100ms")

	first := wait(t.Context())
	second := wait(t.Context(), "--job", "yearly")
	f.eventually(30*time.Second, func() bool {
		return query[int](f, `
			SELECT count(*) FROM pg_stat_activity
			WHERE datname = current_database() AND application_name = 'lethe scheduler' AND state = 'idle'
			  AND query LIKE '%FROM lethe.jobs WHERE id = $1%'`) >= 2
	}, "they do not wait")
	for _, waits := range []<-chan ending{first, second} {
		select {
		case got := <-waits:
			require.FailNow(t, "it did not wait", got.said)
		default:
		}
	}
	f.endSweeps("complete", "")
	for _, waits := range []<-chan ending{first, second, wait(t.Context())} {
		got := <-waits
		require.Equal(t, 0, got.status, got.said)
	}
	_, err := f.sql.Exec(t.Context(), `UPDATE lethe.jobs SET state = 'failed', error = 'no room left'`)
	require.NoError(t, err)
	got = <-wait(t.Context())
	require.Equal(t, 1, got.status)
	require.Contains(t, got.said, "lethe: sweep "+id+" failed: no room left")
	require.Equal(t, 1, f.sweeps())
}

// TestOnceAloneWithoutRedis has no scheduler but CronJobs: what the first could not
// enqueue, the next does.
func TestOnceAloneWithoutRedis(t *testing.T) {
	t.Parallel()
	f, _ := demo(t, 200)
	f.env = append(f.env, yearly...)
	f.redis.Kill()
	got := f.scheduler(t.Context(), nil, "--once")
	require.Equal(t, 0, got.status, got.said)
	require.Equal(t, 1, f.sweeps())
	enqueued := func() bool { return query[bool](f, `SELECT task_missing_since IS NULL FROM lethe.jobs`) }
	require.False(t, enqueued())
	require.NoError(t, f.redis.Restart(t.Context()))
	require.Equal(t, 0, f.scheduler(t.Context(), nil, "--once").status)
	require.True(t, enqueued())
	require.Equal(t, 1, f.sweeps())
}

// TestSchedulersThroughKills has three schedulers take ticks, kills one of them
// after the other, and lets a CronJob beside them come to some of the ticks.
func TestSchedulersThroughKills(t *testing.T) {
	t.Parallel()
	f, _ := demo(t, 200)
	f.env = append(f.env, "LETHE_RETENTION_ENABLED=true", "LETHE_RETENTION_PURGE_JOBS=[{name: often, interval: 1s}]")
	_, err := f.sql.Exec(t.Context(), `
		CREATE TABLE lethe.noted (n bigint GENERATED ALWAYS AS IDENTITY, tick timestamptz, outcome text);
		CREATE FUNCTION lethe.noted() RETURNS trigger LANGUAGE plpgsql AS $$
		BEGIN
			INSERT INTO lethe.noted (tick, outcome) VALUES (NEW.last_tick, NEW.outcome);
			RETURN NEW;
		END $$;
		CREATE TRIGGER noted AFTER INSERT OR UPDATE OF last_tick ON lethe.schedules FOR EACH ROW EXECUTE FUNCTION lethe.noted()`)
	require.NoError(t, err)
	var replicas []*process
	for range 3 {
		replicas = append(replicas, f.start("scheduler"))
	}
	const kills = 6
	for kill := range kills {
		more := f.sweeps() + 1
		f.eventually(30*time.Second, func() bool {
			f.endSweeps("complete", "")
			return f.sweeps() >= more
		}, "no tick is taken")
		unlucky := rand.IntN(len(replicas))
		replicas[unlucky].kill()
		replicas[unlucky] = f.start("scheduler")
		if kill%2 == 0 {
			got := f.scheduler(t.Context(), nil, "--once")
			require.Equal(t, 0, got.status, got.said)
		}
	}
	for _, replica := range replicas {
		replica.kill()
	}
	ticks := func(sql string) []time.Time {
		rows, err := f.sql.Query(t.Context(), sql)
		require.NoError(t, err)
		ticks, err := pgx.CollectRows(rows, pgx.RowTo[time.Time])
		require.NoError(t, err)
		return ticks
	}
	taken := ticks(`SELECT tick FROM lethe.noted WHERE outcome = 'accepted' ORDER BY n`)
	require.GreaterOrEqual(t, len(taken), kills)
	require.Equal(t, ticks(`SELECT DISTINCT tick FROM lethe.noted WHERE outcome = 'accepted' ORDER BY 1`), taken, "forward only, and each once")
	require.Equal(t, ticks(`SELECT (parameters->>'tick')::timestamptz FROM lethe.jobs ORDER BY 1`), taken, "each has its sweep")
}
