package purge_test

import (
	"context"
	"fmt"
	"math"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"lethe/internal/devstack/devstacktest"
	"lethe/internal/roomgen"
	"lethe/internal/store/journal"
	"lethe/internal/store/postgres"
	"lethe/internal/store/purge"
	"lethe/internal/store/storetest"
)

// writers are statements that make a row reference $1, a purged event: in tables that
// a purge deletes from, that a cascade empties, and that must not lose rows; by id and
// by stream ordering; by insert and by update; checked at once and at the commit.
var writers = map[string]string{
	"an edge":               `INSERT INTO event_edges (event_id, prev_event_id) VALUES ('$1', '$0')`,
	deferred:                `INSERT INTO event_forward_extremities (event_id, room_id) VALUES ('$1', '` + room + `')`,
	"a transaction id":      `INSERT INTO event_txn_id_device_id VALUES ('$1', '` + room + `', '@u:x', 'D', 't', 0)`,
	"a thread subscription": `INSERT INTO thread_subscriptions (stream_id, instance_name, room_id, event_id, user_id, subscribed, automatic) VALUES (1, 'm', '` + room + `', '$1', '@u:x', true, true)`,
	"current state":         `INSERT INTO current_state_events (event_id, room_id, type, state_key, event_stream_ordering) VALUES ('$s', '` + room + `', 't', '', 1)`,
	"a changed membership":  `UPDATE room_memberships SET event_stream_ordering = 1 WHERE event_id = '$3'`,
}

// deferred is the one whose key is checked when the writer commits.
const deferred = "a forward extremity"

// A path is how a batch keeps the references whole.
type path string

const (
	rowWise  path = "row wise"
	setWise  path = "set-wise"
	searched path = "set-wise, with a search"
	crowded  path = "set-wise, with no connection to search on"
)

var paths = []path{rowWise, setWise, searched, crowded}

// beside is a room with one writer's statement, and batches that go one path.
func beside(t *testing.T, by path) (*lab, purge.Catalog) {
	t.Helper()
	l := setup(t)
	l.Chain(room, "", 3, 0)
	l.Exec(`INSERT INTO users (name) VALUES ('@u:x')`)
	l.Exec(`INSERT INTO devices (user_id, device_id) VALUES ('@u:x', 'D')`)
	l.Exec(`INSERT INTO room_memberships (event_id, user_id, sender, room_id, membership, event_stream_ordering)
		VALUES ('$3', '@u:x', '@u:x', $1, 'join', 3)`, room)
	catalog := l.opened(by)
	if by == crowded {
		l.occupy()
	}
	return l, catalog
}

// opened makes the lab's batches go one path, and returns the catalog by which they
// do.
func (l *lab) opened(by path) purge.Catalog {
	l.T.Helper()
	url, options, pool := l.URL, purge.Options{SetWiseFrom: 1, SearchFrom: 1}, postgres.Options{}
	switch by {
	case rowWise:
		url = devstacktest.AsPlainRole(l.T, l.URL)
	case setWise:
		options.SearchFrom = math.MaxInt
	case crowded:
		pool.MaxConnections = 3 // of which one is a reader's, and one the batch's
	}
	db, err := postgres.Open(l.Ctx, url, pool)
	require.NoError(l.T, err)
	l.T.Cleanup(db.Close)
	l.use(db, options)
	catalog, err := l.Purger.HistoryCatalog(l.Ctx)
	require.NoError(l.T, err)
	require.Equal(l.T, by == rowWise, catalog.RowWise() != "", catalog.RowWise())
	return catalog
}

// occupy has a reader that reads until the test ends.
func (l *lab) occupy() {
	ctx, end := context.WithCancel(l.Ctx)
	reads, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		_ = l.DB.Snapshot(ctx, func(ctx context.Context, _ *postgres.LazyTx) error {
			close(reads)
			<-ctx.Done()
			return nil
		})
	}()
	<-reads
	l.T.Cleanup(func() { end(); <-ended })
}

