package store_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"

	"lethe/internal/devstack/devstacktest"
	"lethe/internal/jobs"
	"lethe/internal/store"
)

// A lab is a Store on an embedded database of its own, with a plain connection
// beside it to prepare and to look at it.
type lab struct {
	t     *testing.T
	ctx   context.Context
	url   string
	store *store.Store
	conn  *pgx.Conn
}

func setup(t *testing.T) *lab {
	t.Helper()
	return setupOn(t, devstacktest.Database(t, "embedded", store.MigrateEmbedded))
}

func setupOn(t *testing.T, url string) *lab {
	t.Helper()
	ctx, s, conn := readerOf(t, url)
	// The role and so its own schema, which comes first, is called lethe.
	seed(t, ctx, conn, `SET search_path = public`)
	return &lab{t: t, ctx: ctx, url: url, store: s, conn: conn}
}

func (l *lab) exec(sql string, args ...any) {
	l.t.Helper()
	seed(l.t, l.ctx, l.conn, sql, args...)
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

// one returns the only value of a query.
func one[T any](l *lab, sql string, args ...any) T {
	l.t.Helper()
	values := all[T](l, sql, args...)
	require.Len(l.t, values, 1)
	return values[0]
}

// dump returns the rows of all tables of the schemas, as JSON, by table.
func (l *lab) dump(schemas ...string) map[string][]string {
	l.t.Helper()
	dump := map[string][]string{}
	for _, table := range all[string](l, `
		SELECT format('%I.%I', schemaname, tablename) FROM pg_tables WHERE schemaname = ANY ($1)`, schemas) {
		dump[table] = all[string](l, `SELECT to_jsonb(t)::text FROM `+table+` t ORDER BY 1`)
	}
	require.NotEmpty(l.t, dump)
	return dump
}

// unchanged fails the test if do changes a row.
func (l *lab) unchanged(do func()) {
	l.t.Helper()
	before := l.dump("public", "lethe")
	do()
	require.Equal(l.t, before, l.dump("public", "lethe"))
}

// waits returns when somebody waits for a lock in this database. It looks from
// outside, because within a transaction activity stands still.
func (l *lab) waits() {
	l.t.Helper()
	conn, err := pgx.Connect(l.ctx, l.url)
	require.NoError(l.t, err)
	defer func() { require.NoError(l.t, conn.Close(l.ctx)) }()
	require.Eventually(l.t, func() bool {
		var waits bool
		err := conn.QueryRow(l.ctx, `
			SELECT EXISTS (SELECT FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock')`).Scan(&waits)
		return err == nil && waits
	}, 20*time.Second, 5*time.Millisecond)
}

// queue makes a queued job of the room.
func (l *lab) queue(room string) string {
	l.t.Helper()
	id := jobs.NewID()
	require.NoError(l.t, l.store.InsertJob(l.ctx, newJob(id, room), false))
	return id
}

func newJob(id, room string) store.Job {
	return store.Job{ID: id, Kind: "purge_history", Room: room, Parameters: json.RawMessage(`{}`), Requester: "@admin:x"}
}

// claim makes us the run of a job of generation 1.
func (l *lab) claim(id string) store.Run {
	l.t.Helper()
	job, err := l.store.ClaimJob(l.ctx, id, 1, jobs.HeartbeatStale, 0)
	require.NoError(l.t, err)
	return runOf(job)
}

func runOf(job store.Job) store.Run {
	return store.Run{JobID: job.ID, Generation: job.Generation, Attempt: job.Attempt}
}

// grow makes the heartbeat of a job older.
func (l *lab) grow(id string, age time.Duration) {
	l.t.Helper()
	l.exec(`UPDATE lethe.jobs SET heartbeat_at = heartbeat_at - $2::interval WHERE id = $1`, id, age)
}

// begin makes a job of the room and what its batches need.
func (l *lab) begin(room string) store.Batch {
	l.t.Helper()
	run := l.claim(l.queue(room))
	fence, err := l.store.NextFence(l.ctx, room)
	require.NoError(l.t, err)
	return store.Batch{Run: run, Room: room, Fence: fence, Lease: time.Minute}
}

const room = "!room:x"

// chain fills a room with the events $<name>1 to $<name>n, each after the one
// before and a level above it, all remote, searchable and with a state group of
// its own. The last is the forward extremity.
func (l *lab) chain(room, name string, n, base int) {
	l.t.Helper()
	l.exec(`INSERT INTO rooms (room_id, room_version) VALUES ($1, '10')`, room)
	l.exec(`INSERT INTO room_depth VALUES ($1, 1)`, room)
	l.exec(`
		INSERT INTO events (event_id, room_id, type, topological_ordering, depth, stream_ordering, processed, outlier, sender)
		SELECT '$' || $2 || i, $1, 'm.room.message', i, i, $4 + i, true, false, '@zoe:far'
		FROM generate_series(1, $3::int) i`, room, name, n, base)
	l.exec(`
		INSERT INTO event_edges (event_id, prev_event_id)
		SELECT '$' || $1 || i, '$' || $1 || i - 1 FROM generate_series(2, $2::int) i`, name, n)
	l.exec(`INSERT INTO event_json (event_id, room_id, internal_metadata, json)
		SELECT event_id, room_id, '{}', '{}' FROM events WHERE room_id = $1`, room)
	l.exec(`INSERT INTO event_search (event_id, room_id) SELECT event_id, room_id FROM events WHERE room_id = $1`, room)
	l.exec(`INSERT INTO event_forward_extremities VALUES ('$' || $2 || $3::int, $1)`, room, name, n)
	l.exec(`INSERT INTO state_groups SELECT stream_ordering, room_id, event_id FROM events WHERE room_id = $1`, room)
	l.exec(`INSERT INTO state_groups_state (state_group, room_id, type, state_key, event_id)
		SELECT id, room_id, 't', '', event_id FROM state_groups WHERE room_id = $1`, room)
	l.exec(`INSERT INTO event_to_state_groups SELECT event_id, id FROM state_groups WHERE room_id = $1`, room)
}

// timeline is the events of the room that are no outliers.
func (l *lab) timeline(room string) []string {
	l.t.Helper()
	return all[string](l, `SELECT event_id FROM events WHERE room_id = $1 AND NOT outlier ORDER BY depth, event_id`, room)
}

// batch purges up to size events below the depth, as a job's next batch.
func (l *lab) batch(batch store.Batch, before int64, size int) (store.HistoryBatch, error) {
	return l.batchWith(batch, before, size, nothing)
}

func (l *lab) batchWith(batch store.Batch, before int64, size int, checkpoint func(store.HistoryBatch) any) (store.HistoryBatch, error) {
	catalog, err := l.store.Catalog(l.ctx)
	if err != nil {
		return store.HistoryBatch{}, err
	}
	return l.store.PurgeHistoryBatch(l.ctx, batch, catalog, purgeOf(batch.Room, before), math.MinInt64, size, checkpoint)
}

func purgeOf(room string, before int64) store.HistoryPurge {
	return store.HistoryPurge{Room: room, Before: before, ServerName: "x"}
}

// watchDeletes makes each batch that deletes an event of the chain run the
// statements inside its transaction, by a trigger that passes as Synapse's.
func (l *lab) watchDeletes(statements string) {
	l.t.Helper()
	l.exec(`CREATE FUNCTION watch() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN ` + statements + ` RETURN OLD; END $$`)
	l.exec(`CREATE TRIGGER check_event_stream_ordering BEFORE DELETE ON events FOR EACH ROW EXECUTE FUNCTION watch()`)
}

func TestBatchCommitsItsCheckpointWithItsWork(t *testing.T) {
	t.Parallel()
	l := setup(t)
	l.chain(room, "", 5, 0)
	batch := l.begin(room)
	done, err := l.batchWith(batch, 4, 1, func(done store.HistoryBatch) any { return done })
	require.NoError(t, err)
	require.Equal(t, store.HistoryBatch{Cut: 2, Deleted: 1}, done)
	require.Equal(t, []string{"$2", "$3", "$4", "$5"}, l.timeline(room))
	job, err := l.store.Job(l.ctx, batch.Run.JobID)
	require.NoError(t, err)
	require.JSONEq(t, `{"Cut":2,"Deleted":1,"Kept":0,"RowWise":""}`, string(job.Checkpoint))

	l.unchanged(func() {
		_, err := l.batchWith(batch, 4, 1, func(store.HistoryBatch) any { return func() {} })
		require.ErrorContains(t, err, "checkpoint", "a function has no JSON")
	})
}

func TestBatchResetsTheFailures(t *testing.T) {
	t.Parallel()
	l := setup(t)
	l.chain(room, "", 3, 0)
	batch := l.begin(room)
	for want := 1; want <= 3; want++ {
		failures, err := l.store.FailBatch(l.ctx, batch.Run, "why")
		require.NoError(t, err)
		require.Equal(t, want, failures)
	}
	_, err := l.batch(batch, 2, 9)
	require.NoError(t, err)
	job, err := l.store.Job(l.ctx, batch.Run.JobID)
	require.NoError(t, err)
	require.Zero(t, job.Failures)
}

func TestBatchOfASupersededRunChangesNothing(t *testing.T) {
	t.Parallel()
	for name, supersede := range map[string]func(*lab, store.Run){
		"claimed again": func(l *lab, run store.Run) {
			l.grow(run.JobID, time.Hour)
			require.NotEqual(l.t, run, l.claim(run.JobID))
		},
		"released": func(l *lab, run store.Run) {
			l.grow(run.JobID, time.Hour)
			released, err := l.store.ReleaseStale(l.ctx, time.Minute, 20, 9)
			require.NoError(l.t, err)
			require.Len(l.t, released, 1)
		},
		"yielded": func(l *lab, run store.Run) { require.NoError(l.t, l.store.YieldJob(l.ctx, run)) },
		"ended":   func(l *lab, run store.Run) { require.NoError(l.t, l.store.EndJob(l.ctx, run, "cancelled", "")) },
		"deleted": func(l *lab, run store.Run) { l.exec(`DELETE FROM lethe.jobs`) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := setup(t)
			l.chain(room, "", 3, 0)
			batch := l.begin(room)
			supersede(l, batch.Run)
			l.unchanged(func() {
				_, err := l.batch(batch, 3, 9)
				require.ErrorIs(t, err, store.ErrSuperseded)
			})
		})
	}
}

