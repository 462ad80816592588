package tasks

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/hibiken/asynq"
	"github.com/jackc/pgx/v5"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"lethe/internal/devstack"
	"lethe/internal/devstack/devstacktest"
	"lethe/internal/jobs"
	"lethe/internal/matrix"
	"lethe/internal/observe"
	"lethe/internal/redisdb"
)

func TestMain(m *testing.M) { devstacktest.Main(m) }

const room = "!room:x"

// A lab is a database with a room, a Redis, and who works on them.
type lab struct {
	t       *testing.T
	ctx     context.Context
	conn    *pgx.Conn
	store   *store.Store
	server  *devstack.Redis
	redis   redis.UniversalClient
	locks   redis.UniversalClient
	board   *jobs.Board
	client  *Client
	asynq   *asynq.Inspector
	metrics *observe.Metrics
	log     *slog.Logger
}

func setup(t *testing.T) *lab {
	t.Helper()
	return setupOn(t, func(t *testing.T) string { return devstacktest.Database(t, "embedded", store.MigrateEmbedded) })
}

// setupOn is setup on another database, of whose URL it is told.
func setupOn(t *testing.T, database func(*testing.T) string) *lab {
	t.Helper()
	url := database(t)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	t.Cleanup(cancel)
	conn, err := pgx.Connect(ctx, url)
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close(context.Background()) })
	db, err := store.Open(ctx, url, store.Options{})
	require.NoError(t, err)
	t.Cleanup(db.Close)
	server := devstacktest.Redis(t)
	open := func(open func(string) (redis.UniversalClient, error)) redis.UniversalClient {
		client, err := open(server.URL())
		require.NoError(t, err)
		t.Cleanup(func() { _ = client.Close() })
		return client
	}
	client, locks := open(redisdb.Open), open(redisdb.OpenForLocks)
	log := slog.New(slog.DiscardHandler)
	board := jobs.NewBoard(db, client, time.Hour, log)
	l := &lab{
		t, ctx, conn, db, server, client, locks, board, NewClient(db, client, log),
		asynq.NewInspectorFromRedisClient(client), observe.NewMetrics(observe.NewRegistry()), log,
	}
	l.exec(`SET search_path = public`)
	return l
}

func (l *lab) exec(sql string, args ...any) {
	l.t.Helper()
	_, err := l.conn.Exec(l.ctx, sql, args...)
	require.NoError(l.t, err)
}

// all returns the values of a query's only column.
func all[T any](l *lab, sql string, args ...any) []T {
	l.t.Helper()
	rows, err := l.conn.Query(l.ctx, sql, args...)
	require.NoError(l.t, err)
	values, err := pgx.CollectRows(rows, pgx.RowTo[T])
	require.NoError(l.t, err)
	return values
}

// chain fills the room with n remote events, each a level above the one before.
func (l *lab) chain(room string, n int) {
	l.t.Helper()
	l.exec(`INSERT INTO rooms (room_id) VALUES ($1)`, room)
	l.exec(`
		INSERT INTO events (event_id, room_id, type, topological_ordering, depth, processed, outlier, sender)
		SELECT '$' || i || $1, $1, 't', i, i, true, false, '@zoe:far' FROM generate_series(1, $2::int) i`, room, n)
	l.exec(`
		INSERT INTO event_forward_extremities (event_id, room_id)
		SELECT event_id, room_id FROM events WHERE room_id = $1 ORDER BY depth DESC LIMIT 1`, room)
}

// depths are those of the events that the room has.
func (l *lab) depths(room string) []int64 {
	l.t.Helper()
	return all[int64](l, `SELECT depth FROM events WHERE room_id = $1 ORDER BY 1`, room)
}

// submit accepts a purge of the room to the depth.
func (l *lab) submit(room string, before int64) string {
	l.t.Helper()
	id, err := l.client.SubmitPurgeHistory(l.ctx, purgeOf(room, before))
	require.NoError(l.t, err)
	return id
}

func purgeOf(room string, before int64) PurgeHistory {
	return PurgeHistory{Room: room, Token: matrix.Token{Topological: before}, Requester: "@admin:x"}
}

func (l *lab) job(id string) store.Job {
	l.t.Helper()
	job, err := l.store.Job(l.ctx, id)
	require.NoError(l.t, err)
	return job
}

// pending are the ids of the tasks that wait in asynq's queue.
func (l *lab) pending() []string {
	l.t.Helper()
	ids := []string{}
	tasks, err := l.asynq.ListPendingTasks(queueDefault)
	require.NoError(l.t, err)
	for _, task := range tasks {
		ids = append(ids, task.ID)
	}
	return ids
}

func (l *lab) worker(options WorkerOptions) *Worker {
	options.ServerName = "x"
	return NewWorker(l.store, l.redis, []redis.UniversalClient{l.locks}, l.board, l.log, l.metrics, options)
}

// work runs a worker until stop is called, or the test has ended.
func (l *lab) work(options WorkerOptions) (stop func()) {
	l.t.Helper()
	ctx, cancel := context.WithCancel(l.ctx)
	worker := l.worker(options)
	var group sync.WaitGroup
	group.Go(func() {
		if err := worker.Run(ctx); err != nil {
			l.t.Error(err)
		}
	})
	stop = func() { cancel(); group.Wait() }
	l.t.Cleanup(stop)
	return stop
}

// ends waits for the job's end and returns its status as it is served.
func (l *lab) ends(id string) jobs.Status {
	l.t.Helper()
	var status jobs.Status
	require.Eventually(l.t, func() bool {
		var err error
		status, err = l.board.Status(l.ctx, jobs.PurgeHistory, id)
		return err == nil && status.State.Ended()
	}, time.Minute, 20*time.Millisecond)
	return status
}

// failing makes deletes of events fail with the SQLSTATE, the first so many or,
// if that is 0, all, by a trigger that passes as Synapse's.
func (l *lab) failing(state string, most int) {
	l.t.Helper()
	l.exec(`CREATE SEQUENCE tries`) // which a rollback does not set back
	l.exec(fmt.Sprintf(`CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
		IF %[2]d = 0 OR nextval('public.tries') <= %[2]d THEN
			RAISE SQLSTATE '%[1]s' USING MESSAGE = 'made to fail';
		END IF;
		RETURN OLD;
	END $$`, state, most))
	l.exec(`CREATE TRIGGER check_event_stream_ordering BEFORE DELETE ON events FOR EACH ROW EXECUTE FUNCTION fail()`)
}