// noOrphans fails the test if a row references an event that is not there.
func (l *lab) noOrphans() {
	l.T.Helper()
	for _, check := range storetest.All[string](l.Lab, `
		SELECT format('SELECT count(*) FROM %s t WHERE t.%I IS NOT NULL AND NOT EXISTS (SELECT FROM events e WHERE e.%I = t.%I)',
		              c.conrelid::regclass, a.attname, f.attname, a.attname)
		FROM pg_constraint c
		JOIN pg_attribute a ON a.attrelid = c.conrelid AND a.attnum = c.conkey[1]
		JOIN pg_attribute f ON f.attrelid = c.confrelid AND f.attnum = c.confkey[1]
		WHERE c.contype = 'f' AND c.confrelid = 'events'::regclass`) {
		require.Zero(l.T, storetest.One[int](l.Lab, check), check)
	}
}

func TestConcurrentWritersLeaveNoOrphan(t *testing.T) {
	t.Parallel()
	for _, by := range paths {
		for name, sql := range writers {
			named := func(moment string) string { return fmt.Sprintf("%s %s, %s", name, moment, by) }
			for _, commits := range []bool{true, false} {
				t.Run(named(fmt.Sprintf("before the delete, committed %v", commits)), func(t *testing.T) {
					t.Parallel()
					l, catalog := beside(t, by)
					batch := l.Work(room)
					tx := l.writer()
					_, err := tx.Exec(l.Ctx, sql)
					require.NoError(t, err)
					ended := make(chan error, 1)
					go func() {
						_, err := l.purgeBy(catalog, batch, 3, 9)
						ended <- err
					}()
					if name == deferred {
						// It locks nothing until it commits, and then it is too late.
						require.NoError(t, <-ended)
						require.ErrorContains(t, tx.Commit(l.Ctx), "23503")
						l.noOrphans()
						return
					}
					l.RequireLockWait()
					if commits {
						require.NoError(t, tx.Commit(l.Ctx))
					} else {
						require.NoError(t, tx.Rollback(l.Ctx))
					}
					if err := <-ended; err != nil {
						require.True(t, commits, "%v", err)
						require.True(t, postgres.Transient(err), "%v", err)
						require.Equal(t, []string{"$1", "$2", "$3"}, l.Timeline(room), "a batch that fails changes nothing")
					} else {
						require.Equal(t, []string{"$3"}, l.Timeline(room))
					}
					l.noOrphans()
				})
			}

			t.Run(named("after the delete"), func(t *testing.T) {
				t.Parallel()
				l, catalog := beside(t, by)
				batch := l.Work(room)
				written := make(chan error, 1)
				done, err := l.purgeByWith(catalog, batch, 3, 9, func() {
					tx := l.writer()
					go func() {
						_, err := tx.Exec(l.Ctx, sql)
						if err == nil {
							err = tx.Commit(l.Ctx) // where a deferred key is checked
						}
						written <- err
					}()
					l.RequireLockWait()
				})
				require.NoError(t, err)
				require.EqualValues(t, 2, done.Deleted)
				require.ErrorContains(t, <-written, "23503")
				require.ErrorContains(t, l.tryWrite(sql), "23503", "after the commit")
				l.noOrphans()
			})
		}
	}
}

// writer begins a transaction on a connection of its own.
func (l *lab) writer() pgx.Tx {
	l.T.Helper()
	conn, err := pgx.Connect(l.Ctx, l.URL)
	require.NoError(l.T, err)
	l.T.Cleanup(func() { _ = conn.Close(context.WithoutCancel(l.Ctx)) })
	tx, err := conn.Begin(l.Ctx)
	require.NoError(l.T, err)
	return tx
}

func (l *lab) tryWrite(sql string) error {
	tx := l.writer()
	_, err := tx.Exec(l.Ctx, sql)
	if err == nil {
		err = tx.Commit(l.Ctx)
	}
	return err
}

