package migrate_test

import (
	"context"
	"net/url"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"lethe/internal/devstack/devstacktest"
	"lethe/internal/jobs"
	"lethe/internal/store/migrate"
	"lethe/internal/store/postgres"
	"lethe/internal/store/storetest"
)

func TestACopyIsADeploymentOnlyWhenToldWhich(t *testing.T) {
	t.Parallel()
	ctx, original := t.Context(), devstacktest.EmptyDatabase(t)
	require.NoError(t, migrate.Up(ctx, original))
	id, err := migrate.IDOf(ctx, original)
	require.NoError(t, err)
	require.Regexp(t, `^[0-9a-f]{12}$`, id)
	conn, err := pgx.Connect(ctx, original)
	require.NoError(t, err)
	_, err = conn.Exec(ctx, `
		INSERT INTO lethe.jobs (id, kind, room_id, parameters, requester, state)
		VALUES ($1, 'purge_history', '!a:x', '{}', '@a:x', 'queued')`, jobs.NewID())
	require.NoError(t, err)
	require.NoError(t, conn.Close(ctx))

	u, err := url.Parse(original)
	require.NoError(t, err)
	server, name := devstacktest.Postgres(t), u.Path[1:]+"_copy"
	require.Eventually(t, func() bool { return server.CreateDatabase(ctx, name, u.Path[1:]) == nil },
		time.Minute, 50*time.Millisecond, "a session of the original ends a moment after its connection")
	t.Cleanup(func() { _ = server.DropDatabase(context.Background(), name) })
	url := server.URL(name)
	db, err := postgres.Open(ctx, url, postgres.Options{MaxConnections: 2})
	require.NoError(t, err)
	t.Cleanup(db.Close)
	for range 2 { // a migration does not answer the question
		_, err = migrate.Deployment(ctx, db)
		require.ErrorIs(t, err, migrate.ErrCopied)
		require.ErrorContains(t, err, "--new-id")
		require.ErrorContains(t, err, "--same-id")
		_, err = migrate.IDOf(ctx, url)
		require.ErrorIs(t, err, migrate.ErrCopied)
		require.NoError(t, migrate.Up(ctx, url))
	}
	for range 2 {
		require.NoError(t, migrate.SameID(ctx, url))
		same, err := migrate.Deployment(ctx, db)
		require.NoError(t, err)
		require.Equal(t, id, same)
	}
	missing := func() (missing int) {
		require.NoError(t, db.QueryRow(ctx, `SELECT count(*) FROM lethe.jobs WHERE task_missing_since = '-infinity'`).Scan(&missing))
		return missing
	}
	require.Zero(t, missing(), "their tasks are where they were")
	require.NoError(t, migrate.NewID(ctx, url))
	other, err := migrate.IDOf(ctx, url)
	require.NoError(t, err)
	require.NotEqual(t, id, other)
	require.Equal(t, 1, missing(), "no queue has a task under the new names")
}

// After pg_upgrade the server has another identifier, and from PostgreSQL 15 on the same
// oid.
func TestAnUpgradedServerIsAnother(t *testing.T) {
	t.Parallel()
	l := setupEmpty(t)
	require.NoError(t, migrate.Up(l.Ctx, l.URL))
	require.NotZero(t, storetest.One[int64](l.Lab, `SELECT system_identifier FROM lethe.deployment`))
	l.Exec(`UPDATE lethe.deployment SET system_identifier = system_identifier + 1`)
	_, err := migrate.Deployment(l.Ctx, l.DB)
	require.ErrorIs(t, err, migrate.ErrCopied)
	require.NoError(t, migrate.SameID(l.Ctx, l.URL))
	_, err = migrate.Deployment(l.Ctx, l.DB)
	require.NoError(t, err)
}

// Where a role may not ask for the identifier, the oid decides.
func TestAServerThatDoesNotTellWhoItIs(t *testing.T) {
	t.Parallel()
	l := setupEmpty(t)
	l.Exec(`REVOKE EXECUTE ON FUNCTION pg_control_system() FROM PUBLIC`)
	l.Exec(`CREATE SCHEMA lethe`)
	role := "unknowing_" + storetest.One[string](l.Lab, `SELECT current_database()`)
	l.Exec(`CREATE ROLE ` + role + ` LOGIN`)
	l.Exec(`ALTER SCHEMA lethe OWNER TO ` + role)
	u, err := url.Parse(l.URL)
	require.NoError(t, err)
	u.User = url.User(role)
	require.NoError(t, migrate.Up(l.Ctx, u.String()))
	require.Zero(t, storetest.One[int](l.Lab, `SELECT count(system_identifier) FROM lethe.deployment`))
	_, err = migrate.IDOf(l.Ctx, u.String())
	require.NoError(t, err)
	l.Exec(`UPDATE lethe.deployment SET database_oid = 1`)
	_, err = migrate.IDOf(l.Ctx, u.String())
	require.ErrorIs(t, err, migrate.ErrCopied)
}

func TestANewIDNeedsStoppedProcesses(t *testing.T) {
	t.Parallel()
	l := setupEmpty(t)
	require.NoError(t, migrate.Up(l.Ctx, l.URL))
	before, err := migrate.IDOf(l.Ctx, l.URL)
	require.NoError(t, err)
	config, err := pgx.ParseConfig(l.URL)
	require.NoError(t, err)
	config.RuntimeParams["application_name"] = "lethe worker"
	conn, err := pgx.ConnectConfig(l.Ctx, config)
	require.NoError(t, err)
	defer func() { _ = conn.Close(l.Ctx) }()
	require.ErrorIs(t, migrate.NewID(l.Ctx, l.URL), migrate.ErrInUse)
	after, err := migrate.IDOf(l.Ctx, l.URL)
	require.NoError(t, err)
	require.Equal(t, before, after)
}
