package storetest

import (
	"context"
	"encoding/json"
	"math"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"lethe/internal/devstack/devstacktest"
	"lethe/internal/jobs"
	"lethe/internal/schema"
	"lethe/internal/store/admin"
	"lethe/internal/store/expiry"
	"lethe/internal/store/journal"
	"lethe/internal/store/migrate"
	"lethe/internal/store/postgres"
	"lethe/internal/store/purge"
)

// ServerName is the homeserver's name in labs.
const ServerName = "x"

// Room is the id of a lab's usual room.
const Room = "!room:x"

// A Lab is a database for one test, with a plain connection to prepare and to check
// it.
type Lab struct {
	T   *testing.T
	Ctx context.Context
	URL string

	DB        *postgres.DB
	Conn      *pgx.Conn
	Admin     *admin.Queries
	Expiry    *expiry.Queries
	Holds     *journal.Holds
	Journal   *journal.Journal
	Purger    *purge.Purger
	Schedules *journal.Schedules
}

// New returns a Lab on an embedded database. Its DB may use exactly what package schema
// says that the processes use, as [AsKnownColumns] does: a statement that uses anything
// else fails its test.
func New(t *testing.T, processes ...schema.Process) *Lab {
	t.Helper()
	return OnAs(t, devstacktest.Database(t, "embedded", migrate.UpEmbedded), processes...)
}

// OnAs is [New] on another database.
func OnAs(t *testing.T, url string, processes ...schema.Process) *Lab {
	t.Helper()
	return on(t, url, AsKnownColumns(t, url, processes...))
}

// On returns a Lab on the database, whose DB may do everything.
func On(t *testing.T, url string) *Lab {
	t.Helper()
	return on(t, url, url)
}

// on returns a Lab on the database, which its DB reaches by another URL. Its purges
// check references set-wise and search for rows on another connection, however few
// events they select.
func on(t *testing.T, url, dbURL string) *Lab {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	t.Cleanup(cancel)
	db, err := postgres.Open(ctx, dbURL, postgres.Options{})
	require.NoError(t, err)
	t.Cleanup(db.Close)
	conn, err := pgx.Connect(ctx, url)
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close(context.Background()) })
	l := &Lab{
		T: t, Ctx: ctx, URL: url, DB: db, Conn: conn,
		Admin: admin.New(db), Expiry: expiry.New(db), Holds: journal.NewHolds(db), Journal: journal.New(db),
		Purger: purge.New(db, purge.Options{SetWiseFrom: 1, SearchFrom: 1}), Schedules: journal.NewSchedules(db),
	}
	// The role is called lethe, so its own schema of that name would come first.
	l.Exec(`SET search_path = public`)
	return l
}

// Exec runs a statement on the plain connection.
func (l *Lab) Exec(sql string, args ...any) {
	l.T.Helper()
	_, err := l.Conn.Exec(l.Ctx, sql, args...)
	require.NoError(l.T, err)
}

// All returns the values of a query's only column.
func All[T any](l *Lab, sql string, args ...any) []T {
	l.T.Helper()
	rows, err := l.Conn.Query(l.Ctx, sql, args...)
	require.NoError(l.T, err)
	values, err := pgx.CollectRows(rows, pgx.RowTo[T])
	require.NoError(l.T, err)
	return values
}

// One returns the only value of a query.
func One[T any](l *Lab, sql string, args ...any) T {
	l.T.Helper()
	values := All[T](l, sql, args...)
	require.Len(l.T, values, 1)
	return values[0]
}

// Dump returns the rows of all tables of the schemas, as JSON, by table.
func (l *Lab) Dump(schemas ...string) map[string][]string {
	l.T.Helper()
	dump := map[string][]string{}
	for _, table := range All[string](l, `
		SELECT format('%I.%I', schemaname, tablename) FROM pg_tables WHERE schemaname = ANY ($1)`, schemas) {
		dump[table] = All[string](l, `SELECT to_jsonb(t)::text FROM `+table+` t ORDER BY 1`)
	}
	require.NotEmpty(l.T, dump)
	return dump
}

