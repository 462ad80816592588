package census_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"lethe/internal/devstack/devstacktest"
	"lethe/internal/schema"
	"lethe/internal/store/census"
	"lethe/internal/store/migrate"
	"lethe/internal/store/postgres"
	"lethe/internal/store/storetest"
)

const everyUse = schema.UseAll

// The schemas that Lethe supports have nothing that it does not know.
func TestSupportedSchemasDoNotDiffer(t *testing.T) {
	t.Parallel()
	check := func(t *testing.T, url string) {
		db, err := postgres.Open(t.Context(), url, postgres.Options{MaxConnections: 1})
		require.NoError(t, err)
		defer db.Close()
		differences, err := census.Differences(t.Context(), db, everyUse, nil)
		require.NoError(t, err)
		require.Empty(t, differences)
	}
	t.Run("embedded", func(t *testing.T) {
		t.Parallel()
		check(t, devstacktest.Database(t, "embedded", migrate.UpEmbedded))
	})
	for _, version := range storetest.Versions {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			check(t, storetest.Restored(t, "synapse-1.160-corpus.dump", version))
		})
	}
}

// Only the tables in the schema of the homeserver's count, whatever the role's search_path
// has: no statement finds others.
func TestNamesResolveAsInStatements(t *testing.T) {
	t.Parallel()
	l := storetest.New(t)
	l.Exec(`CREATE SCHEMA aside; CREATE TABLE aside.room_tags (room_id bytea); CREATE TABLE aside.stars (event_id text)`)
	for _, path := range []string{"public", "public,aside", "aside,public"} {
		db, err := postgres.Open(l.Ctx, l.URL+"&search_path="+path, postgres.Options{MaxConnections: 1})
		require.NoError(t, err)
		defer db.Close()
		differences, err := census.Differences(l.Ctx, db, everyUse, schema.Rules{"comets": schema.DeleteByRoom})
		require.NoError(t, err)
		require.Equal(t, []string{"it has no table comets; remove the table from the setting tables"}, differences, path)
		var rows int
		require.NoError(t, db.QueryRow(l.Ctx, `SELECT count(*) FROM room_tags WHERE room_id = ''`).Scan(&rows), path)
	}
}

// An unknown table counts however its name and its columns are spelled, and so does a
// materialized view, which has a copy of the rows. The operator learns how to name it.
func TestUnknownTablesOfEveryKind(t *testing.T) {
	t.Parallel()
	l := storetest.New(t)
	l.Exec(`
		CREATE TABLE upper ("Room_ID" text, "eventId" text);
		CREATE TABLE "Future Secrets" (room_id text);
		CREATE MATERIALIZED VIEW copies AS SELECT event_id, json FROM event_json;
		CREATE VIEW selected AS SELECT event_id FROM events;
		CREATE MATERIALIZED VIEW kept AS SELECT room_id FROM rooms`)
	const say = "; say in the setting tables what to do with the table"
	differences, err := census.Differences(l.Ctx, l.DB, everyUse, schema.Rules{"kept": schema.Keep})
	require.NoError(t, err)
	require.Equal(t, []string{
		`Lethe does not know the column "Future Secrets".room_id, and the setting tables cannot name the table; ` +
			`rename it, or move it to another schema`,
		"Lethe does not know the column copies.event_id" + say,
		"Lethe does not know the column upper.Room_ID" + say,
		"Lethe does not know the column upper.eventId" + say,
	}, differences)
}

// Lethe does not delete from what only looks like a table: the server may refuse that,
// or do something else.
func TestOnlyTablesCountAsTables(t *testing.T) {
	t.Parallel()
	l := storetest.New(t)
	l.Exec(`
		CREATE FOREIGN DATA WRAPPER none;
		CREATE SERVER nowhere FOREIGN DATA WRAPPER none;
		CREATE SCHEMA aside;
		ALTER TABLE users SET SCHEMA aside;
		CREATE VIEW users AS SELECT * FROM aside.users;
		CREATE VIEW event_reports AS SELECT event_id, room_id FROM events;
		CREATE MATERIALIZED VIEW copies AS SELECT event_id, json FROM event_json;
		DROP TABLE event_labels;
		CREATE FOREIGN TABLE event_labels (event_id text, label text, room_id text, topological_ordering bigint)
			SERVER nowhere;
		CREATE VIEW delayed_events AS SELECT room_id FROM rooms`)
	differences, err := census.Differences(l.Ctx, l.DB, schema.UsePurge|schema.UseDelete,
		schema.Rules{"event_reports": schema.DeleteByEvent, "copies": schema.DeleteByEvent})
	require.NoError(t, err)
	require.Equal(t, []string{
		"delayed_events is a view, and Lethe deletes only from tables",
		"event_labels is a foreign table, and Lethe deletes only from tables",
		"copies is a materialized view, and Lethe deletes only from tables",
		"event_reports is a view, and Lethe deletes only from tables",
	}, differences)
}

// A rule that deletes by a column that the table does not have is refused before a job
// has written anything.
func TestRulesNeedTheirColumns(t *testing.T) {
	t.Parallel()
	l := storetest.New(t)
	l.Exec(`
		CREATE TABLE comets (room_id text, event_id bigint);
		CREATE TABLE stars (event_id varchar(255));
		CREATE TABLE event_reports (id bigint, event_id text)`)
	differences, err := census.Differences(l.Ctx, l.DB, schema.UsePurge,
		schema.Rules{"comets": schema.DeleteByEvent, "event_reports": schema.DeleteByEvent, "stars": schema.DeleteByRoom})
	require.NoError(t, err)
	require.Equal(t, []string{
		"stars has no column room_id of the type text, by which the setting tables deletes; correct stars=delete_by_room there",
		"comets has no column event_id of the type text, by which the setting tables deletes; correct comets=delete_by_event there",
		"event_reports has no column room_id of the type text, by which the setting tables deletes; correct event_reports=delete_by_event there",
	}, differences)
	differences, err = census.Differences(l.Ctx, l.DB, schema.UsePurge,
		schema.Rules{"comets": schema.DeleteByRoom, "event_reports": schema.Keep, "stars": schema.DeleteByEvent})
	require.NoError(t, err)
	require.Empty(t, differences)
}
