package purge_test

import (
	"errors"
	"math"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"lethe/internal/devstack/devstacktest"
	"lethe/internal/store/census"
	"lethe/internal/store/journal"
	"lethe/internal/store/postgres"
	"lethe/internal/store/purge"
	"lethe/internal/store/storetest"
)

func TestCatalogKnowsTheEmbeddedSchema(t *testing.T) {
	t.Parallel()
	l := setup(t)
	_, err := l.Purger.HistoryCatalog(l.Ctx)
	require.NoError(t, err)
}

func TestCatalogNamesWhatItDoesNotKnow(t *testing.T) {
	t.Parallel()
	l := setup(t)
	l.Exec(`CREATE SCHEMA plugin`)
	l.Exec(`CREATE FUNCTION nop() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN OLD; END'`)
	const trigger = `CREATE TRIGGER audit BEFORE DELETE ON events FOR EACH ROW EXECUTE FUNCTION nop();`
	const dropTrigger = `DROP TRIGGER audit ON events`
	for name, c := range map[string]struct {
		make, undo string
		want       []string // nothing: it passes
	}{
		"reference to events": {
			`CREATE TABLE stars (event_id text REFERENCES events (event_id))`, `DROP TABLE stars`,
			[]string{"unknown table stars references events"},
		},
		"reference by stream ordering": {
			`CREATE TABLE stars (at bigint REFERENCES events (stream_ordering))`, `DROP TABLE stars`,
			[]string{"unknown table stars references events"},
		},
		"reference that cascades": {
			`CREATE TABLE stars (room_id text REFERENCES rooms ON DELETE CASCADE)`, `DROP TABLE stars`,
			[]string{"unknown table stars references rooms"},
		},
		"reference to what hangs on events": {
			`CREATE TABLE stars (event_id text REFERENCES event_json (event_id))`, `DROP TABLE stars`,
			[]string{"unknown table stars references event_json"},
		},
		"reference to state groups": {
			`CREATE TABLE stars (g bigint REFERENCES state_groups)`, `DROP TABLE stars`,
			[]string{"unknown table stars references state_groups"},
		},
		"reference from another schema": {
			`CREATE TABLE plugin.stars (event_id text REFERENCES events (event_id))`, `DROP TABLE plugin.stars`,
			[]string{"unknown table plugin.stars references events"},
		},
		"reference from a namesake": {
			`CREATE TABLE plugin.event_edges (event_id text REFERENCES events (event_id))`, `DROP TABLE plugin.event_edges`,
			[]string{"unknown table plugin.event_edges references events"},
		},
		"reference from a table with an odd name": {
			`CREATE TABLE "a ""b'; c" (event_id text REFERENCES events (event_id))`, `DROP TABLE "a ""b'; c"`,
			[]string{`unknown table "a ""b'; c" references events`},
		},
		"reference from a partition": {
			`CREATE TABLE stars (event_id text) PARTITION BY LIST (event_id);
			 CREATE TABLE part PARTITION OF stars DEFAULT;
			 ALTER TABLE part ADD FOREIGN KEY (event_id) REFERENCES events (event_id)`, `DROP TABLE stars`,
			[]string{"unknown table part references events"},
		},
		"reference that is not validated": {
			`CREATE TABLE stars (event_id text); ALTER TABLE stars ADD FOREIGN KEY (event_id) REFERENCES events (event_id) NOT VALID`,
			`DROP TABLE stars`,
			[]string{"unknown table stars references events"},
		},
		"several": {
			`CREATE TABLE moons (r text REFERENCES rooms); CREATE TABLE stars (e text REFERENCES events (event_id))`,
			`DROP TABLE moons, stars`,
			[]string{"table moons references rooms", "table stars references events"},
		},
		"trigger":                  {trigger, dropTrigger, []string{"events has the unknown trigger audit"}},
		"trigger that always runs": {trigger + `ALTER TABLE events ENABLE ALWAYS TRIGGER audit`, dropTrigger, []string{"trigger audit"}},
		"disabled trigger":         {trigger + `ALTER TABLE events DISABLE TRIGGER audit`, dropTrigger, nil},
		"trigger elsewhere": {
			`CREATE TABLE stars (); CREATE TRIGGER audit AFTER DELETE ON stars EXECUTE FUNCTION nop()`, `DROP TABLE stars`, nil,
		},
		"trigger of Synapse's": {
			`CREATE TRIGGER check_partial_state_events BEFORE INSERT ON events FOR EACH ROW EXECUTE FUNCTION nop()`,
			`DROP TRIGGER check_partial_state_events ON events`, nil,
		},
		"rule": {
			`CREATE RULE keep AS ON DELETE TO redactions DO INSTEAD NOTHING`, `DROP RULE keep ON redactions`,
			[]string{"redactions has the unknown rule keep"},
		},
		"view in a table's place": {
			`ALTER TABLE redactions RENAME TO hidden; CREATE VIEW redactions AS SELECT * FROM hidden`,
			`DROP VIEW redactions; ALTER TABLE hidden RENAME TO redactions`,
			[]string{"redactions has the unknown rule"},
		},
		"missing table": {
			`ALTER TABLE event_search RENAME TO hidden`, `ALTER TABLE hidden RENAME TO event_search`, []string{"no table event_search"},
		},
		"table out of sight": {
			`ALTER TABLE state_groups SET SCHEMA plugin`, `ALTER TABLE plugin.state_groups SET SCHEMA public`, []string{"no table state_groups"},
		},
		"column without a key": {
			`CREATE TABLE stars (event_id text)`, `DROP TABLE stars`, []string{"the column stars.event_id"},
		},
		"column of a partition": {
			`CREATE TABLE parts (n int, room_id text) PARTITION BY LIST (n); CREATE TABLE parts_1 PARTITION OF parts FOR VALUES IN (1)`,
			`DROP TABLE parts`,
			[]string{"the column parts.room_id", "the column parts_1.room_id"},
		},
		"new column of a known table": {
			`ALTER TABLE room_depth ADD COLUMN first_event_id text`, `ALTER TABLE room_depth DROP COLUMN first_event_id`,
			[]string{"the column room_depth.first_event_id"},
		},
		"column of a view": {`CREATE VIEW stars AS SELECT event_id FROM events`, `DROP VIEW stars`, nil},
		"other column":     {`CREATE TABLE stars (user_id text)`, `DROP TABLE stars`, nil},
	} {
		l.Exec(c.make)
		_, err := l.Purger.HistoryCatalog(l.Ctx)
		l.Exec(c.undo)
		if c.want == nil {
			require.NoError(t, err, name)
			continue
		}
		require.ErrorIs(t, err, purge.ErrCatalog, name)
		for _, want := range c.want {
			require.ErrorContains(t, err, want, name)
		}
	}
	_, err := l.Purger.HistoryCatalog(l.Ctx)
	require.NoError(t, err)
}

