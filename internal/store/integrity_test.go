package store_test

import (
	"context"
	"fmt"
	"math"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"lethe/internal/devstack/devstacktest"
	"lethe/internal/store"
)

// writers are statements by which somebody comes to reference $1, an event that
// is purged: tables that a purge deletes from, that a cascade empties and that
// nothing may be deleted from, by id and by stream ordering, inserted and
// updated, checked at once and at the commit.
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

// beside is a room with one writer's statement, by the path that checks the
// references of a batch set-wise or row by row.
func beside(t *testing.T, rowWise bool) (*lab, store.Catalog) {
	t.Helper()
	l := setup(t)
	l.chain(room, "", 3, 0)
	l.exec(`INSERT INTO users (name) VALUES ('@u:x')`)
	l.exec(`INSERT INTO devices (user_id, device_id) VALUES ('@u:x', 'D')`)
	l.exec(`INSERT INTO room_memberships (event_id, user_id, sender, room_id, membership, event_stream_ordering)
		VALUES ('$3', '@u:x', '@u:x', $1, 'join', 3)`, room)
	if rowWise {
		plain, err := store.Open(l.ctx, devstacktest.AsPlainRole(t, l.url), store.Options{SetWiseFrom: 1})
		require.NoError(t, err)
		t.Cleanup(plain.Close)
		l.store = plain
	}
	catalog, err := l.store.Catalog(l.ctx)
	require.NoError(t, err)
	require.Equal(t, rowWise, catalog.RowWise() != "", catalog.RowWise())
	return l, catalog
}

// noOrphans fails the test if a row references an event that is not there.
func (l *lab) noOrphans() {
	l.t.Helper()
	for _, check := range all[string](l, `
		SELECT format('SELECT count(*) FROM %s t WHERE t.%I IS NOT NULL AND NOT EXISTS (SELECT FROM events e WHERE e.%I = t.%I)',
		              c.conrelid::regclass, a.attname, f.attname, a.attname)
		FROM pg_constraint c
		JOIN pg_attribute a ON a.attrelid = c.conrelid AND a.attnum = c.conkey[1]
		JOIN pg_attribute f ON f.attrelid = c.confrelid AND f.attnum = c.confkey[1]
		WHERE c.contype = 'f' AND c.confrelid = 'events'::regclass`) {
		require.Zero(l.t, one[int](l, check), check)
	}
}

func TestConcurrentWritersLeaveNoOrphan(t *testing.T) {
	t.Parallel()
	for _, rowWise := range []bool{false, true} {
		for name, sql := range writers {
			named := func(moment string) string { return fmt.Sprintf("%s %s, row wise %v", name, moment, rowWise) }
			for _, commits := range []bool{true, false} {
				t.Run(named(fmt.Sprintf("before the delete, committed %v", commits)), func(t *testing.T) {
					t.Parallel()
					l, catalog := beside(t, rowWise)
					batch := l.begin(room)
					tx := l.writer()
					_, err := tx.Exec(l.ctx, sql)
					require.NoError(t, err)
					ended := make(chan error, 1)
					go func() {
						_, err := l.store.PurgeHistoryBatch(l.ctx, batch, catalog, purgeOf(room, 3), math.MinInt64, 9, nothing)
						ended <- err
					}()
					if name == deferred {
						// It locks nothing until it commits, and then it is too late.
						require.NoError(t, <-ended)
						require.ErrorContains(t, tx.Commit(l.ctx), "23503")
						l.noOrphans()
						return
					}
					l.waits()
					if commits {
						require.NoError(t, tx.Commit(l.ctx))
					} else {
						require.NoError(t, tx.Rollback(l.ctx))
					}
					if err := <-ended; err != nil {
						require.True(t, commits, "%v", err)
						require.True(t, store.Transient(err), "%v", err)
						require.Equal(t, []string{"$1", "$2", "$3"}, l.timeline(room), "a batch that fails changes nothing")
					} else {
						require.Equal(t, []string{"$3"}, l.timeline(room))
					}
					l.noOrphans()
				})
			}

			t.Run(named("after the delete"), func(t *testing.T) {
				t.Parallel()
				l, catalog := beside(t, rowWise)
				batch := l.begin(room)
				written := make(chan error, 1)
				done, err := l.store.PurgeHistoryBatch(l.ctx, batch, catalog, purgeOf(room, 3), math.MinInt64, 9,
					func(store.HistoryBatch) any {
						tx := l.writer()
						go func() {
							_, err := tx.Exec(l.ctx, sql)
							if err == nil {
								err = tx.Commit(l.ctx) // where a deferred key is checked
							}
							written <- err
						}()
						l.waits()
						return nil
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
	l.t.Helper()
	conn, err := pgx.Connect(l.ctx, l.url)
	require.NoError(l.t, err)
	l.t.Cleanup(func() { _ = conn.Close(context.WithoutCancel(l.ctx)) })
	tx, err := conn.Begin(l.ctx)
	require.NoError(l.t, err)
	return tx
}

func (l *lab) tryWrite(sql string) error {
	tx := l.writer()
	_, err := tx.Exec(l.ctx, sql)
	if err == nil {
		err = tx.Commit(l.ctx)
	}
	return err
}

// A row that references an event, and that nothing may delete, stops the batch
// on either path: the server says which constraint it is.
func TestReferencedEventIsNotDeleted(t *testing.T) {
	t.Parallel()
	for _, rowWise := range []bool{false, true} {
		l, catalog := beside(t, rowWise)
		l.exec(writers["current state"])
		batch := l.begin(room)
		l.unchanged(func() {
			_, err := l.store.PurgeHistoryBatch(l.ctx, batch, catalog, purgeOf(room, 3), math.MinInt64, 9, nothing)
			require.ErrorContains(t, err, "23503")
			require.ErrorContains(t, err, "current_state_events")
		})
		// The row says that the batch after it went the careful way, for a while.
		l.exec(`DELETE FROM current_state_events`)
		done, err := l.store.PurgeHistoryBatch(l.ctx, batch, catalog, purgeOf(room, 3), math.MinInt64, 9, nothing)
		require.NoError(t, err)
		require.Equal(t, rowWise, done.RowWise != "")
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
		l.exec(sql)
		catalog, err := l.store.Catalog(l.ctx)
		if err != nil {
			require.ErrorIs(t, err, store.ErrCatalog, what)
			continue
		}
		require.Contains(t, catalog.RowWise(), "only the server", what)
	}
}
