package e2e

import (
	"context"
	"fmt"
	"net/http"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"lethe/internal/devstack"
	"lethe/internal/devstack/devstacktest"
	"lethe/internal/lock"
	"lethe/internal/redisdb"
	"lethe/internal/roomgen"
	"lethe/internal/store/migrate"
)

const (
	server = "demo.test"
	admin  = "@admin:" + server
	token  = "an_access_token"
	large  = "!large:" + server
)

// demo is a fleet on a database of our own with one room, and a purge of it
// that keeps nearly nothing.
func demo(t *testing.T, events int) (f *fleet, purge map[string]any) {
	t.Helper()
	return demoOn(t, devstacktest.Database(t, fmt.Sprintf("demo %d", events), populate(events)))
}

func demoOn(t *testing.T, database string) (f *fleet, purge map[string]any) {
	t.Helper()
	f = newFleet(t, database, server, token)
	last := query[string](f, `SELECT event_id FROM events WHERE room_id = $1 ORDER BY topological_ordering DESC LIMIT 1`, large)
	return f, map[string]any{"purge_up_to_event_id": last, "delete_local_events": true}
}

// populate makes an admin and a room.
func populate(events int) func(ctx context.Context, url string) error {
	return func(ctx context.Context, url string) error {
		if err := migrate.UpEmbedded(ctx, url); err != nil {
			return err
		}
		conn, err := pgx.Connect(ctx, url)
		if err != nil {
			return err
		}
		defer func() { _ = conn.Close(ctx) }()
		if err := roomgen.Account(ctx, conn, admin, token, true); err != nil {
			return err
		}
		_, err = roomgen.Generate(ctx, conn, roomgen.Room{ID: large, Server: server, Events: events})
		return err
	}
}

// slowly makes a worker take a hundred batches for the room of [longDemo].
const (
	longEvents = 1000
	slowly     = "LETHE_WORKER_BATCH_EVENTS=10"
)

// longDemo is demo with a purge which takes long enough to be disturbed.
func longDemo(t *testing.T) (f *fleet, purge map[string]any) {
	t.Helper()
	f, purge = demo(t, longEvents)
	f.lengthenBatches()
	return f, purge
}

// lengthenBatches makes each batch wait before it commits: more batches would take
// the time of the machine, and are over soon on a quick one.
func (f *fleet) lengthenBatches() {
	f.t.Helper()
	_, err := f.sql.Exec(f.t.Context(), `
		CREATE FUNCTION lethe.lengthen() RETURNS trigger LANGUAGE plpgsql AS $$
		BEGIN
			PERFORM pg_sleep(0.06);
			RETURN NEW;
		END $$;
		CREATE TRIGGER lengthen AFTER UPDATE OF checkpoint ON lethe.jobs FOR EACH ROW
		WHEN (NEW.checkpoint IS DISTINCT FROM OLD.checkpoint) EXECUTE FUNCTION lethe.lengthen()`)
	require.NoError(f.t, err)
}

// underway submits the purge and waits until it has committed a few batches.
func (f *fleet) underway(purge map[string]any) string {
	f.t.Helper()
	id := f.purge(large, purge)
	f.eventually(30*time.Second, func() bool { return f.batches(id) >= 5 }, "purge %s does not begin", id)
	return id
}

// left counts the messages that a complete purge would have deleted.
func (f *fleet) left() int {
	return query[int](f, `
		SELECT count(*) FROM events e LEFT JOIN state_events s USING (event_id)
		WHERE e.room_id = $1 AND s.event_id IS NULL AND e.topological_ordering <
			(SELECT max(topological_ordering) FROM events WHERE room_id = $1)`, large)
}

func TestKilledWorkersJobGoesOnElsewhere(t *testing.T) {
	t.Parallel()
	f, purge := longDemo(t)
	f.start("scheduler")
	doomed := f.start("worker", slowly)
	id := f.underway(purge)
	doomed.kill()
	killed := time.Now()
	f.start("worker", slowly)
	before := f.batches(id)
	f.eventually(20*time.Second, func() bool { return f.batches(id) > before }, "purge %s does not go on", id)
	t.Logf("went on after %v", time.Since(killed).Round(100*time.Millisecond))
	f.await(3*time.Minute, id)
	require.Zero(t, f.left())
}