// A row that references an event, and that must not be deleted, stops the batch on
// each path. The server names the constraint.
func TestReferencedEventIsNotDeleted(t *testing.T) {
	t.Parallel()
	for _, by := range paths {
		l, catalog := beside(t, by)
		l.Exec(writers["current state"])
		batch := l.Work(room)
		l.RequireUnchanged(func() {
			_, err := l.purgeBy(catalog, batch, 3, 9)
			require.ErrorContains(t, err, "23503")
			require.ErrorContains(t, err, "current_state_events")
		})
		// The row says that the batch after it went the careful way, for a while.
		l.Exec(`DELETE FROM current_state_events`)
		done, err := l.purgeBy(catalog, batch, 3, 9)
		require.NoError(t, err)
		require.Equal(t, by == rowWise, done.RowWise != "")
		l.noOrphans()
	}
}

func TestOddReferencesAreLeftToTheServer(t *testing.T) {
	t.Parallel()
	for what, sql := range map[string]string{
		"sets null":       `ALTER TABLE thread_subscriptions ADD COLUMN other text REFERENCES events (event_id) ON DELETE SET NULL`,
		"several columns": `ALTER TABLE events ADD UNIQUE (event_id, stream_ordering); ALTER TABLE thread_subscriptions ADD COLUMN so bigint, ADD FOREIGN KEY (event_id, so) REFERENCES events (event_id, stream_ordering)`,
		"no event's key":  `ALTER TABLE event_labels ADD FOREIGN KEY (event_id) REFERENCES event_json (event_id)`,
	} {
		l := setup(t)
		l.Exec(sql)
		catalog, err := l.Purger.HistoryCatalog(l.Ctx)
		if err != nil {
			require.ErrorIs(t, err, purge.ErrCatalog, what)
			continue
		}
		require.Contains(t, catalog.RowWise(), "only the server", what)
	}
}

// A row that another transaction moves while the batch waits for it is not at the
// place where it was selected or found. It is deleted all the same, and rows of
// other events stay.
// Another event may have come into the place of a selected one.
func TestAnotherEventInThePlaceStays(t *testing.T) {
	t.Parallel()
	l := setup(t)
	l.Chain(room, "", 3, 0)
	work := l.Work(room)
	b := l.Journal.Begin(work.Run, work.RoomLock)
	defer b.Rollback(l.Ctx)
	deleted, err := l.Purger.DeleteInPlaceOf(l.Ctx, b, "$1", "$2")
	require.NoError(t, err)
	require.Zero(t, deleted)
	deleted, err = l.Purger.DeleteInPlaceOf(l.Ctx, b, "$1", "$1")
	require.NoError(t, err)
	require.EqualValues(t, 1, deleted)
}

