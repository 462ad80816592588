package migrate_test

import (
	"context"
	"fmt"
	"net/url"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/pressly/goose/v3"
	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"lethe/internal/devstack/devstacktest"
	"lethe/internal/jobs"
	"lethe/internal/store/migrate"
	"lethe/internal/store/storetest"
)

// setupEmpty is [setup] on a database without a table.
func setupEmpty(t *testing.T) *lab {
	t.Helper()
	return &lab{storetest.On(t, devstacktest.EmptyDatabase(t))}
}

// relations lists what the database has: its tables, and how many columns and
// indexes each has.
func (l *lab) relations() []string {
	l.T.Helper()
	return storetest.All[string](l.Lab, `
		SELECT c.oid::regclass || ' ' || c.relnatts || ' ' || (SELECT count(*) FROM pg_index WHERE indrelid = c.oid)
		FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
		WHERE nspname NOT LIKE 'pg\_%' AND nspname <> 'information_schema' ORDER BY 1`)
}

func TestMigrateTwiceIsMigrateOnce(t *testing.T) {
	t.Parallel()
	for _, migrate := range []func(context.Context, string) error{migrate.Up, migrate.UpEmbedded} {
		l := setupEmpty(t)
		require.NoError(t, migrate(l.Ctx, l.URL))
		l.Exec(`INSERT INTO lethe.room_fences VALUES ('!kept:x', 7)`)
		relations := l.relations()
		l.RequireUnchanged(func() { require.NoError(t, migrate(l.Ctx, l.URL)) })
		require.Equal(t, relations, l.relations())
	}
}

func TestMigrateEmbeddedAfterMigrate(t *testing.T) {
	t.Parallel()
	l := setupEmpty(t)
	require.NoError(t, migrate.Up(l.Ctx, l.URL))
	require.NoError(t, migrate.UpEmbedded(l.Ctx, l.URL))
	require.NoError(t, migrate.CheckSchema(l.Ctx, l.DB))
}

func TestMigratingAtOnceWaits(t *testing.T) {
	t.Parallel()
	l := setupEmpty(t)
	var group errgroup.Group
	for range 8 {
		group.Go(func() error { return migrate.UpEmbedded(l.Ctx, l.URL) })
	}
	require.NoError(t, group.Wait())
	require.NoError(t, migrate.CheckSchema(l.Ctx, l.DB))
}

func TestMigrateEmbeddedRefusesOtherDatabases(t *testing.T) {
	t.Parallel()
	l := setupEmpty(t)
	l.Exec(`CREATE TABLE somebodys ()`)
	for range 2 {
		require.ErrorIs(t, migrate.UpEmbedded(l.Ctx, l.URL), migrate.ErrNotEmpty)
		require.Equal(t, []string{"somebodys"}, storetest.All[string](l.Lab, `SELECT tablename FROM pg_tables WHERE schemaname = 'public'`))
	}
}

func TestCheckSchemaSaysWhatToDo(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("migrations/lethe/*.sql")
	require.NoError(t, err)
	for name, c := range map[string]struct {
		migrate func(context.Context, string) error
		then    string
		want    []string // nothing: it fits
		refused error    // by MigrateEmbedded
	}{
		"empty":          {want: []string{"Lethe's own is missing", "run `lethe migrate`"}},
		"only Lethe's":   {migrate: migrate.Up, want: []string{"no table events"}},
		"embedded":       {migrate: migrate.UpEmbedded},
		"older":          {migrate.UpEmbedded, `DELETE FROM lethe.migrations_lethe WHERE version_id > 0`, []string{"version 0", fmt.Sprintf("needs %d:", len(files)), "run `lethe migrate`"}, nil},
		"older embedded": {migrate.UpEmbedded, `DELETE FROM lethe.migrations_embedded WHERE version_id > 0`, []string{"version 0", "needs 5"}, nil},
		"newer":          {migrate.UpEmbedded, `INSERT INTO lethe.migrations_lethe (version_id, is_applied) VALUES (999, true)`, []string{"version 999", "run a newer Lethe"}, migrate.ErrSchema},
		"newer embedded": {migrate.UpEmbedded, `INSERT INTO lethe.migrations_embedded (version_id, is_applied) VALUES (999, true)`, []string{"version 999", "run a newer Lethe"}, migrate.ErrSchema},
		"Synapse's":      {migrate.Up, `CREATE TABLE events (); CREATE TABLE schema_compat_version (lock char, compat_version int); INSERT INTO schema_compat_version VALUES ('X', 84)`, nil, migrate.ErrNotEmpty},
		"newer Synapse's": {
			migrate.Up, `CREATE TABLE events (); CREATE TABLE schema_compat_version (lock char, compat_version int); INSERT INTO schema_compat_version VALUES ('X', 85)`,
			nil, // jobs refuse it, and reads go on
			migrate.ErrNotEmpty,
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := setupEmpty(t)
			if c.migrate != nil {
				require.NoError(t, c.migrate(l.Ctx, l.URL))
			}
			l.Exec(c.then)
			err := migrate.CheckSchema(l.Ctx, l.DB)
			if c.want == nil {
				require.NoError(t, err)
			} else {
				require.ErrorIs(t, err, migrate.ErrSchema)
			}
			for _, want := range c.want {
				require.ErrorContains(t, err, want)
			}
			if c.refused != nil {
				l.RequireUnchanged(func() { require.ErrorIs(t, migrate.UpEmbedded(l.Ctx, l.URL), c.refused) })
			}
		})
	}
}