func TestStoppingWorkerHandsItsJobOver(t *testing.T) {
	t.Parallel()
	f, purge := longDemo(t)
	leaving := f.start("worker", slowly)
	id := f.underway(purge)
	f.start("worker", slowly)
	leaving.signal(syscall.SIGTERM)
	select {
	case <-leaving.exited:
	case <-time.After(10 * time.Second):
		require.FailNow(t, "the worker does not end", leaving.tail())
	}
	require.Zero(t, leaving.cmd.ProcessState.ExitCode(), leaving.tail())
	before := f.batches(id)
	// There is no scheduler: nobody else could have handed it over.
	f.eventually(5*time.Second, func() bool { return f.batches(id) > before }, "purge %s was not handed over", id)
	f.await(3*time.Minute, id)
	require.Zero(t, f.left())
	require.Equal(t, 1, query[int](f, `SELECT generation FROM lethe.jobs WHERE id = $1`, id))
}

func TestTimeSlicesMakeRoomForOthers(t *testing.T) {
	t.Parallel()
	f, purge := longDemo(t)
	f.start("worker", slowly, "LETHE_WORKER_TIME_SLICE=1s", "LETHE_WORKER_CONCURRENCY=1")
	id := f.underway(purge)
	f.await(4*time.Minute, id)
	require.Greater(t, query[int](f, `SELECT attempt FROM lethe.jobs WHERE id = $1`, id), 1, "it never yielded")
	require.Equal(t, 1, query[int](f, `SELECT generation FROM lethe.jobs WHERE id = $1`, id))
	require.Zero(t, f.left())
}

func TestFlushedRedisLosesNoRunningJob(t *testing.T) {
	t.Parallel()
	f, purge := longDemo(t)
	f.start("scheduler")
	f.start("worker", slowly)
	id := f.underway(purge)
	client, err := redisdb.Open(f.redis.URL())
	require.NoError(t, err)
	defer func() { _ = client.Close() }()
	for range 3 {
		before := f.batches(id)
		require.NoError(t, client.FlushAll(t.Context()).Err())
		require.Equal(t, "active", f.status(id)["status"])
		f.eventually(20*time.Second, func() bool { return f.batches(id) > before }, "purge %s stands still", id)
	}
	f.await(4*time.Minute, id)
	require.Zero(t, f.left())
	// The end is known without Redis too, and put there again.
	require.NoError(t, client.FlushAll(t.Context()).Err())
	f.await(time.Second, id)
	ttl, err := client.PTTL(t.Context(), f.names().JobStatus(id)).Result()
	require.NoError(t, err)
	require.InDelta(t, 24*time.Hour, ttl, float64(3*time.Minute))
}

func TestFlushedRedisLosesNoQueuedJob(t *testing.T) {
	t.Parallel()
	f, purge := demo(t, 200)
	f.start("scheduler")
	ids := []string{f.purge(large, purge), f.purge(large, purge)}
	client, err := redisdb.Open(f.redis.URL())
	require.NoError(t, err)
	defer func() { _ = client.Close() }()
	require.NoError(t, client.FlushAll(t.Context()).Err())
	f.start("worker")
	// Only when asynq has had no task for a minute is it taken for lost.
	f.await(90*time.Second, ids...)
	require.Zero(t, f.left())
}

func TestRedisDownInMidJob(t *testing.T) {
	t.Parallel()
	f, purge := longDemo(t)
	f.start("scheduler")
	f.start("worker", slowly)
	id := f.underway(purge)
	f.redis.Kill()
	require.Equal(t, "active", f.status(id)["status"])
	stood := f.batches(id)
	f.eventually(20*time.Second, func() bool {
		before := stood
		stood = f.batches(id)
		return before == stood
	}, "purge %s goes on without a lock", id)
	require.NoError(t, f.redis.Restart(t.Context()))
	f.await(4*time.Minute, id)
	require.Zero(t, f.left())
}