func TestPurgeDoesWithoutOptionalTables(t *testing.T) {
	t.Parallel()
	l := setup(t)
	l.Exec(`DROP TABLE sliding_sync_joined_rooms, state_groups_pending_deletion, state_groups_persisting`)
	l.Chain(room, "", 5, 0)
	require.NoError(t, l.purge(storetest.PurgeRequest(room, 4), 1))
	require.Equal(t, []string{"$4", "$5"}, l.Timeline(room))
	require.Equal(t, []int64{4, 5}, l.groups())
}

// purge runs a whole purge in batches of the size.
func (l *lab) purge(request purge.HistoryRequest, size int) error {
	l.T.Helper()
	history, err := l.Purger.History(l.Ctx, request)
	require.NoError(l.T, err)
	work := l.Work(request.Room)
	for from := int64(math.MinInt64); from < request.Before; {
		if err := l.InBatch(work, func(b *journal.Batch) (any, error) {
			done, err := history.Purge(l.Ctx, b, from, size)
			from = done.Cut
			return nil, err
		}); err != nil {
			return err
		}
	}
	l.collect(work, size)
	return l.Journal.EndJob(l.Ctx, work.Run, journal.Complete, "")
}

func TestCatalogNamesTriggersOfTablesThatCascade(t *testing.T) {
	t.Parallel()
	l := setup(t)
	l.Exec(`CREATE FUNCTION nop() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN OLD; END'`)
	l.Exec(`CREATE TRIGGER audit BEFORE DELETE ON thread_subscriptions FOR EACH ROW EXECUTE FUNCTION nop()`)
	_, err := l.Purger.HistoryCatalog(l.Ctx)
	require.ErrorIs(t, err, purge.ErrCatalog)
}

func TestCatalogNamesReferencesToTablesThatCascade(t *testing.T) {
	t.Parallel()
	l := setup(t)
	l.Exec(`CREATE TABLE stars (id int REFERENCES thread_subscriptions ON DELETE CASCADE)`)
	_, err := l.Purger.HistoryCatalog(l.Ctx)
	require.ErrorIs(t, err, purge.ErrCatalog)
}

func TestCatalogNamesChildTables(t *testing.T) {
	t.Parallel()
	l := setup(t)
	l.Exec(`CREATE TABLE archive () INHERITS (events)`)
	_, err := l.Purger.HistoryCatalog(l.Ctx)
	require.ErrorIs(t, err, purge.ErrCatalog)
}

func TestCatalogKnowsSynapsesSchema(t *testing.T) {
	t.Parallel()
	l := setupOn(t, devstacktest.Restored(t, devstacktest.Shared(t, "fixtures", "synapse-1.160-corpus.dump")))
	catalog, err := l.Purger.HistoryCatalog(l.Ctx)
	require.NoError(t, err)
	require.Empty(t, catalog.RowWise())
}

