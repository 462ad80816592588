package storetest

import (
	"context"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"lethe/internal/devstack/devstacktest"
	"lethe/internal/schema"
)

// granting is held while rights are granted: some belong to the whole server, which
// does not let two sessions change them at once.
var granting sync.Mutex

// RowWise returns why the batches of a lab's DB check references row by row, "" if they do not.
// Before PostgreSQL 15 only a superuser may set what it takes to check them at once.
func RowWise(t testing.TB, conn *pgx.Conn) string {
	t.Helper()
	if Version(t, conn) < 15_00_00 {
		return "the role may not set session_replication_role"
	}
	return ""
}

// Version returns the version of a server, such as 15_00_04.
func Version(t testing.TB, conn *pgx.Conn) (version int) {
	t.Helper()
	require.NoError(t, conn.QueryRow(t.Context(), `SELECT current_setting('server_version_num')::int`).Scan(&version))
	return version
}

// AsKnownColumns returns the URL of the same database for a new role that has exactly
// the rights of package schema that the processes need, or all of Lethe's processes if
// there are none. On Synapse's tables it has them only for the columns that a statement
// of theirs uses, so a statement that uses any other column fails.
func AsKnownColumns(t testing.TB, database string, processes ...schema.Process) string {
	t.Helper()
	if len(processes) == 0 {
		processes = schema.Processes()
	}
	role := devstacktest.AsNewRole(t, database)
	name := parse(t, role).User.Username()
	conn, err := pgx.Connect(t.Context(), database)
	require.NoError(t, err)
	defer func() { require.NoError(t, conn.Close(context.WithoutCancel(t.Context()))) }()
	var script strings.Builder
	add := func(sql string, args ...any) {
		script.WriteString(strings.ReplaceAll(fmt.Sprintf(sql, args...), "$role", name) + ";\n")
	}
	add(`ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT ALL ON TABLES TO $role`) // tables of the test itself
	add(`ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT USAGE ON SEQUENCES TO $role`)
	rows, err := conn.Query(t.Context(), `
		SELECT CASE WHEN n.nspname = 'lethe' THEN 'lethe.' ELSE '' END || c.relname, a.attname
		FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
		JOIN pg_attribute a ON a.attrelid = c.oid AND NOT a.attisdropped
		WHERE n.nspname IN ('public', 'lethe')`)
	require.NoError(t, err)
	existing := map[string][]string{}
	var table, column string
	_, err = pgx.ForEachRow(rows, []any{&table, &column}, func() error {
		existing[table] = append(existing[table], column)
		return nil
	})
	require.NoError(t, err)
	if existing["lethe.jobs"] != nil {
		add(`GRANT USAGE ON SCHEMA lethe TO $role`)
	}
	var uses schema.Use
	for _, process := range processes {
		uses |= process.Uses()
	}
	for _, need := range schema.Needs(processes...) {
		known := schema.Named(need.Name)
		switch {
		case need.Sequence:
			if existing[need.Name] != nil {
				add(`GRANT %s ON SEQUENCE %s TO $role`, need.Privilege, need.Name)
			}
			continue
		case need.Own && existing["lethe."+need.Name] == nil: // as in a database that Synapse made
			continue
		case need.Own:
			add(`GRANT %s ON lethe.%s TO $role`, need.Privilege, need.Name)
			continue
		case existing[need.Name] == nil:
			continue
		case need.Privilege == "DELETE":
			add(`GRANT DELETE ON %s TO $role`, need.Name)
			continue
		case need.Columns == nil:
			for _, c := range known.Used(uses) {
				need.Columns = append(need.Columns, c.Name)
			}
		}
		columns := slices.DeleteFunc(slices.Clone(need.Columns), func(c string) bool { return !slices.Contains(existing[need.Name], c) })
		if need.Privilege == "SELECT" {
			columns = append(columns, "ctid", "xmin")
		}
		add(`GRANT %s (%s) ON %s TO $role`, need.Privilege, strings.Join(columns, ", "), need.Name)
	}
	if !slices.Contains(processes, schema.Worker) {
		grant(t, conn, script.String())
		return role
	}
	// Set-wise, Lethe checks and deletes what the server would.
	rows, err = conn.Query(t.Context(), `
		SELECT c.conrelid::regclass::text, a.attname
		FROM pg_constraint c JOIN pg_attribute a ON a.attrelid = c.conrelid AND a.attnum = ANY (c.conkey)
		WHERE c.contype = 'f' AND c.connamespace = 'public'::regnamespace`)
	require.NoError(t, err)
	_, err = pgx.ForEachRow(rows, []any{&table, &column}, func() error {
		add(`GRANT SELECT (%s), DELETE ON %s TO $role`, column, table)
		return nil
	})
	require.NoError(t, err)
	var version int
	require.NoError(t, conn.QueryRow(t.Context(), `SELECT current_setting('server_version_num')::int`).Scan(&version))
	if version >= 15_00_00 {
		add(`GRANT SET ON PARAMETER session_replication_role TO $role`)
	}
	grant(t, conn, script.String())
	return role
}

// grant runs a script that grants rights.
func grant(t testing.TB, conn *pgx.Conn, script string) {
	t.Helper()
	granting.Lock()
	defer granting.Unlock()
	_, err := conn.Exec(t.Context(), script)
	require.NoError(t, err)
}

func parse(t testing.TB, text string) *url.URL {
	t.Helper()
	parsed, err := url.Parse(text)
	require.NoError(t, err)
	return parsed
}
