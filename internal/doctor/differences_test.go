package doctor

import (
	"net/url"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"lethe/internal/config"
	"lethe/internal/devstack/devstacktest"
	"lethe/internal/messages"
	"lethe/internal/store/migrate"
	"lethe/internal/store/postgres"
	"lethe/internal/store/purge"
	"lethe/internal/store/storetest"
)

// jobs that look at the tables before their first write. Sweeps look as the jobs do
// that they make.
const (
	history = 1 << iota
	room
	closing // the shutdown
	all     = history | room | closing
)

// Each difference that matters is named by the doctor, and stops exactly the jobs that
// would meet it. Reads go on.
func TestDifferencesStopJobs(t *testing.T) {
	t.Parallel()
	fixture := devstacktest.Restored(t, devstacktest.Shared(t, "fixtures", "synapse-1.160-corpus.dump"))
	require.NoError(t, migrate.Up(t.Context(), fixture))
	w := admit(t, fixture)
	db, err := postgres.Open(w.ctx, w.url, postgres.Options{})
	require.NoError(t, err)
	defer db.Close()
	w.exec(`SET search_path = public`) // the role is called lethe, so that schema would come first
	w.exec(`CREATE FUNCTION nop() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'`)
	purger := purge.New(db, purge.Options{VersionAge: 1}) // one for all, so that its cache must notice each change
	for name, c := range map[string]struct {
		make, undo string
		says       string
		stops      int
	}{
		"column gone": {
			`ALTER TABLE event_json RENAME COLUMN internal_metadata TO metadata; ALTER TABLE event_json ALTER metadata DROP NOT NULL`,
			`ALTER TABLE event_json RENAME COLUMN metadata TO internal_metadata; ALTER TABLE event_json ALTER internal_metadata SET NOT NULL`,
			"event_json has no column internal_metadata", history | closing,
		},
		"column of a room's table gone": {
			`ALTER TABLE room_tags RENAME COLUMN room_id TO room`, `ALTER TABLE room_tags RENAME COLUMN room TO room_id`,
			"room_tags has no column room_id", room,
		},
		"column of a shutdown gone": {
			`ALTER TABLE profiles RENAME COLUMN displayname TO name`, `ALTER TABLE profiles RENAME COLUMN name TO displayname`,
			"profiles has no column displayname", closing,
		},
		"type changed": {
			`ALTER TABLE event_expiry ALTER event_id TYPE bytea USING event_id::bytea`,
			`ALTER TABLE event_expiry ALTER event_id TYPE text USING encode(event_id, 'escape')`,
			"the column event_expiry.event_id has the type bytea instead of text", history | room,
		},
		"type like another": {
			`ALTER TABLE event_expiry ALTER event_id TYPE varchar(300)`, `ALTER TABLE event_expiry ALTER event_id TYPE text`, "", 0,
		},
		"key dropped": {
			`ALTER TABLE room_depth DROP CONSTRAINT room_depth_room_id_key`, `ALTER TABLE room_depth ADD CONSTRAINT room_depth_room_id_key UNIQUE (room_id)`,
			"room_depth has no unique key of room_id", all,
		},
		"key made partial": {
			`DROP INDEX local_current_membership_idx; CREATE UNIQUE INDEX local_current_membership_idx ON local_current_membership (user_id, room_id) WHERE membership = 'join'`,
			`DROP INDEX local_current_membership_idx; CREATE UNIQUE INDEX local_current_membership_idx ON local_current_membership (user_id, room_id)`,
			"local_current_membership has no unique key of room_id, user_id", closing,
		},
		"cascade dropped": {
			`ALTER TABLE event_txn_id_device_id DROP CONSTRAINT event_txn_id_device_id_event_id_fkey`,
			`ALTER TABLE event_txn_id_device_id ADD CONSTRAINT event_txn_id_device_id_event_id_fkey FOREIGN KEY (event_id) REFERENCES events (event_id) ON DELETE CASCADE`,
			"event_txn_id_device_id.event_id does not reference events", history | room,
		},
		"new trigger": {
			`CREATE TRIGGER audit BEFORE UPDATE ON events FOR EACH ROW EXECUTE FUNCTION nop()`, `DROP TRIGGER audit ON events`,
			"events has the unknown trigger audit", all,
		},
		"new trigger where shutdowns write": {
			`CREATE TRIGGER audit BEFORE INSERT ON current_state_delta_stream FOR EACH ROW EXECUTE FUNCTION nop()`,
			`DROP TRIGGER audit ON current_state_delta_stream`,
			"current_state_delta_stream has the unknown trigger audit", closing,
		},
		"new trigger where nothing is written": {
			`CREATE TRIGGER audit BEFORE UPDATE ON users FOR EACH ROW EXECUTE FUNCTION nop()`, `DROP TRIGGER audit ON users`, "", 0,
		},
		"new column that needs a value": {
			`ALTER TABLE current_state_delta_stream ADD COLUMN reason text NOT NULL DEFAULT ''; ALTER TABLE current_state_delta_stream ALTER reason DROP DEFAULT`,
			`ALTER TABLE current_state_delta_stream DROP COLUMN reason`,
			"the column current_state_delta_stream.reason needs a value", closing,
		},
		"new column that a purge must fill": {
			`ALTER TABLE event_backward_extremities ADD COLUMN reason text NOT NULL DEFAULT ''; ALTER TABLE event_backward_extremities ALTER reason DROP DEFAULT`,
			`ALTER TABLE event_backward_extremities DROP COLUMN reason`,
			"the column event_backward_extremities.reason needs a value", history | closing,
		},
		"new column": {`ALTER TABLE events ADD COLUMN mood text`, `ALTER TABLE events DROP COLUMN mood`, "", 0},
		"new table with a key": {
			`CREATE TABLE stars (event text REFERENCES events (event_id))`, `DROP TABLE stars`, "the unknown table stars references events", history | room,
		},
		"new table without a key": {
			`CREATE TABLE stars (event_id text)`, `DROP TABLE stars`, "Lethe does not know the column stars.event_id", all,
		},
		"copy of events": {
			`CREATE MATERIALIZED VIEW copies AS SELECT event_id, json FROM event_json`, `DROP MATERIALIZED VIEW copies`,
			"Lethe does not know the column copies.event_id", all,
		},
		"table gone": {
			`ALTER TABLE event_labels RENAME TO labels; ALTER TABLE labels SET SCHEMA lethe`, `ALTER TABLE lethe.labels SET SCHEMA public; ALTER TABLE labels RENAME TO event_labels`,
			"it has no table event_labels", history | room,
		},
		"newer compat_version": {
			`UPDATE schema_compat_version SET compat_version = 85`, `UPDATE schema_compat_version SET compat_version = 84`,
			"compat_version is 85, and Lethe was tested up to 84; if you know that it fits, set schema.compat to 85", all,
		},
		"unknown change": {
			`INSERT INTO applied_schema_deltas VALUES (94, '94/99_unheard_of.sql')`, `DELETE FROM applied_schema_deltas WHERE file = '94/99_unheard_of.sql'`, "", 0,
		},
	} {
		w.exec(c.make)
		stopped := 0
		for kind, check := range map[int]func() error{
			history: func() error { _, err := purger.History(w.ctx, purge.HistoryRequest{Room: w.rooms[0].Room}); return err },
			room:    func() error { _, err := purger.Room(w.ctx, purge.RoomRequest{Room: w.rooms[0].Room}); return err },
			closing: func() error { return purger.CheckShutdown(w.ctx) },
		} {
			if err := check(); err != nil {
				require.ErrorIs(t, err, purge.ErrCatalog, name)
				require.ErrorContains(t, err, c.says, name)
				stopped |= kind
			}
		}
		require.Equal(t, c.stops, stopped, name)
		if name != "column gone" { // which the page reads too
			readPage(t, w, db, name)
		}
		report := examineAs(w, w.url)
		w.exec(c.undo)
		require.Equal(t, c.stops == 0, report.Healthy(), "%s: %v", name, report)
		var tables []string
		for _, f := range report {
			if f.About == "tables" {
				tables = append(tables, f.Says)
			}
		}
		require.Len(t, tables, 1, name)
		require.Contains(t, tables[0], c.says, name)
		versions := finding(t, report, "versions")
		require.Equal(t, name == "unknown change", versions.Verdict == Advice, versions)
		require.Equal(t, name == "unknown change", strings.Contains(versions.Says, "94/99_unheard_of.sql"), versions)
	}
	report := examineAs(w, w.url)
	require.True(t, report.Healthy(), "%v", report)
	require.Equal(t, "Synapse's schema has the version 94, the compat_version 84 and 128 changes in applied_schema_deltas",
		finding(t, report, "versions").Says)
	w.exec(`UPDATE schema_compat_version SET compat_version = 85`)
	require.True(t, examineAs(w, w.url, func(c *config.Config) { c.SchemaCompat = 85 }).Healthy())
}