func TestCatalogNamesRowSecurityThatHidesRows(t *testing.T) {
	t.Parallel()
	l := setupAsOwner(t)
	l.Exec(`ALTER TABLE events ENABLE ROW LEVEL SECURITY`)
	_, err := l.Purger.HistoryCatalog(l.Ctx)
	require.NoError(t, err, "it hides nothing from its owner")
	plain, err := postgres.Open(l.Ctx, devstacktest.AsPlainRole(t, l.URL), postgres.Options{})
	require.NoError(t, err)
	defer plain.Close()
	_, err = purge.New(plain, purge.Options{}).HistoryCatalog(l.Ctx)
	require.ErrorIs(t, err, purge.ErrCatalog)
}

// The version changes exactly when the catalog changes.
// A job begins with a catalog that is at most a second old.
func TestChangesAreNoticedWithinASecond(t *testing.T) {
	t.Parallel()
	l := setup(t)
	begin := func() error {
		_, err := l.Purger.History(l.Ctx, storetest.PurgeRequest(room, 3))
		return errors.Join(err, l.Purger.CheckShutdown(l.Ctx))
	}
	require.NoError(t, begin())
	changed := time.Now()
	l.Exec(`CREATE TABLE stars (room_id text)`)
	require.Eventually(t, func() bool { return begin() != nil }, 5*time.Second, 10*time.Millisecond)
	require.Less(t, time.Since(changed), 3*time.Second)
}

// The rights of the role are part of the catalog and not of its version.
func TestCatalogIsBelievedForTenSeconds(t *testing.T) {
	t.Parallel()
	l := setup(t)
	for age, want := range map[time.Duration]bool{0: false, 8 * time.Second: false, 11 * time.Second: true} {
		again, err := l.Purger.CatalogIsReadAfter(l.Ctx, age)
		require.NoError(t, err)
		require.Equal(t, want, again, age)
	}
}

func TestCatalogVersionChangesWithTheCatalog(t *testing.T) {
	t.Parallel()
	l := setup(t)
	version := func() string {
		version, err := census.CatalogVersion(l.Ctx, l.DB)
		require.NoError(t, err)
		return version
	}
	l.Exec(`CREATE FUNCTION nothing() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$`)
	last := version()
	for _, change := range []string{
		`CREATE TABLE stars (event_id text REFERENCES events (event_id))`,
		`ALTER TABLE stars DROP CONSTRAINT stars_event_id_fkey`,
		`ALTER TABLE stars ADD FOREIGN KEY (event_id) REFERENCES events (event_id)`,
		`CREATE TRIGGER a AFTER DELETE ON events EXECUTE FUNCTION nothing()`,
		`ALTER TABLE events DISABLE TRIGGER a`,
		`CREATE RULE r AS ON DELETE TO redactions DO INSTEAD NOTHING`,
		`CREATE TABLE more () INHERITS (event_json)`,
		`ALTER TABLE rejections ENABLE ROW LEVEL SECURITY`,
		`DROP INDEX event_search_event_id_idx`,
		`DROP TABLE stars`,
		`ALTER TABLE event_expiry ALTER event_id TYPE varchar(300)`,
		`ALTER TABLE event_json ALTER format_version SET DEFAULT 3`,
		`ALTER TABLE event_expiry ADD COLUMN more text`,
		`ALTER TABLE event_expiry DROP COLUMN more`,
		`DROP INDEX events_stream_ordering CASCADE`,
		`CREATE TABLE schema_compat_version (lock char, compat_version int)`,
		`INSERT INTO schema_compat_version VALUES ('X', 85)`,
	} {
		l.Exec(change)
		require.NotEqual(t, last, version(), change)
		last = version()
	}
	l.Exec(`CREATE TEMPORARY TABLE t (a text)`)
	l.Exec(`ANALYZE events`)
	require.Equal(t, last, version())
}

// A compat_version that Lethe was not tested with stops purges and deletes until the
// operator accepts it.
func TestNewerCompatVersionMustBeAccepted(t *testing.T) {
	t.Parallel()
	l := setup(t)
	l.Exec(`CREATE TABLE IF NOT EXISTS schema_compat_version (lock char, compat_version int)`)
	l.Exec(`DELETE FROM schema_compat_version`)
	l.Exec(`INSERT INTO schema_compat_version VALUES ('X', 85)`)
	for _, read := range []func(*purge.Purger) error{
		func(p *purge.Purger) error { _, err := p.HistoryCatalog(l.Ctx); return err },
		func(p *purge.Purger) error { _, err := p.RoomCatalog(l.Ctx); return err },
	} {
		err := read(purge.New(l.DB, purge.Options{}))
		require.ErrorIs(t, err, purge.ErrCatalog)
		require.ErrorContains(t, err, "compat_version is 85, and Lethe was tested up to 84")
		require.ErrorContains(t, err, "set schema.compat to 85")
		require.NoError(t, read(purge.New(l.DB, purge.Options{Compat: 85})))
		require.ErrorIs(t, read(purge.New(l.DB, purge.Options{Compat: 1})), purge.ErrCatalog)
	}
}