func TestRedisDownAtSubmission(t *testing.T) {
	t.Parallel()
	f, purge := demo(t, 200)
	f.start("scheduler")
	f.start("worker")
	f.redis.Kill()
	id := f.purge(large, purge)
	require.Equal(t, "active", f.status(id)["status"])
	code, _ := f.ask(http.MethodGet, "/_synapse/admin/v1/server_version", nil)
	require.Equal(t, http.StatusOK, code)
	require.NoError(t, f.redis.Restart(t.Context()))
	// That it was never enqueued is known, so it need not be missed first.
	f.await(30*time.Second, id)
	require.Zero(t, f.left())
}

// TestHungRedis stops Redis, so that it takes connections but never answers.
func TestHungRedis(t *testing.T) {
	t.Parallel()
	f, purge := longDemo(t)
	f.start("scheduler")
	f.start("worker", slowly)
	running := f.underway(purge)
	require.NoError(t, f.redis.Pause())
	asked := time.Now()
	queued := f.purge(large, purge)
	require.Equal(t, "active", f.status(queued)["status"])
	require.Less(t, time.Since(asked), 10*time.Second)
	require.NoError(t, f.redis.Resume())
	f.await(4*time.Minute, running, queued)
	require.Zero(t, f.left())
}

func TestDatabaseRestartedInMidJob(t *testing.T) {
	t.Parallel()
	// A server of its own: the other tests' must not be restarted.
	postgres, err := devstack.StartPostgres(t.Context(), devstack.PostgresOptions{})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, postgres.Close()) })
	require.NoError(t, postgres.CreateDatabase(t.Context(), "demo", ""))
	require.NoError(t, populate(longEvents)(t.Context(), postgres.URL("demo")))
	f, purge := demoOn(t, postgres.URL("demo"))
	f.lengthenBatches()
	f.start("scheduler")
	f.start("worker", slowly)
	id := f.underway(purge)
	require.NoError(t, postgres.Restart(t.Context()))
	f.sql, err = pgx.Connect(t.Context(), f.database)
	require.NoError(t, err)
	f.await(4*time.Minute, id)
	require.Zero(t, f.left())
}

// TestStoppedBetweenBatches stops a worker that waits for a room's lock, which
// a reader has, and lets it go on when another has taken its job over.
func TestStoppedBetweenBatches(t *testing.T) {
	t.Parallel()
	f, purge := longDemo(t)
	f.note()
	f.start("scheduler")
	stopped := f.start("worker", slowly)
	id := f.underway(purge)
	release := f.read(large)
	f.eventually(10*time.Second, func() bool { return f.sessionsInBatch() == 0 }, "the worker is not between batches")
	stopped.signal(syscall.SIGSTOP)
	at := time.Now()
	release()
	f.takenOverFrom(stopped, id, at)
}

// TestStoppedInsideBatch stops a worker whose batch waits for a row.
func TestStoppedInsideBatch(t *testing.T) {
	t.Parallel()
	f, purge := longDemo(t)
	f.note()
	f.start("scheduler")
	stopped := f.start("worker", slowly)
	id := f.underway(purge)
	tx, err := f.sql.Begin(t.Context())
	require.NoError(t, err)
	_, err = tx.Exec(t.Context(), `SELECT FROM room_depth WHERE room_id = $1 FOR UPDATE`, large)
	require.NoError(t, err)
	// Seen from inside the transaction, activity stands still: so by another.
	other, err := pgx.Connect(t.Context(), f.database)
	require.NoError(t, err)
	f.eventually(10*time.Second, func() bool {
		var waits bool
		require.NoError(t, other.QueryRow(t.Context(), `
			SELECT EXISTS (SELECT FROM pg_stat_activity
			WHERE datname = current_database() AND application_name = 'lethe worker' AND wait_event_type = 'Lock')`).Scan(&waits))
		return waits
	}, "no batch waits for the row")
	require.NoError(t, other.Close(t.Context()))
	stopped.signal(syscall.SIGSTOP)
	at := time.Now()
	require.NoError(t, tx.Rollback(t.Context()))
	f.takenOverFrom(stopped, id, at)
}