// RequireUnchanged fails the test if do changes a row.
func (l *Lab) RequireUnchanged(do func()) {
	l.T.Helper()
	before := l.Dump("public", "lethe")
	do()
	require.Equal(l.T, before, l.Dump("public", "lethe"))
}

// RequireLockWait waits until a session of this database waits for a lock. It uses
// another connection, because pg_stat_activity does not change within a transaction.
func (l *Lab) RequireLockWait() {
	l.T.Helper()
	conn, err := pgx.Connect(l.Ctx, l.URL)
	require.NoError(l.T, err)
	defer func() { require.NoError(l.T, conn.Close(l.Ctx)) }()
	require.Eventually(l.T, func() bool {
		var waits bool
		err := conn.QueryRow(l.Ctx, `
			SELECT EXISTS (SELECT FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock')`).Scan(&waits)
		return err == nil && waits
	}, 20*time.Second, 5*time.Millisecond)
}

// NewJob returns a history purge of a room, to be inserted.
func NewJob(id, room string) journal.Job {
	return journal.Job{
		ID: id, Kind: jobs.PurgeHistory, Room: room, Parameters: json.RawMessage(`{}`), Requester: "@admin:x",
	}
}

// Queue inserts a queued history purge of the room.
func (l *Lab) Queue(room string) string {
	l.T.Helper()
	id := jobs.NewID()
	require.NoError(l.T, l.Journal.InsertJob(l.Ctx, NewJob(id, room), false))
	return id
}

// Claim claims a job of generation 1.
func (l *Lab) Claim(id string) journal.Run {
	l.T.Helper()
	job, err := l.Journal.ClaimJob(l.Ctx, id, 1, jobs.HeartbeatStale, 0)
	require.NoError(l.T, err)
	return RunOf(job)
}

// RunOf returns the run of a claimed job.
func RunOf(job journal.Job) journal.Run {
	return journal.Run{JobID: job.ID, Generation: job.Generation, Attempt: job.Attempt}
}

// Job reads a job.
func (l *Lab) Job(id string) journal.Job {
	l.T.Helper()
	job, err := l.Journal.Job(l.Ctx, id)
	require.NoError(l.T, err)
	return job
}

// Age makes the heartbeat of a job older.
func (l *Lab) Age(id string, by time.Duration) {
	l.T.Helper()
	l.Exec(`UPDATE lethe.jobs SET heartbeat_at = heartbeat_at - $2::interval WHERE id = $1`, id, by)
}

// A Work has what a job needs to open batches.
type Work struct {
	Run journal.Run
	journal.RoomLock
}

// Work makes a running job of the room, and takes a fence token for it.
func (l *Lab) Work(room string) Work {
	l.T.Helper()
	run := l.Claim(l.Queue(room))
	fence, err := l.Journal.NextFence(l.Ctx, room)
	require.NoError(l.T, err)
	return Work{run, journal.RoomLock{Room: room, Fence: fence, Lease: time.Minute}}
}

// InBatch runs do in a batch of the work, and commits it with the checkpoint that do
// returns.
func (l *Lab) InBatch(work Work, do func(*journal.Batch) (checkpoint any, err error)) error {
	return InBatch(l.Ctx, l.Journal, work, do)
}

// InBatch is [Lab.InBatch] with another journal.
func InBatch(ctx context.Context, j *journal.Journal, work Work, do func(*journal.Batch) (checkpoint any, err error)) error {
	b := j.Begin(work.Run, work.RoomLock)
	defer b.Rollback(ctx)
	checkpoint, err := do(b)
	if err != nil {
		return err
	}
	return b.Commit(ctx, checkpoint)
}

