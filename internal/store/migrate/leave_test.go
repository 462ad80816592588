package migrate_test

import (
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"lethe/internal/jobs"
	"lethe/internal/store/migrate"
	"lethe/internal/store/storetest"
)

// A leaver is what takes Lethe's tables away: Down or Uninstall.
type leaver func(leaving migrate.Leaving) error

// leavers returns both, for a lab.
func leavers(l *lab) map[string]leaver {
	return map[string]leaver{
		"down":      func(leaving migrate.Leaving) error { return migrate.Down(l.Ctx, l.URL, 5, leaving) },
		"uninstall": func(leaving migrate.Leaving) error { return migrate.Uninstall(l.Ctx, l.URL, leaving) },
	}
}

func TestHoldsThatWereNotExportedStay(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"down", "uninstall"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := setupEmpty(t)
			require.NoError(t, migrate.UpEmbedded(l.Ctx, l.URL))
			l.Exec(`INSERT INTO lethe.holds (room_id, reason, placed_by) VALUES ('!a:x', 'case 1', 'me'), ('!b:x', 'case 2', 'me')`)
			l.Exec(`INSERT INTO lethe.holds (room_id, reason, placed_by, released_by, released_at) VALUES ('!c:x', 'case 3', 'me', 'me', now())`)
			leave := leavers(l)[name]
			for _, exported := range [][]migrate.Hold{nil, {{Room: "!a:x", Reason: "case 1"}}, {{Room: "!a:x", Reason: "case 1"}, {Room: "!b:x", Reason: "another"}}} {
				before := l.relations()
				err := leave(migrate.Leaving{Exported: exported, AbandonJobs: true})
				require.ErrorIs(t, err, migrate.ErrHolds)
				require.ErrorContains(t, err, "!b:x")
				require.Equal(t, before, l.relations())
				require.Equal(t, 3, storetest.One[int](l.Lab, `SELECT count(*) FROM lethe.holds`))
			}
			require.NoError(t, leave(migrate.Leaving{Exported: []migrate.Hold{{Room: "!a:x", Reason: "case 1"}, {Room: "!b:x", Reason: "case 2"}}}))
		})
	}
}

func TestTablesInUseStay(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"down", "uninstall"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := setupEmpty(t)
			require.NoError(t, migrate.Up(l.Ctx, l.URL))
			leave := leavers(l)[name]
			config, err := pgx.ParseConfig(l.URL)
			require.NoError(t, err)
			for application, inUse := range map[string]bool{"lethe worker": true, "lethe api worker scheduler": true, "lethe doctor": false, "psql": false} {
				config.RuntimeParams["application_name"] = application
				conn, err := pgx.ConnectConfig(l.Ctx, config)
				require.NoError(t, err)
				err = migrate.CheckUninstall(l.Ctx, l.URL, migrate.Leaving{})
				if inUse {
					require.ErrorIs(t, err, migrate.ErrInUse)
					require.ErrorContains(t, leave(migrate.Leaving{}), "stop "+application)
				} else {
					require.NoError(t, err)
				}
				require.NoError(t, conn.Close(l.Ctx))
				require.Eventually(t, func() bool {
					return storetest.One[int](l.Lab, `SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name = '`+application+`'`) == 0
				}, time.Minute, 10*time.Millisecond)
			}
			require.NoError(t, leave(migrate.Leaving{}))
		})
	}
}

func TestUninstall(t *testing.T) {
	t.Parallel()
	l := setupEmpty(t)
	require.NoError(t, migrate.UpEmbedded(l.Ctx, l.URL))
	l.Exec(`
		INSERT INTO lethe.jobs (id, kind, room_id, parameters, requester, state)
		VALUES ('` + jobs.NewID() + `', 'purge_history', '!a:x', '{}', '@a:x', 'queued')`)
	require.ErrorIs(t, migrate.Uninstall(l.Ctx, l.URL, migrate.Leaving{}), migrate.ErrInUse)
	require.ErrorContains(t, migrate.CheckUninstall(l.Ctx, l.URL, migrate.Leaving{}), "1 job has not ended")
	tables := storetest.One[int](l.Lab, `SELECT count(*) FROM pg_tables WHERE schemaname = 'public'`)
	for range 2 { // the second finds nothing
		require.NoError(t, migrate.Uninstall(l.Ctx, l.URL, migrate.Leaving{AbandonJobs: true}))
		require.False(t, storetest.One[bool](l.Lab, `SELECT to_regnamespace('lethe') IS NOT NULL`))
	}
	require.Equal(t, tables, storetest.One[int](l.Lab, `SELECT count(*) FROM pg_tables WHERE schemaname = 'public'`))
}

func TestDown(t *testing.T) {
	t.Parallel()
	l := setupEmpty(t)
	require.ErrorIs(t, migrate.Down(l.Ctx, l.URL, 0, migrate.Leaving{}), migrate.ErrVersion)
	require.NoError(t, migrate.Up(l.Ctx, l.URL))
	newest := storetest.One[int64](l.Lab, `SELECT max(version_id) FROM lethe.migrations_lethe`)
	id := jobs.NewID()
	l.Exec(`
		INSERT INTO lethe.jobs (id, kind, room_id, parameters, requester, state) VALUES ($1, 'purge_history', '!a:x', '{}', '@a:x', 'queued')`, id)
	for _, version := range []int64{-1, newest + 1} {
		require.ErrorIs(t, migrate.Down(l.Ctx, l.URL, version, migrate.Leaving{}), migrate.ErrVersion)
	}
	for _, version := range []int64{newest, newest - 1, 10, 10, 5} {
		require.NoError(t, migrate.Down(l.Ctx, l.URL, version, migrate.Leaving{}))
		require.Equal(t, version, storetest.One[int64](l.Lab, `SELECT max(version_id) FROM lethe.migrations_lethe`))
		require.Equal(t, id, storetest.One[string](l.Lab, `SELECT id FROM lethe.jobs`), "open jobs stay")
	}
	require.NoError(t, migrate.Up(l.Ctx, l.URL))
	l.Exec(`INSERT INTO lethe.migrations_lethe (version_id, is_applied) VALUES (999, true)`)
	require.ErrorIs(t, migrate.Down(l.Ctx, l.URL, 5, migrate.Leaving{}), migrate.ErrSchema)
}

// A hold that is being placed is not lost.
func TestUninstallWaitsForAHold(t *testing.T) {
	t.Parallel()
	l := setupEmpty(t)
	require.NoError(t, migrate.Up(l.Ctx, l.URL))
	conn, err := pgx.Connect(l.Ctx, l.URL)
	require.NoError(t, err)
	defer conn.Close(l.Ctx)
	tx, err := conn.Begin(l.Ctx)
	require.NoError(t, err)
	_, err = tx.Exec(l.Ctx, `INSERT INTO lethe.holds (room_id, reason, placed_by) VALUES ('!a:x', 'case 1', 'me')`)
	require.NoError(t, err)
	c := make(chan error, 1)
	go func() { c <- migrate.Uninstall(l.Ctx, l.URL, migrate.Leaving{}) }()
	l.RequireLockWait()
	require.NoError(t, tx.Commit(l.Ctx))
	require.ErrorIs(t, <-c, migrate.ErrHolds)
}
