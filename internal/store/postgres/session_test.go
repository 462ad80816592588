package postgres_test

import (
	neturl "net/url"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"lethe/internal/devstack/devstacktest"
	"lethe/internal/store/postgres"
)

// Every session looks names up in the server's own schema first and in temporary tables
// last, whatever its role prefers, and bounds what has no other bound.
func TestSessionIsSetUp(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct{ make, role, want string }{
		"without tables":        {`SELECT`, "public", `pg_catalog, public, pg_temp`},
		"in public":             {`CREATE TABLE public.events ()`, "pg_temp,public", `pg_catalog, public, pg_temp`},
		"in a schema":           {`CREATE SCHEMA "Mat, rix"; CREATE TABLE "Mat, rix".events ()`, `"Mat, rix",public`, `pg_catalog, "Mat, rix", pg_temp`},
		"where the role looks":  {`CREATE SCHEMA matrix; CREATE TABLE matrix.events (); CREATE TABLE public.events ()`, "matrix,public", `pg_catalog, matrix, pg_temp`},
		"not where it does not": {`CREATE SCHEMA matrix; CREATE TABLE matrix.events ()`, "public", `pg_catalog, public, pg_temp`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			set := openAfter(t, test.make, test.role)
			var path, lock, idle string
			require.NoError(t, set.QueryRow(t.Context(), `
				SELECT current_setting('search_path'), current_setting('lock_timeout'), current_setting('idle_in_transaction_session_timeout')`).
				Scan(&path, &lock, &idle))
			// The build tag strangers adds a schema.
			path = strings.Replace(path, ", strangers", "", 1)
			require.Equal(t, []string{test.want, "5s", "10s"}, []string{path, lock, idle})
		})
	}
}

// Functions that another role has made in the homeserver's schema do not run when a session
// is set up.
func TestSessionIsSetUpBesideStrangers(t *testing.T) {
	t.Parallel()
	set := openAfter(t, `
		CREATE TABLE public.events ();
		CREATE FUNCTION public.ran() RETURNS text LANGUAGE plpgsql AS $$ BEGIN RAISE 'a stranger''s function ran'; END $$;
		CREATE FUNCTION public.concat(text, text, text) RETURNS text LANGUAGE sql AS 'SELECT public.ran()';
		CREATE FUNCTION public.min(text) RETURNS text LANGUAGE sql AS 'SELECT public.ran()';
		CREATE FUNCTION public.quote_ident(name) RETURNS text LANGUAGE sql AS 'SELECT public.ran()';
		CREATE FUNCTION public.to_regclass(name) RETURNS regclass LANGUAGE sql AS 'SELECT public.ran()::regclass';
		CREATE FUNCTION public.set_config(text, text, bool) RETURNS text LANGUAGE sql AS 'SELECT public.ran()';
		CREATE FUNCTION public.current_setting(text) RETURNS text LANGUAGE sql AS 'SELECT public.ran()'`, "public,pg_catalog")
	require.NoError(t, set.Ping(t.Context()))
}

// openAfter runs the statements in a new database, and opens it for a role that looks names
// up in the path.
func openAfter(t *testing.T, statements, path string) *postgres.DB {
	t.Helper()
	url := devstacktest.EmptyDatabase(t)
	conn, err := pgx.Connect(t.Context(), url)
	require.NoError(t, err)
	defer func() { require.NoError(t, conn.Close(t.Context())) }()
	_, err = conn.Exec(t.Context(), statements)
	require.NoError(t, err)
	db, err := postgres.Open(t.Context(), url+"&search_path="+neturl.PathEscape(path), postgres.Options{MaxConnections: 1})
	require.NoError(t, err)
	t.Cleanup(db.Close)
	return db
}