// PurgeRequest returns a request to purge the history of a room below a depth.
func PurgeRequest(room string, before int64) purge.HistoryRequest {
	return purge.HistoryRequest{Room: room, Before: before, ServerName: ServerName}
}

// PurgeBatch purges up to size events below the depth, in one batch.
func (l *Lab) PurgeBatch(work Work, before int64, size int) (purge.HistoryBatch, error) {
	return l.PurgeBatchWith(work, before, size, func(purge.HistoryBatch) any { return nil })
}

// PurgeBatchWith is [Lab.PurgeBatch] with a checkpoint. The function makes it from
// the batch's result before the commit.
func (l *Lab) PurgeBatchWith(work Work, before int64, size int, checkpoint func(purge.HistoryBatch) any) (done purge.HistoryBatch, err error) {
	history, err := l.Purger.History(l.Ctx, PurgeRequest(work.Room, before))
	if err != nil {
		return purge.HistoryBatch{}, err
	}
	err = l.InBatch(work, func(b *journal.Batch) (any, error) {
		done, err = history.Purge(l.Ctx, b, math.MinInt64, size)
		return checkpoint(done), err
	})
	return done, err
}

// Chain fills a room with the events $<name>1 to $<name>n. Each follows the one
// before and is one level above it. All are remote and searchable, and each has a
// state group of its own. The last is the forward extremity.
func (l *Lab) Chain(room, name string, n, base int) {
	l.T.Helper()
	l.Exec(`INSERT INTO rooms (room_id, room_version) VALUES ($1, '10')`, room)
	l.Exec(`INSERT INTO room_depth VALUES ($1, 1)`, room)
	l.Exec(`
		INSERT INTO events (event_id, room_id, type, topological_ordering, depth, stream_ordering, processed, outlier, sender)
		SELECT '$' || $2 || i, $1, 'm.room.message', i, i, $4 + i, true, false, '@zoe:far'
		FROM generate_series(1, $3::int) i`, room, name, n, base)
	l.Exec(`
		INSERT INTO event_edges (event_id, prev_event_id)
		SELECT '$' || $1 || i, '$' || $1 || i - 1 FROM generate_series(2, $2::int) i`, name, n)
	l.Exec(`INSERT INTO event_json (event_id, room_id, internal_metadata, json)
		SELECT event_id, room_id, '{}', '{}' FROM events WHERE room_id = $1`, room)
	l.Exec(`INSERT INTO event_search (event_id, room_id) SELECT event_id, room_id FROM events WHERE room_id = $1`, room)
	l.Exec(`INSERT INTO event_forward_extremities VALUES ('$' || $2 || $3::int, $1)`, room, name, n)
	l.Exec(`INSERT INTO state_groups SELECT stream_ordering, room_id, event_id FROM events WHERE room_id = $1`, room)
	l.Exec(`INSERT INTO state_groups_state (state_group, room_id, type, state_key, event_id)
		SELECT id, room_id, 't', '', event_id FROM state_groups WHERE room_id = $1`, room)
	l.Exec(`INSERT INTO event_to_state_groups SELECT event_id, id FROM state_groups WHERE room_id = $1`, room)
}

// Timeline returns the events of the room that are no outliers.
func (l *Lab) Timeline(room string) []string {
	l.T.Helper()
	return All[string](l, `SELECT event_id FROM events WHERE room_id = $1 AND NOT outlier ORDER BY depth, event_id`, room)
}

// WatchDeletes makes each batch that deletes an event of a chain run the statements
// in its transaction, by a trigger with the name of one of Synapse's.
func (l *Lab) WatchDeletes(statements string) {
	l.T.Helper()
	l.Exec(`CREATE FUNCTION watch() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN ` + statements + ` RETURN OLD; END $$`)
	l.Exec(`CREATE TRIGGER check_event_stream_ordering BEFORE DELETE ON events FOR EACH ROW EXECUTE FUNCTION watch()`)
}
