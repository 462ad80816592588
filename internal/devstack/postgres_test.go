package devstack_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"lethe/internal/devstack"
)

func TestPostgresKeepsItsData(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	options := devstack.PostgresOptions{Dir: filepath.Join(traversable(t), "made"), Durable: true}
	server, err := devstack.StartPostgres(ctx, options)
	require.NoError(t, err)
	defer server.Close()

	require.NoError(t, server.CreateDatabase(ctx, "rooms", ""))
	require.ErrorIs(t, server.CreateDatabase(ctx, "rooms", ""), devstack.ErrDatabaseExists)
	url := server.URL("rooms")
	before := connect(t, url)
	_, err = before.Exec(ctx, "CREATE TABLE t AS SELECT 42 AS answer")
	require.NoError(t, err)

	require.NoError(t, server.Restart(ctx))
	require.Error(t, before.Ping(ctx), "a restart must close connections")
	answer(t, url)

	require.NoError(t, server.Close())
	require.NoError(t, server.Close(), "a second time")
	require.Error(t, server.Restart(ctx), "a closed server stays closed")

	again, err := devstack.StartPostgres(ctx, options)
	require.NoError(t, err)
	defer again.Close()
	answer(t, again.URL("rooms"))
}

func answer(t *testing.T, url string) {
	t.Helper()
	var answer int
	require.NoError(t, connect(t, url).QueryRow(testContext(t), "SELECT answer FROM t").Scan(&answer))
	require.Equal(t, 42, answer)
}

func TestPostgresIsWhatSynapseNeeds(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	server, err := devstack.StartPostgres(ctx, devstack.PostgresOptions{})
	require.NoError(t, err)
	defer server.Close()
	require.NoError(t, server.CreateDatabase(ctx, "rooms", ""))

	conn := connect(t, server.URL("rooms"))
	for query, want := range map[string]string{
		"SELECT pg_encoding_to_char(encoding) FROM pg_database WHERE datname = 'rooms'": "UTF8",
		"SELECT datcollate || datctype FROM pg_database WHERE datname = 'rooms'":        "CC",
		"SHOW listen_addresses":        "127.0.0.1",
		"SHOW unix_socket_directories": "",
		"SHOW timezone":                "UTC",
		"SHOW fsync":                   "off",
		"SHOW max_connections":         "200",
	} {
		var got string
		require.NoError(t, conn.QueryRow(ctx, query).Scan(&got), query)
		require.Equal(t, want, got, query)
	}

	require.NoError(t, server.DropDatabase(ctx, "rooms"))
	require.Error(t, conn.Ping(ctx), "dropping must close connections")
	require.NoError(t, server.DropDatabase(ctx, "rooms"), "a second time")
}

func TestPostgresSaysWhyItDoesNotStart(t *testing.T) {
	t.Parallel()
	dir := traversable(t)
	require.NoError(t, os.MkdirAll(filepath.Join(dir, "data"), 0o755)) // not created by initdb
	_, err := devstack.StartPostgres(testContext(t), devstack.PostgresOptions{Dir: dir})
	require.ErrorContains(t, err, "postgres ended before it was ready, exit status")
	require.ErrorContains(t, err, "postgresql.conf", "the log is part of the error")
}

func TestRootNeedsADirectoryForTheServersUser(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("others run their servers themselves")
	}
	_, err := devstack.StartPostgres(testContext(t), devstack.PostgresOptions{Dir: t.TempDir()}) // other users cannot enter its parent
	require.ErrorContains(t, err, "must be able to enter the directory")
}
