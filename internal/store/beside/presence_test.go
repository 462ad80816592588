package beside_test

import (
	"context"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"lethe/internal/schema"
	"lethe/internal/store/beside"
	"lethe/internal/store/beside/besidetest"
	"lethe/internal/store/storetest"
)

func look(l *storetest.Lab) beside.Presence {
	l.T.Helper()
	seen, err := beside.LookForHomeserver(l.Ctx, l.DB)
	require.NoError(l.T, err)
	return seen
}

// named opens a session under a name.
func named(l *storetest.Lab, name string) {
	l.T.Helper()
	config, err := pgx.ParseConfig(l.URL)
	require.NoError(l.T, err)
	config.RuntimeParams["application_name"] = name
	conn, err := pgx.ConnectConfig(l.Ctx, config)
	require.NoError(l.T, err)
	l.T.Cleanup(func() { _ = conn.Close(context.Background()) })
}

// Only several sessions of one role that have no name are a homeserver's.
func TestSessionsOfOthersAreNoHomeserver(t *testing.T) {
	t.Parallel()
	l := setup(t)
	for _, name := range []string{
		"lethe", "lethe worker", "lethe worker heartbeat", "psql", "pg_dump", "pg_basebackup", "pgAdmin 4 - DB:x", "DBeaver 24", "postgres_exporter",
	} {
		named(l, name)
		named(l, name)
	}
	seen := look(l)
	require.False(t, seen.Seen(), "%v", seen)
	require.Equal(t, "no homeserver seems to be at work on this database", seen.String())
	named(l, "")
	require.False(t, look(l).Seen(), "a pool has several")
	end := besidetest.Sessions(t, l.URL)
	seen = look(l)
	require.True(t, seen.Seen())
	require.Equal(t, 3, seen.Sessions)
	require.Equal(t, "the role lethe has 3 sessions that are not Lethe's", seen.String())
	end()
	require.Eventually(t, func() bool { return !look(l).Seen() }, waitTime, poll)
	besidetest.Sessions(t, setup(t).URL)
	require.False(t, look(l).Seen(), "a homeserver of another database")
}

func TestLocksOfAHomeserverAreSeen(t *testing.T) {
	t.Parallel()
	l := setup(t)
	requireLocked(l, both("job"), true)
	require.False(t, look(l).Seen(), "its own locks")
	l.Exec(`
		INSERT INTO worker_locks (lock_name, lock_key, instance_name, token, last_renewed_ts)
		SELECT 'upload_media', age::text, 'abcde', 'token', extract(epoch FROM clock_timestamp()) * 1000 - age FROM unnest(ARRAY[100000, 120001]) AS age`)
	seen := look(l)
	require.Equal(t, 1, seen.Locks, "the other one is stale")
	require.Equal(t, "1 of its locks is fresh", seen.String())
	token, err := besidetest.NewLocks(t, l.URL).Read("new_event_during_purge_lock", "!other:x")
	require.NoError(t, err)
	require.NotEmpty(t, token)
	require.Equal(t, 2, look(l).Locks)
}

func TestStatesInAnotherDatabase(t *testing.T) {
	t.Parallel()
	l := setup(t)
	elsewhere := func() bool {
		found, err := beside.StateElsewhere(l.Ctx, l.DB)
		require.NoError(t, err)
		return found
	}
	require.False(t, elsewhere(), "a new database")
	l.Chain(room, "a", 9, 0)
	require.False(t, elsewhere())
	l.Exec(`DELETE FROM state_groups WHERE id < 9`)
	require.False(t, elsewhere(), "purged groups")
	l.Exec(`DELETE FROM state_groups`)
	require.True(t, elsewhere())
	other := storetest.OnAs(t, besidetest.Database(t), schema.Worker)
	other.Exec(`DROP TABLE state_groups CASCADE`)
	found, err := beside.StateElsewhere(other.Ctx, other.DB)
	require.NoError(t, err)
	require.True(t, found)
}
