package tasks

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hibiken/asynq"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"lethe/internal/devstack"
	"lethe/internal/devstack/devstacktest"
	"lethe/internal/jobs"
	"lethe/internal/matrix"
	"lethe/internal/observe"
	"lethe/internal/redisdb"
	"lethe/internal/schema"
	"lethe/internal/store/journal"
	"lethe/internal/store/migrate"
	"lethe/internal/store/postgres"
	"lethe/internal/store/storetest"
)

func TestMain(m *testing.M) { devstacktest.Main(m) }

const room = "!room:x"

// A lab is a database with a room, a Redis, and what works on them. Each process has a
// role of its own: DB is a worker's.
type lab struct {
	*storetest.Lab
	ofScheduler *postgres.DB
	server      *devstack.Redis
	redis       redis.UniversalClient
	locks       redis.UniversalClient
	board       *jobs.Board
	client      *Client
	asynq       *asynq.Inspector
	metrics     *observe.Metrics
	log         *slog.Logger
}

func setup(t *testing.T) *lab {
	t.Helper()
	return setupOn(t, func(t *testing.T) string { return devstacktest.Database(t, "embedded", migrate.UpEmbedded) })
}

// setupOn is setup on another database, of whose URL it is told.
func setupOn(t *testing.T, database func(*testing.T) string) *lab {
	t.Helper()
	url := database(t)
	l := storetest.OnAs(t, url, schema.Worker)
	server := devstacktest.Redis(t)
	open := func(open func(string) (redis.UniversalClient, error)) redis.UniversalClient {
		client, err := open(server.URL())
		require.NoError(t, err)
		t.Cleanup(func() { _ = client.Close() })
		return client
	}
	client, locks := open(redisdb.Open), open(redisdb.OpenForLocks)
	log := slog.New(slog.DiscardHandler)
	api := storetest.OnAs(t, url, schema.API)
	l.Holds = api.Holds
	return &lab{
		l, storetest.OnAs(t, url, schema.Scheduler).DB,
		server, client, locks, jobs.NewBoard(api.DB, client, time.Hour, log), NewClient(api.DB, client, nil, log),
		asynq.NewInspectorFromRedisClient(client), observe.NewMetrics(observe.NewRegistry()), log,
	}
}

// chain fills the room with n remote events, each a level above the one before.
func (l *lab) chain(room string, n int) {
	l.T.Helper()
	l.Exec(`INSERT INTO rooms (room_id) VALUES ($1)`, room)
	l.Exec(`
		INSERT INTO events (event_id, room_id, type, topological_ordering, depth, processed, outlier, sender)
		SELECT '$' || i || $1, $1, 't', i, i, true, false, '@zoe:far' FROM generate_series(1, $2::int) i`, room, n)
	l.Exec(`
		INSERT INTO event_forward_extremities (event_id, room_id)
		SELECT event_id, room_id FROM events WHERE room_id = $1 ORDER BY depth DESC LIMIT 1`, room)
}

// depths are those of the events that the room has.
func (l *lab) depths(room string) []int64 {
	l.T.Helper()
	return storetest.All[int64](l.Lab, `SELECT depth FROM events WHERE room_id = $1 ORDER BY 1`, room)
}

// submit accepts a purge of the room to the depth.
func (l *lab) submit(room string, before int64) string {
	l.T.Helper()
	id, err := l.client.SubmitPurgeHistory(l.Ctx, purgeOf(room, before))
	require.NoError(l.T, err)
	return id
}

func purgeOf(room string, before int64) PurgeHistory {
	return PurgeHistory{Room: room, Token: matrix.Token{Topological: before}, Requester: "@admin:x"}
}

// pending are the ids of the tasks that wait in asynq's queue.
func (l *lab) pending() []string {
	l.T.Helper()
	ids := []string{}
	tasks, err := l.asynq.ListPendingTasks(string(jobs.Default))
	require.NoError(l.T, err)
	for _, task := range tasks {
		ids = append(ids, task.ID)
	}
	return ids
}

func (l *lab) worker(options WorkerOptions) *Worker {
	options.ServerName = "x"
	return NewWorker(Services{
		DB: l.DB, Redis: l.redis, Locks: []redis.UniversalClient{l.locks}, Board: l.board, Log: l.log, Metrics: l.metrics,
	}, options)
}

// work runs a worker until stop is called, or the test has ended.
func (l *lab) work(options WorkerOptions) (stop func()) {
	l.T.Helper()
	ctx, cancel := context.WithCancel(l.Ctx)
	worker := l.worker(options)
	var group sync.WaitGroup
	group.Go(func() {
		if err := worker.Run(ctx); err != nil {
			l.T.Error(err)
		}
	})
	stop = func() { cancel(); group.Wait() }
	l.T.Cleanup(stop)
	return stop
}

// ends waits for the job's end and returns its status as it is served.
func (l *lab) ends(id string) jobs.Status {
	l.T.Helper()
	return l.endsAs(jobs.PurgeHistory, id)
}

// endsAs waits for the end of a job of the kind, and returns its status as it is served.
func (l *lab) endsAs(kind journal.Kind, id string) (status jobs.Status) {
	l.T.Helper()
	l.awaits(id, func() (bool, error) {
		var err error
		status, err = l.board.Status(l.Ctx, kind, id)
		return err == nil && status.State.Ended(), err
	})
	return status
}

// awaits waits until the condition holds. If it does not, the test says what the job's row
// and log have, which are the reason.
func (l *lab) awaits(id string, condition func() (bool, error)) {
	l.T.Helper()
	var last error
	deadline := time.NewTimer(time.Minute)
	defer deadline.Stop()
	poll := time.NewTicker(20 * time.Millisecond)
	defer poll.Stop()
	for {
		var holds bool
		if holds, last = condition(); holds {
			return
		}
		select {
		case <-poll.C:
		case <-deadline.C:
			require.FailNow(l.T, "the job does not come so far", "%v\n%s", last, l.reason(id))
		}
	}
}

// reason is all that the database has of a job.
func (l *lab) reason(id string) string {
	l.T.Helper()
	return strings.Join(storetest.All[string](l.Lab, `
		SELECT to_jsonb(j)::text FROM lethe.jobs j WHERE id = $1
		UNION ALL
		SELECT text FROM (SELECT to_jsonb(e)::text AS text FROM lethe.job_events e WHERE job_id = $1 ORDER BY at) events
		UNION ALL
		SELECT format('of %s: %s', usename, application_name) FROM pg_stat_activity WHERE datname = current_database()`, id), "\n")
}

// failing makes deletes of events fail with the SQLSTATE, the first so many or,
// if that is 0, all, by a trigger that passes as Synapse's.
func (l *lab) failing(state string, most int) {
	l.T.Helper()
	l.Exec(`CREATE SEQUENCE tries`) // which a rollback does not set back
	l.Exec(fmt.Sprintf(`CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
		IF %[2]d = 0 OR nextval('public.tries'::regclass) <= %[2]d THEN
			RAISE SQLSTATE '%[1]s' USING MESSAGE = 'made to fail';
		END IF;
		RETURN OLD;
	END $$`, state, most))
	l.Exec(`CREATE TRIGGER check_event_stream_ordering BEFORE DELETE ON events FOR EACH ROW EXECUTE FUNCTION fail()`)
}