// takenOverFrom starts a second worker, sees it take the job over in time and
// finish it, lets the stopped one go on, and sees that it commits nothing.
func (f *fleet) takenOverFrom(stopped *process, id string, at time.Time) {
	f.t.Helper()
	attempt := query[int](f, `SELECT attempt FROM lethe.jobs WHERE id = $1`, id)
	f.start("worker", slowly)
	f.eventually(time.Until(at.Add(20*time.Second)), func() bool {
		return query[int](f, `SELECT max(attempt) FROM lethe.noted`) > attempt
	}, "nobody takes purge %s over", id)
	f.t.Logf("taken over after %v", time.Since(at).Round(100*time.Millisecond))
	committed := query[int](f, `SELECT count(*) FROM lethe.noted WHERE attempt = $1`, attempt)
	stopped.signal(syscall.SIGCONT)
	f.await(4*time.Minute, id)
	require.Zero(f.t, f.left())
	require.Equal(f.t, committed, query[int](f, `SELECT count(*) FROM lethe.noted WHERE attempt = $1`, attempt),
		"the worker that was stopped committed a batch")
	// It is still a good worker.
	f.eventually(10*time.Second, func() bool {
		return get(f.t, stopped, "/readyz") == http.StatusOK
	}, "the worker that was stopped is not ready")
}

// note notes from now on which attempt commits each batch. The trigger is on a
// table of Lethe's; one on a table of the room's would be refused.
func (f *fleet) note() {
	f.t.Helper()
	_, err := f.sql.Exec(f.t.Context(), `
		CREATE TABLE lethe.noted (attempt integer, batches integer);
		CREATE FUNCTION lethe.noted() RETURNS trigger LANGUAGE plpgsql AS $$
		BEGIN
			INSERT INTO lethe.noted VALUES (NEW.attempt, (NEW.checkpoint->>'batches')::int);
			RETURN NEW;
		END $$;
		CREATE TRIGGER noted AFTER UPDATE OF checkpoint ON lethe.jobs FOR EACH ROW EXECUTE FUNCTION lethe.noted()`)
	require.NoError(f.t, err)
}

// read plays a reader: it takes the room's shared lease, and returns what gives
// it back.
func (f *fleet) read(room string) (release func()) {
	f.t.Helper()
	client, err := redisdb.OpenForLocks(f.redis.URL())
	require.NoError(f.t, err)
	f.t.Cleanup(func() { _ = client.Close() })
	lease, err := lock.New(client, nil, lock.Options{Names: f.names()}).RLock(f.t.Context(), room)
	require.NoError(f.t, err)
	return func() { require.NoError(f.t, lease.Release(f.t.Context())) }
}

// sessionsInBatch counts the workers' sessions that are in a transaction.
func (f *fleet) sessionsInBatch() int {
	return query[int](f, `
		SELECT count(*) FROM pg_stat_activity
		WHERE datname = current_database() AND application_name = 'lethe worker' AND xact_start IS NOT NULL`)
}

// TestQueuedJobsAreEnqueuedOnce lets 600 jobs, which are more than a scheduler
// looks at in one go, wait behind one worker for longer than it takes to miss a
// task, while two schedulers look.
func TestQueuedJobsAreEnqueuedOnce(t *testing.T) {
	t.Parallel()
	f, purge := demo(t, 200)
	f.start("scheduler")
	f.start("scheduler")
	const most = 600
	ids := make([]string, most)
	for i := range ids {
		ids[i] = f.purge(large, purge)
	}
	waiting := time.NewTimer(70 * time.Second)
	defer waiting.Stop()
	<-waiting.C
	require.Equal(t, most, query[int](f, `SELECT count(*) FROM lethe.jobs WHERE state = 'queued' AND generation = 1 AND task_missing_since IS NULL`))
	f.start("worker", "LETHE_WORKER_CONCURRENCY=1")
	f.await(4*time.Minute, ids...)
	require.Equal(t, 1, query[int](f, `SELECT max(generation) FROM lethe.jobs`))
	require.Equal(t, 1, query[int](f, `SELECT max(attempt) FROM lethe.jobs`))
}
