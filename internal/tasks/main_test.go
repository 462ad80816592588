package tasks

import (
	"context"
	"fmt"
	"log/slog"
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
	var status jobs.Status
	require.Eventually(l.T, func() bool {
		var err error
		status, err = l.board.Status(l.Ctx, jobs.PurgeHistory, id)
		return err == nil && status.State.Ended()
	}, time.Minute, 20*time.Millisecond)
	return status
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
