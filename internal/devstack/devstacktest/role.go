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

// roles numbers the roles that [AsPlainRole] has made.
var roles atomic.Int64

// AsPlainRole returns the URL of the same database for a new role that is not a
// superuser and owns nothing, but may read and write the tables that are there
// now, as an operator may set Lethe up. Each call makes another role.
func AsPlainRole(t testing.TB, database string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), timeout)
	defer cancel()
	conn, err := pgx.Connect(ctx, database)
	must(t, err)
	defer func() { _ = conn.Close(ctx) }()
	role := "plain_" + strconv.FormatInt(roles.Add(1), 10)
	for _, sql := range []string{
		`CREATE ROLE $role LOGIN`,
		`GRANT USAGE ON SCHEMA lethe TO $role`,
		`GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public, lethe TO $role`,
	} {
		_, err := conn.Exec(ctx, strings.ReplaceAll(sql, "$role", role))
		must(t, err)
	}
	plain, err := url.Parse(database)
	must(t, err)
	plain.User = url.User(role)
	return plain.String()
}
