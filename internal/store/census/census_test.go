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

const everyUse = schema.UsePurge | schema.UseDelete | schema.UseShutdown | schema.UseRead

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

// A table counts as the one that statements find, even if another schema of the search
// path has one of the same name. Unknown columns count in every schema of the path.
func TestNamesResolveAsInStatements(t *testing.T) {
	t.Parallel()
	l := storetest.New(t)
	l.Exec(`CREATE SCHEMA aside; CREATE TABLE aside.room_tags (room_id bytea); CREATE TABLE aside.stars (event_id text)`)
	differences := func(path string) []string {
		url := l.URL + "&search_path=" + path
		db, err := postgres.Open(l.Ctx, url, postgres.Options{MaxConnections: 1})
		require.NoError(t, err)
		defer db.Close()
		differences, err := census.Differences(l.Ctx, db, everyUse, schema.Rules{"comets": schema.DeleteByRoom, "stars": schema.Keep})
		require.NoError(t, err)
		return differences
	}
	const comets = "it has no table comets; remove the table from the setting tables"
	require.Equal(t, []string{comets}, differences("public"))
	require.Equal(t, []string{comets}, differences("public,aside"))
	require.Equal(t, []string{
		"the column room_tags.room_id has the type bytea instead of text; use a Lethe that was tested with this version of Synapse", comets,
	}, differences("aside,public"))
}