func TestMovedRowsAreDeleted(t *testing.T) {
	t.Parallel()
	const move = `UPDATE events SET processed = processed WHERE event_id = '$1'`
	for what, c := range map[string]struct{ wait, move string }{
		"the event that the batch waits for":  {move, move},
		"another event":                       {move, `UPDATE events SET processed = processed WHERE event_id = '$2'`},
		"rows that were found":                {`SELECT FROM event_auth FOR UPDATE`, `UPDATE event_json SET format_version = 3; UPDATE event_auth SET room_id = room_id`},
		"mappings that were found":            {`SELECT FROM event_auth FOR UPDATE`, `UPDATE event_to_state_groups SET state_group = 8`},
		"rows of an event that is left alone": {`SELECT FROM event_auth FOR UPDATE`, `UPDATE event_json SET format_version = 3 WHERE event_id = '$3'`},
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			l, catalog := beside(t, searched)
			l.Exec(`INSERT INTO event_auth (event_id, auth_id, room_id) SELECT event_id, '$0', room_id FROM events`)
			l.Exec(`INSERT INTO event_json (event_id, room_id, internal_metadata, json)
				SELECT event_id, room_id, '{}', '{}' FROM events ON CONFLICT DO NOTHING`)
			l.Exec(`INSERT INTO event_to_state_groups (event_id, state_group) SELECT event_id, 7 FROM events ON CONFLICT DO NOTHING`)
			batch := l.Work(room)
			tx := l.writer()
			_, err := tx.Exec(l.Ctx, c.wait)
			require.NoError(t, err)
			ended := make(chan error, 1)
			go func() {
				_, err := l.purgeBy(catalog, batch, 3, 9)
				ended <- err
			}()
			l.RequireLockWait()
			_, err = tx.Exec(l.Ctx, c.move)
			require.NoError(t, err)
			require.NoError(t, tx.Commit(l.Ctx))
			require.NoError(t, <-ended)
			for _, table := range []string{"events", "event_json", "event_auth", "event_to_state_groups"} {
				require.Equal(t, []string{"$3"}, storetest.All[string](l.Lab, `SELECT event_id FROM `+table+` ORDER BY 1`), table)
			}
			l.noOrphans()
		})
	}
}

// A search that fails costs time and nothing else, so it would not show elsewhere.
func TestSearchFindsAllRows(t *testing.T) {
	t.Parallel()
	l, _ := beside(t, searched)
	l.Exec(`INSERT INTO event_auth (event_id, auth_id, room_id) SELECT event_id, auth, room_id FROM events, unnest(ARRAY['$0', '$1']) AS auth`)
	l.Exec(`INSERT INTO event_push_actions (room_id, event_id, user_id, profile_tag, actions, notif, thread_id)
		SELECT room_id, event_id, '@u:x', '', '[]', 1, 'main' FROM events WHERE event_id <> '$2'`)
	work := l.Work(room)
	b := l.Journal.Begin(work.Run, work.RoomLock)
	defer b.Rollback(l.Ctx)
	found, err := l.Purger.FoundPlaces(l.Ctx, b, `event_id IN ('$1', '$2')`)
	require.NoError(t, err)
	want := map[string]int64{}
	for table := range found {
		want[table] = storetest.One[int64](l.Lab, `SELECT count(*) FROM `+table+` WHERE event_id IN ('$1', '$2')`)
	}
	require.Equal(t, want, found)
	require.EqualValues(t, 4, found["event_auth"])
	require.EqualValues(t, 1, found["event_push_actions"])
}

// Without its snapshot, another row could have taken a place that a search has
// found.
func TestSearchThatLosesItsSnapshotIsNotTrusted(t *testing.T) {
	t.Parallel()
	l, catalog := beside(t, searched)
	l.Exec(`INSERT INTO event_auth (event_id, auth_id, room_id) SELECT event_id, '$0', room_id FROM events`)
	batch := l.Work(room)
	purge := func() error {
		_, err := l.purgeBy(catalog, batch, 3, 9)
		return err
	}
	tx := l.writer()
	_, err := tx.Exec(l.Ctx, `SELECT FROM event_auth FOR UPDATE`)
	require.NoError(t, err)
	ended := make(chan error, 1)
	l.RequireUnchanged(func() {
		go func() { ended <- purge() }()
		l.RequireLockWait()
		require.Eventually(t, func() bool {
			return storetest.One[bool](l.Lab, `SELECT coalesce(bool_or(pg_terminate_backend(pid)), false) FROM pg_stat_activity
				WHERE datname = current_database() AND state = 'idle in transaction' AND query = 'FETCH found'`)
		}, 10*time.Second, 5*time.Millisecond)
		require.NoError(t, tx.Rollback(l.Ctx))
		err = <-ended
		require.ErrorContains(t, err, "search for rows")
		require.True(t, postgres.Transient(err), "%v", err)
	})
	require.NoError(t, purge())
	require.Equal(t, []string{"$3"}, storetest.All[string](l.Lab, `SELECT event_id FROM event_auth`))
}