func TestBatchOverridesTheDatabasesSettings(t *testing.T) {
	t.Parallel()
	l := setup(t)
	l.chain(room, "", 3, 0)
	for setting, hostile := range map[string]string{
		"default_transaction_isolation":       "serializable",
		"statement_timeout":                   "30s",
		"lock_timeout":                        "1h",
		"idle_in_transaction_session_timeout": "1d",
	} {
		l.exec(fmt.Sprintf(`DO $$ BEGIN EXECUTE format('ALTER DATABASE %%I SET %s = %%L', current_database(), '%s'); END $$`, setting, hostile))
	}
	l.exec(`CREATE TABLE seen (name text, value text)`)
	l.watchDeletes(`
		INSERT INTO seen SELECT name, current_setting(name) FROM unnest(ARRAY[
			'transaction_isolation', 'statement_timeout', 'lock_timeout', 'idle_in_transaction_session_timeout']) AS name;`)

	_, err := l.batch(l.begin(room), 2, 9)
	require.NoError(t, err)
	require.Equal(t, []string{
		"idle_in_transaction_session_timeout 1min", "lock_timeout 5s", "statement_timeout 15min", "transaction_isolation read committed",
	}, all[string](l, `SELECT name || ' ' || value FROM seen ORDER BY 1`))
}