func TestMadeBySynapse(t *testing.T) {
	t.Parallel()
	l := setupEmpty(t)
	require.NoError(t, migrate.Up(l.Ctx, l.URL))
	made, err := migrate.MadeBySynapse(l.Ctx, l.DB)
	require.NoError(t, err)
	require.True(t, made)
	require.NoError(t, migrate.UpEmbedded(l.Ctx, l.URL))
	made, err = migrate.MadeBySynapse(l.Ctx, l.DB)
	require.NoError(t, err)
	require.False(t, made)
}

// A database's owner need not let Lethe make schemas, if there is one for it.
func TestMigrateWithoutTheRightToMakeSchemas(t *testing.T) {
	t.Parallel()
	l := setupEmpty(t)
	role := "poor_" + storetest.One[string](l.Lab, `SELECT current_database()`)
	l.Exec(`CREATE ROLE ` + role + ` LOGIN`)
	poor, err := url.Parse(l.URL)
	require.NoError(t, err)
	poor.User = url.User(role)
	require.ErrorContains(t, migrate.Up(l.Ctx, poor.String()), "permission denied")

	l.Exec(`CREATE SCHEMA lethe AUTHORIZATION ` + role)
	t.Cleanup(func() {
		// Before the database goes the role must own nothing, after it is too late.
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		conn, err := pgx.Connect(ctx, l.URL)
		require.NoError(t, err)
		defer conn.Close(ctx)
		_, err = conn.Exec(ctx, `DROP OWNED BY `+role+`; DROP ROLE `+role)
		require.NoError(t, err)
	})
	for range 2 {
		require.NoError(t, migrate.Up(l.Ctx, poor.String()))
	}
}

func TestMigrateTakesASchemaThatAppearsMeanwhile(t *testing.T) {
	t.Parallel()
	l := setupEmpty(t)
	tx, err := l.Conn.Begin(l.Ctx)
	require.NoError(t, err)
	l.Exec(`CREATE SCHEMA lethe`)
	c := make(chan error, 1)
	go func() { c <- migrate.Up(l.Ctx, l.URL) }()
	l.RequireLockWait()
	require.NoError(t, tx.Commit(l.Ctx))
	require.NoError(t, <-c)
}

func TestMigrateEmbeddedChangesNothingThatItRefuses(t *testing.T) {
	t.Parallel()
	l := setupEmpty(t)
	l.Exec(`CREATE TABLE somebodys ()`)
	r := l.relations()
	require.ErrorIs(t, migrate.UpEmbedded(l.Ctx, l.URL), migrate.ErrNotEmpty)
	require.Equal(t, r, l.relations())
}

// An operator who goes back to an older Lethe can revert the newest migrations, one
// by one, with jobs in every state.
func TestEachMigrationGoesBack(t *testing.T) {
	t.Parallel()
	l := setupEmpty(t)
	l.Exec(`CREATE SCHEMA lethe`)
	// What there is, with everything that can differ.
	schema := func() []string {
		return storetest.All[string](l.Lab, `
			SELECT c.oid::regclass || ' ' || coalesce(a.attname || ' ' || format_type(a.atttypid, a.atttypmod) || ' ' || a.attnotnull, '')
			FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
			LEFT JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
			WHERE n.nspname IN ('lethe', 'public') AND c.relname NOT LIKE '%migrations%'
			UNION ALL
			SELECT pg_get_indexdef(i.indexrelid) FROM pg_index i JOIN pg_class c ON c.oid = i.indrelid
			JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname IN ('lethe', 'public') AND c.relname NOT LIKE '%migrations%'
			UNION ALL
			SELECT conrelid::regclass || ' ' || pg_get_constraintdef(o.oid) FROM pg_constraint o
			JOIN pg_namespace n ON n.oid = o.connamespace WHERE n.nspname IN ('lethe', 'public') AND conrelid::regclass::text NOT LIKE '%migrations%'
			ORDER BY 1`)
	}
	for _, set := range []string{"lethe", "embedded"} {
		require.NoError(t, migrate.WithMigrator(l.Ctx, l.URL, set, func(provider *goose.Provider) error {
			var before [][]string
			for range provider.ListSources() {
				before = append(before, schema())
				_, err := provider.UpByOne(l.Ctx)
				require.NoError(t, err)
			}
			newest := schema()
			if set == "lethe" {
				for _, state := range []string{"scheduled", "queued", "running", "held", "paused", "complete", "failed", "cancelled"} {
					l.Exec(`
						INSERT INTO lethe.jobs (id, kind, room_id, parameters, requester, state, due_at, ended_at, heartbeat_at, error)
						SELECT $2, 'purge_history', '!' || s, '{}', '@a:x', s, CASE s WHEN 'scheduled' THEN now() + interval '1 hour' END, CASE WHEN s IN ('complete', 'failed', 'cancelled') THEN now() END,
						       CASE s WHEN 'running' THEN now() END, CASE s WHEN 'failed' THEN 'why' END
						FROM CAST($1 AS text) AS s`, state, jobs.NewID())
				}
			}
			for version := range slices.Backward(before) {
				_, err := provider.Down(l.Ctx)
				require.NoError(t, err)
				require.Equal(t, before[version], schema(), "%s, back from %d", set, version+1)
			}
			_, err := provider.Up(l.Ctx)
			require.NoError(t, err)
			require.Equal(t, newest, schema(), set)
			return nil
		}))
	}
	require.NoError(t, migrate.CheckSchema(l.Ctx, l.DB))
}