// A batch of few events of a large room reads little of it, whatever the planner
// expects.
func TestBatchesReadLittle(t *testing.T) {
	t.Parallel()
	for _, by := range []path{rowWise, setWise, searched} {
		t.Run(string(by), func(t *testing.T) {
			t.Parallel()
			l := setup(t)
			// On connections of their own, whose statistics are there when they have ended.
			conn, err := pgx.Connect(l.Ctx, l.URL)
			require.NoError(t, err)
			made, err := roomgen.Generate(l.Ctx, conn, roomgen.Room{Server: "x", Events: 4000})
			require.NoError(t, err)
			for seed := range uint64(12) {
				_, err := roomgen.Generate(l.Ctx, conn, roomgen.Room{Server: "x", Events: 40, Seed: seed + 1})
				require.NoError(t, err)
			}
			mustExec := func(sql string) {
				_, err := conn.Exec(l.Ctx, sql)
				require.NoError(t, err)
			}
			mustExec(`
				INSERT INTO event_edges (event_id, prev_event_id, is_state)
				SELECT event_id, '$before' || event_id, false FROM events WHERE topological_ordering % 20 = 0 AND topological_ordering < 800`)
			mustExec(`
				INSERT INTO event_backward_extremities (event_id, room_id)
				SELECT g.prev_event_id, e.room_id FROM event_edges g JOIN events e ON e.event_id = g.event_id
				WHERE g.prev_event_id LIKE '$before%'`)
			mustExec(`ANALYZE`)
			require.NoError(t, conn.Close(l.Ctx))

			catalog := l.opened(by)
			batch := l.Work(made.Room)
			read := func() (rows map[string]int64, deleted int64) {
				rows = map[string]int64{}
				for _, table := range []string{"events", "event_auth", "event_edges", "event_json", "event_search", "event_to_state_groups"} {
					rows[table] = storetest.One[int64](l.Lab, `SELECT seq_tup_read + coalesce(idx_tup_fetch, 0) FROM pg_stat_user_tables WHERE relname = $1`, table)
				}
				return rows, storetest.One[int64](l.Lab, `SELECT n_tup_del FROM pg_stat_user_tables WHERE relname = 'events'`)
			}
			before, _ := read()
			const events = 100
			done, err := l.purgeBy(catalog, batch, made.LastDepth-10, events)
			require.NoError(t, err)
			require.Greater(t, done.Deleted, int64(events/4))
			l.DB.Close()
			require.Eventually(t, func() bool { _, deleted := read(); return deleted >= done.Deleted }, 20*time.Second, 20*time.Millisecond)
			after, _ := read()
			for table, rows := range after {
				require.LessOrEqual(t, rows-before[table], int64(20*events), table)
			}
		})
	}
}

// After the deletes of a set-wise batch the server checks what else the transaction writes.
func TestTriggersAreOnAgainAfterABatch(t *testing.T) {
	t.Parallel()
	l := setup(t)
	if why := storetest.RowWise(t, l.Conn); why != "" {
		t.Skip(why)
	}
	l.use(l.DB, purge.Options{SetWiseFrom: 1})
	l.Chain(room, "", 9, 0)
	history, err := l.Purger.History(l.Ctx, storetest.PurgeRequest(room, 6))
	require.NoError(t, err)
	var role string
	require.NoError(t, l.InBatch(l.Work(room), func(b *journal.Batch) (any, error) {
		done, err := history.Purge(l.Ctx, b, math.MinInt64, 99)
		require.NoError(t, err)
		require.Empty(t, done.RowWise)
		require.EqualValues(t, 5, done.Deleted)
		return nil, b.QueryRow(l.Ctx, `SELECT current_setting('session_replication_role')`).Scan(&role)
	}))
	require.Equal(t, "origin", role)
}