func readPage(t *testing.T, w *ward, db *postgres.DB, name string) {
	t.Helper()
	page, err := messages.New(db, messages.Options{}).Page(w.ctx, messages.Request{
		Room: w.rooms[0].Room, Reader: messages.Reader{UserID: w.rooms[0].Creator, Admin: true}, All: true, Backwards: true, Limit: 10,
	})
	require.NoError(t, err, name)
	require.NotEmpty(t, page.Chunk, name)
}

// The doctor finds nothing wrong with the schemas that Lethe supports.
func TestSupportedSchemas(t *testing.T) {
	t.Parallel()
	for _, version := range storetest.Versions {
		url := storetest.Restored(t, "synapse-1.160-corpus.dump", version)
		require.NoError(t, migrate.Up(t.Context(), url))
		conn, err := pgx.Connect(t.Context(), url)
		require.NoError(t, err)
		w := &ward{t: t, ctx: t.Context(), url: url, conn: conn}
		w.exec(`REVOKE CREATE ON SCHEMA public FROM PUBLIC`) // before PostgreSQL 15 everyone has it
		require.NoError(t, conn.Close(t.Context()))
		report := examineAs(w, url, func(c *config.Config) { c.ServerName = "lab.test" })
		require.True(t, report.Healthy(), "%s: %v", version, report)
		require.Equal(t, OK, finding(t, report, "versions").Verdict, version)
		require.Equal(t, OK, finding(t, report, "tables").Verdict, version)
	}
}

// Package schema lists every column that a purge, a delete with a shutdown, and pages
// use: a role that may use only these does all of them. The tests of the store have
// such a role too.
func TestStatementsUseOnlyKnownColumns(t *testing.T) {
	t.Parallel()
	check := func(t *testing.T, w *ward) {
		known := storetest.AsKnownColumns(t, w.url)
		parsed, err := url.Parse(known)
		require.NoError(t, err)
		w.role = parsed.User.Username()
		require.Equal(t, storetest.RowWise(t, w.conn), w.purge(w.rooms[0]), "it is done at once")
		w.readPages()
		conn, err := pgx.Connect(w.ctx, known)
		require.NoError(t, err)
		defer func() { require.NoError(t, conn.Close(w.ctx)) }()
		_, err = conn.Exec(w.ctx, `SELECT unrecognized_keys FROM events`)
		require.ErrorContains(t, err, "permission denied")
	}
	onBoth(t, check)
}
