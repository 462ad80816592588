package store_test

import (
	"context"
	"fmt"
	"net/url"
	"path/filepath"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"lethe/internal/devstack/devstacktest"
	"lethe/internal/store"
)

// setupEmpty is [setup] on a database without a table.
func setupEmpty(t *testing.T) *lab {
	t.Helper()
	return setupOn(t, devstacktest.EmptyDatabase(t))
}

// relations lists what the database has: its tables, and how many columns and
// indexes each has.
func (l *lab) relations() []string {
	l.t.Helper()
	return all[string](l, `
		SELECT c.oid::regclass || ' ' || c.relnatts || ' ' || (SELECT count(*) FROM pg_index WHERE indrelid = c.oid)
		FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
		WHERE nspname NOT LIKE 'pg\_%' AND nspname <> 'information_schema' ORDER BY 1`)
}

func TestMigrateTwiceIsMigrateOnce(t *testing.T) {
	t.Parallel()
	for _, migrate := range []func(context.Context, string) error{store.Migrate, store.MigrateEmbedded} {
		l := setupEmpty(t)
		require.NoError(t, migrate(l.ctx, l.url))
		l.exec(`INSERT INTO lethe.room_fences VALUES ('!kept:x', 7)`)
		relations := l.relations()
		l.unchanged(func() { require.NoError(t, migrate(l.ctx, l.url)) })
		require.Equal(t, relations, l.relations())
	}
}

func TestMigrateEmbeddedAfterMigrate(t *testing.T) {
	t.Parallel()
	l := setupEmpty(t)
	require.NoError(t, store.Migrate(l.ctx, l.url))
	require.NoError(t, store.MigrateEmbedded(l.ctx, l.url))
	require.NoError(t, l.store.CheckSchema(l.ctx))
}

func TestMigratingAtOnceWaits(t *testing.T) {
	t.Parallel()
	l := setupEmpty(t)
	var group errgroup.Group
	for range 8 {
		group.Go(func() error { return store.MigrateEmbedded(l.ctx, l.url) })
	}
	require.NoError(t, group.Wait())
	require.NoError(t, l.store.CheckSchema(l.ctx))
}

func TestMigrateEmbeddedRefusesOtherDatabases(t *testing.T) {
	t.Parallel()
	l := setupEmpty(t)
	l.exec(`CREATE TABLE somebodys ()`)
	for range 2 {
		require.ErrorIs(t, store.MigrateEmbedded(l.ctx, l.url), store.ErrNotEmpty)
		require.Equal(t, []string{"somebodys"}, all[string](l, `SELECT tablename FROM pg_tables WHERE schemaname = 'public'`))
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
		"only Lethe's":   {migrate: store.Migrate, want: []string{"no table events"}},
		"embedded":       {migrate: store.MigrateEmbedded},
		"older":          {store.MigrateEmbedded, `DELETE FROM lethe.migrations_lethe WHERE version_id > 0`, []string{"version 0", fmt.Sprintf("needs %d:", len(files)), "run `lethe migrate`"}, nil},
		"older embedded": {store.MigrateEmbedded, `DELETE FROM lethe.migrations_embedded WHERE version_id > 0`, []string{"version 0", "needs 3"}, nil},
		"newer":          {store.MigrateEmbedded, `INSERT INTO lethe.migrations_lethe (version_id, is_applied) VALUES (999, true)`, []string{"version 999", "run a newer Lethe"}, store.ErrSchema},
		"newer embedded": {store.MigrateEmbedded, `INSERT INTO lethe.migrations_embedded (version_id, is_applied) VALUES (999, true)`, []string{"version 999", "run a newer Lethe"}, store.ErrSchema},
		"Synapse's":      {store.Migrate, `CREATE TABLE events (); CREATE TABLE schema_compat_version (lock char, compat_version int); INSERT INTO schema_compat_version VALUES ('X', 84)`, nil, store.ErrNotEmpty},
		"newer Synapse's": {
			store.Migrate, `CREATE TABLE events (); CREATE TABLE schema_compat_version (lock char, compat_version int); INSERT INTO schema_compat_version VALUES ('X', 85)`,
			[]string{"compat_version is 85", "up to 84"},
			store.ErrNotEmpty,
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := setupEmpty(t)
			if c.migrate != nil {
				require.NoError(t, c.migrate(l.ctx, l.url))
			}
			l.exec(c.then)
			err := l.store.CheckSchema(l.ctx)
			if c.want == nil {
				require.NoError(t, err)
			} else {
				require.ErrorIs(t, err, store.ErrSchema)
			}
			for _, want := range c.want {
				require.ErrorContains(t, err, want)
			}
			if c.refused != nil {
				l.unchanged(func() { require.ErrorIs(t, store.MigrateEmbedded(l.ctx, l.url), c.refused) })
			}
		})
	}
}

func TestMadeBySynapse(t *testing.T) {
	t.Parallel()
	l := setupEmpty(t)
	require.NoError(t, store.Migrate(l.ctx, l.url))
	made, err := l.store.MadeBySynapse(l.ctx)
	require.NoError(t, err)
	require.True(t, made)
	require.NoError(t, store.MigrateEmbedded(l.ctx, l.url))
	made, err = l.store.MadeBySynapse(l.ctx)
	require.NoError(t, err)
	require.False(t, made)
}

// A database's owner need not let Lethe make schemas, if there is one for it.
func TestMigrateWithoutTheRightToMakeSchemas(t *testing.T) {
	t.Parallel()
	l := setupEmpty(t)
	role := "poor_" + one[string](l, `SELECT current_database()`)
	l.exec(`CREATE ROLE ` + role + ` LOGIN`)
	poor, err := url.Parse(l.url)
	require.NoError(t, err)
	poor.User = url.User(role)
	require.ErrorContains(t, store.Migrate(l.ctx, poor.String()), "permission denied")

	l.exec(`CREATE SCHEMA lethe AUTHORIZATION ` + role)
	t.Cleanup(func() {
		// Before the database goes the role must own nothing, after it is too late.
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		conn, err := pgx.Connect(ctx, l.url)
		require.NoError(t, err)
		defer conn.Close(ctx)
		_, err = conn.Exec(ctx, `DROP OWNED BY `+role+`; DROP ROLE `+role)
		require.NoError(t, err)
	})
	for range 2 {
		require.NoError(t, store.Migrate(l.ctx, poor.String()))
	}
}

func TestMigrateTakesASchemaThatAppearsMeanwhile(t *testing.T) {
	t.Parallel()
	l := setupEmpty(t)
	tx, err := l.conn.Begin(l.ctx)
	require.NoError(t, err)
	l.exec(`CREATE SCHEMA lethe`)
	c := make(chan error, 1)
	go func() { c <- store.Migrate(l.ctx, l.url) }()
	l.waits()
	require.NoError(t, tx.Commit(l.ctx))
	require.NoError(t, <-c)
}

func TestMigrateEmbeddedChangesNothingThatItRefuses(t *testing.T) {
	t.Parallel()
	l := setupEmpty(t)
	l.exec(`CREATE TABLE somebodys ()`)
	r := l.relations()
	require.ErrorIs(t, store.MigrateEmbedded(l.ctx, l.url), store.ErrNotEmpty)
	require.Equal(t, r, l.relations())
}
