package devstacktest

import (
	"context"
	"net/url"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/jackc/pgx/v5"
)

// roles is the number of roles that [AsNewRole] has created.
var roles atomic.Int64

// AsNewRole returns the URL of the same database for a new role, which may only connect.
// Each call creates another role.
func AsNewRole(t testing.TB, database string) string {
	t.Helper()
	return asRole(t, database)
}

// AsPlainRole is [AsNewRole] for a role that may also read and write all existing
// tables, as an operator may set it up.
func AsPlainRole(t testing.TB, database string) string {
	t.Helper()
	return asRole(t, database, `GRANT USAGE ON SCHEMA lethe TO $role`,
		`GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public, lethe TO $role`)
}

func asRole(t testing.TB, database string, grants ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), timeout)
	defer cancel()
	conn, err := pgx.Connect(ctx, database)
	must(t, err)
	defer func() { _ = conn.Close(ctx) }()
	role := "plain_" + strconv.FormatInt(roles.Add(1), 10)
	for _, sql := range append([]string{`CREATE ROLE $role LOGIN`}, grants...) {
		_, err := conn.Exec(ctx, strings.ReplaceAll(sql, "$role", role))
		must(t, err)
	}
	plain, err := url.Parse(database)
	must(t, err)
	plain.User = url.User(role)
	return plain.String()
}
