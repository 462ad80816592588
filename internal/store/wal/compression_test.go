package wal_test

import (
	"bytes"
	"log/slog"
	"net/url"
	"slices"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"lethe/internal/devstack/devstacktest"
	"lethe/internal/store/postgres"
	"lethe/internal/store/wal"
)

func TestMain(m *testing.M) { devstacktest.Main(m) }

// exec runs a statement as the database's superuser.
func exec(t *testing.T, database, sql string) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), database)
	require.NoError(t, err)
	defer func() { require.NoError(t, conn.Close(t.Context())) }()
	_, err = conn.Exec(t.Context(), sql)
	require.NoError(t, err)
}

// nameOf returns the name of the role in the URL.
func nameOf(t *testing.T, role string) string {
	t.Helper()
	parsed, err := url.Parse(role)
	require.NoError(t, err)
	return pgx.Identifier{parsed.User.Username()}.Sanitize()
}

// sessionOf returns what a new session with the compression works with, and the log.
func sessionOf(t *testing.T, database string, c wal.Compression) (value, said string) {
	t.Helper()
	var log bytes.Buffer
	value = valueOf(t, database, postgres.Options{SetUp: wal.Setter(c, slog.New(slog.NewTextHandler(&log, nil)))})
	return value, log.String()
}

// valueOf returns the compression that a new session has.
func valueOf(t *testing.T, database string, options postgres.Options) (value string) {
	t.Helper()
	options.MaxConnections = 1
	db, err := postgres.Open(t.Context(), database, options)
	require.NoError(t, err)
	defer db.Close()
	require.NoError(t, db.ReadRow(t.Context(), []any{&value}, `SELECT current_setting('wal_compression')`))
	return value
}

func look(t *testing.T, database string) wal.Server {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), database)
	require.NoError(t, err)
	defer func() { require.NoError(t, conn.Close(t.Context())) }()
	server, err := wal.Look(t.Context(), conn, "")
	require.NoError(t, err)
	require.NotEmpty(t, server.Built)
	require.Subset(t, []string{"zstd", "lz4", "pglz", "on"}, server.Built)
	better := -1
	for _, value := range server.Built {
		at := slices.Index([]string{"zstd", "lz4", "pglz", "on"}, value)
		require.Greater(t, at, better, "the best is first: %v", server.Built)
		better = at
	}
	_, err = wal.Look(t.Context(), conn, "nobody's")
	require.ErrorIs(t, err, wal.ErrNoRole)
	return server
}

// check returns what keeps a worker with the compression from starting.
func check(t *testing.T, database string, c wal.Compression) error {
	t.Helper()
	db, err := postgres.Open(t.Context(), database, postgres.Options{MaxConnections: 1})
	require.NoError(t, err)
	defer db.Close()
	return wal.Check(t.Context(), db, c)
}

// A superuser's sessions use the best that the server has, or what was named.
func TestSuperuserCompresses(t *testing.T) {
	t.Parallel()
	database := devstacktest.EmptyDatabase(t)
	server := look(t, database)
	require.True(t, server.May)
	value, said := sessionOf(t, database, wal.Auto)
	require.Equal(t, server.Built[0], value)
	require.NotEqual(t, "off", value)
	require.Contains(t, said, "compressed")
	require.Equal(t, server.Own, valueOf(t, database, postgres.Options{}), "it ends with the session")
	for c, want := range map[wal.Compression]string{wal.Off: server.Own, wal.PGLZ: server.Built[len(server.Built)-1]} {
		value, _ = sessionOf(t, database, c)
		require.Equal(t, want, value, c)
		require.NoError(t, check(t, database, c))
	}
	for _, c := range []wal.Compression{wal.LZ4, wal.Zstd} {
		err := check(t, database, c)
		value, said = sessionOf(t, database, c)
		if err == nil {
			require.Equal(t, string(c), value)
			continue
		}
		require.ErrorIs(t, err, wal.ErrUnusable) // an older server
		require.Equal(t, server.Own, value)
		require.Contains(t, said, "not compressed")
	}
}

// Without the right a session works as the server has it. A named compression keeps a
// worker from starting. With the right the next session uses the best.
func TestRoleNeedsTheRight(t *testing.T) {
	t.Parallel()
	database := devstacktest.EmptyDatabase(t)
	role := devstacktest.AsNewRole(t, database)
	server := look(t, role)
	require.False(t, server.May)
	for _, c := range []wal.Compression{wal.Auto, wal.PGLZ} {
		value, said := sessionOf(t, role, c)
		require.Equal(t, server.Own, value, c)
		require.NotEmpty(t, said)
	}
	require.NoError(t, check(t, role, wal.Auto))
	require.NoError(t, check(t, role, wal.Off))
	require.ErrorIs(t, check(t, role, wal.PGLZ), wal.ErrUnusable)
	if server.OnlySuperusers {
		require.ErrorContains(t, check(t, role, wal.PGLZ), "only a superuser")
		return
	}
	require.ErrorContains(t, check(t, role, wal.PGLZ), server.Grant)
	exec(t, database, server.Grant)
	value, _ := sessionOf(t, role, wal.Auto)
	require.Equal(t, server.Built[0], value)
	require.NoError(t, check(t, role, wal.PGLZ))

	// Its own setting, which an administrator made, stays with off.
	exec(t, database, `ALTER ROLE `+nameOf(t, role)+` SET wal_compression = 'pglz'`)
	value, _ = sessionOf(t, role, wal.Off)
	require.Equal(t, "pglz", value)
	require.True(t, look(t, role).Compresses())
}

// A server that was built without the best is asked for what it has.
func TestValueIsOneThatTheServerHas(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		server wal.Server
		named  wal.Compression
		want   string
		err    string
	}{
		{wal.Server{Built: []string{"lz4", "pglz"}, May: true}, wal.Auto, "lz4", ""},
		{wal.Server{Built: []string{"pglz"}, May: true}, wal.Auto, "pglz", ""},
		{wal.Server{Built: []string{"on"}, May: true, OnlySuperusers: true}, wal.Auto, "on", ""},
		{wal.Server{Built: []string{"on"}, May: true, OnlySuperusers: true}, wal.PGLZ, "on", ""},
		{wal.Server{Built: []string{"on"}, OnlySuperusers: true}, wal.PGLZ, "", "before PostgreSQL 15 only a superuser may set it"},
		{wal.Server{Built: []string{"lz4", "pglz"}, May: true}, wal.Zstd, "", "it is zstd, and the server can compress by lz4, pglz only"},
		{wal.Server{May: true}, wal.Auto, "", ""},
		{wal.Server{Built: []string{"zstd", "lz4", "pglz"}}, wal.Auto, "", ""},
		{wal.Server{Built: []string{"zstd", "lz4", "pglz"}, Grant: "GRANT it;"}, wal.LZ4, "", "the role may not set it: GRANT it;"},
	} {
		value, err := test.server.Value(test.named)
		require.Equal(t, test.want, value, "%+v", test)
		if test.err == "" {
			require.NoError(t, err)
		} else {
			require.ErrorIs(t, err, wal.ErrUnusable)
			require.ErrorContains(t, err, test.err)
		}
	}
}
