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

// AsKnownColumns returns the URL of the same database for a new role that has exactly
// the rights of package schema: those on its tables, but only for the columns that a
// statement uses. It may use Lethe's own tables, make temporary ones, and check
// references set-wise. A statement that uses any other column fails.
func AsKnownColumns(t *testing.T, database string) string {
	t.Helper()
	role := devstacktest.AsPlainRole(t, database)
	name := parse(t, role).User.Username()
	conn, err := pgx.Connect(t.Context(), database)
	require.NoError(t, err)
	defer func() { require.NoError(t, conn.Close(context.WithoutCancel(t.Context()))) }()
	var script strings.Builder
	add := func(sql string, args ...any) {
		script.WriteString(strings.ReplaceAll(fmt.Sprintf(sql, args...), "$role", name) + ";\n")
	}
	add(`REVOKE ALL ON ALL TABLES IN SCHEMA public FROM $role`)
	add(`GRANT USAGE ON ALL SEQUENCES IN SCHEMA public TO $role`)
	add(`ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT ALL ON TABLES TO $role`) // tables of the test itself
	rows, err := conn.Query(t.Context(), `
		SELECT c.relname, a.attname FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND NOT a.attisdropped
		WHERE c.relnamespace = 'public'::regnamespace`)
	require.NoError(t, err)
	existing := map[string][]string{}
	var table, column string
	_, err = pgx.ForEachRow(rows, []any{&table, &column}, func() error {
		existing[table] = append(existing[table], column)
		return nil
	})
	require.NoError(t, err)
	for _, known := range schema.Tables() {
		if existing[known.Name] == nil {
			continue
		}
		columns := []string{"ctid"}
		for _, c := range known.Used(schema.UseAll) {
			if slices.Contains(existing[known.Name], c.Name) {
				columns = append(columns, c.Name)
			}
		}
		for right := range strings.FieldsSeq(known.Rights) {
			switch right {
			case "DELETE":
				add(`GRANT DELETE ON %s TO $role`, known.Name)
			case "SELECT":
				add(`GRANT SELECT (%s) ON %s TO $role`, strings.Join(columns, ", "), known.Name)
			default:
				add(`GRANT %s (%s) ON %s TO $role`, right, strings.Join(columns[1:], ", "), known.Name)
			}
		}
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
	granting.Lock()
	defer granting.Unlock()
	_, err = conn.Exec(t.Context(), script.String())
	require.NoError(t, err)
	return role
}

func parse(t *testing.T, text string) *url.URL {
	t.Helper()
	parsed, err := url.Parse(text)
	require.NoError(t, err)
	return parsed
}