func TestBatchThatSleepsIsEndedByTheServer(t *testing.T) {
	t.Parallel()
	l := setup(t)
	l.chain(room, "", 3, 0)
	batch := l.begin(room)
	batch.Lease = 100 * time.Millisecond
	l.unchanged(func() {
		asleep := func() bool {
			return one[bool](l, `SELECT EXISTS (
				SELECT FROM pg_stat_activity WHERE datname = current_database() AND state = 'idle in transaction')`)
		}
		_, err := l.batchWith(batch, 3, 9, func(store.HistoryBatch) any {
			require.Eventually(t, func() bool { return !asleep() }, time.Minute, 10*time.Millisecond)
			return nil
		})
		require.Error(t, err)
		require.True(t, store.Transient(err), "%v", err)
	})
	_, err := l.batch(batch, 3, 9)
	require.NoError(t, err, "the store goes on with another connection")
}

func TestBatchDoesNotWaitLongForALockedRow(t *testing.T) {
	t.Parallel()
	l := setup(t)
	l.chain(room, "", 3, 0)
	batch := l.begin(room)
	tx, err := l.conn.Begin(l.ctx)
	require.NoError(t, err)
	l.exec(`SELECT FROM events WHERE event_id = '$1' FOR UPDATE`)
	l.unchanged(func() {
		_, err := l.batch(batch, 3, 9)
		require.ErrorContains(t, err, "lock timeout")
		require.True(t, store.Transient(err))
		require.False(t, store.Unreachable(err))
	})
	require.NoError(t, tx.Rollback(l.ctx))
	_, err = l.batch(batch, 3, 9)
	require.NoError(t, err)
}

// A row that somebody adds to a purged event at the same moment either goes
// with it or makes the batch fail, and the next try finds it.
func TestRowWiseBatchLeavesNoOrphanToAConcurrentWriter(t *testing.T) {
	t.Parallel()
	l := setup(t)
	l.chain(room, "", 3, 0)
	l.exec(`ALTER TABLE event_search ADD FOREIGN KEY (event_id) REFERENCES events (event_id)`)
	l.exec(`DELETE FROM event_search`)
	batch := l.begin(room)
	tx, err := l.conn.Begin(l.ctx)
	require.NoError(t, err)
	l.exec(`INSERT INTO event_search (event_id, room_id) VALUES ('$1', $1)`, room)
	l.exec(`INSERT INTO event_edges (event_id, prev_event_id) VALUES ('$1', '$0')`)
	failed := make(chan error, 1)
	catalog := store.Catalog{} // which would refuse the key
	go func() {
		_, err := l.store.PurgeHistoryBatch(l.ctx, batch, catalog, purgeOf(room, 3), math.MinInt64, 9, nothing)
		failed <- err
	}()
	l.waits()
	require.NoError(t, tx.Commit(l.ctx))
	err = <-failed
	require.ErrorContains(t, err, "23503")
	require.True(t, store.Transient(err))
	require.Equal(t, []string{"$1", "$2", "$3"}, l.timeline(room))

	_, err = l.store.PurgeHistoryBatch(l.ctx, batch, catalog, purgeOf(room, 3), math.MinInt64, 9, nothing)
	require.NoError(t, err)
	require.Zero(t, one[int](l, `SELECT count(*) FROM event_search`)+one[int](l, `SELECT count(*) FROM event_edges WHERE event_id = '$1'`))
}

func TestTransientAndUnreachable(t *testing.T) {
	t.Parallel()
	type verdict struct{ transient, unreachable bool }
	again, away, never := verdict{true, false}, verdict{true, true}, verdict{}
	cases := map[error]verdict{
		io.EOF:                   away,
		io.ErrUnexpectedEOF:      away,
		net.ErrClosed:            away,
		context.DeadlineExceeded: away,
		context.Canceled:         never,
		errors.New("EOF"):        never,
		store.ErrFenced:          never,
		store.ErrSuperseded:      never,
		store.ErrCatalog:         never,
		&net.OpError{Op: "read", Err: errors.New("reset")}: away,
	}
	for verdict, codes := range map[verdict]string{
		away:  "08000 08006 08P01 57P01 57P02 57P03",
		again: "40001 40P01 53100 53200 53300 55P03 55006 57014 58030 25P03 23503",
		never: "22021 23505 23514 25001 42501 42P01 42703 42601 54001 P0001 XX000",
	} {
		for code := range strings.FieldsSeq(codes) {
			cases[&pgconn.PgError{Code: code}] = verdict
		}
	}
	for err, want := range cases {
		wrapped := fmt.Errorf("purge: %w", err)
		require.Equal(t, want, verdict{store.Transient(wrapped), store.Unreachable(wrapped)}, "%v", err)
	}

	nobody, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	require.NoError(t, nobody.Close())
	s, err := store.Open(t.Context(), "postgres://lethe@"+nobody.Addr().String()+"/x", store.Options{})
	require.NoError(t, err)
	defer s.Close()
	err = s.Ping(t.Context())
	require.Error(t, err)
	require.True(t, store.Unreachable(err))
}

func TestRefusedConnectionIsUnreachable(t *testing.T) {
	t.Parallel()
	l := setup(t)
	cfg := l.conn.Config().Copy()
	cfg.User = "nobody"
	s, err := store.Open(l.ctx, fmt.Sprintf("postgres://nobody@%s:%d/x", cfg.Host, cfg.Port), store.Options{})
	require.NoError(t, err)
	defer s.Close()
	err = s.Ping(l.ctx)
	t.Log(err)
	require.True(t, store.Transient(err))
	require.True(t, store.Unreachable(err))
}

func TestErrorWithoutCodeIsNotTransient(t *testing.T) {
	t.Parallel()
	require.NotPanics(t, func() { store.Transient(&pgconn.PgError{}) })
}
