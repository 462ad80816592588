package vacuum

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"

	"lethe/internal/store/postgres"
)

// ErrNoRole is returned when the database has no role of the name.
var ErrNoRole = errors.New("the database has no such role")

// Rights is what a role lacks for vacuuming tables.
type Rights struct {
	// Tables are the names of the tables that the role may not vacuum.
	Tables []string

	// Grants gives the role what it lacks. Before PostgreSQL 17 these are memberships in the
	// roles that own the tables, with all rights of these.
	Grants []string

	// Maintain says that the server has the privilege MAINTAIN.
	Maintain bool
}

// grants selects what the role $1 lacks for the tables with the ids $2.
const grants = `
	WITH lacking AS (
		SELECT c.oid, c.relname::text AS name, c.relowner, c.relnamespace FROM pg_class c WHERE c.oid::bigint = ANY ($2::bigint[])
	)
	SELECT g.statement FROM (
		SELECT DISTINCT 1 AS rank, pg_catalog.format('GRANT USAGE ON SCHEMA %I TO %I;', n.nspname, $1::name) AS statement
		FROM lacking l JOIN pg_namespace n ON n.oid = l.relnamespace
		WHERE NOT has_schema_privilege($1::name, n.oid, 'USAGE')
		UNION ALL
		SELECT DISTINCT 2, pg_catalog.format('GRANT %I TO %I;', r.rolname, $1::name)
		FROM lacking l JOIN pg_roles r ON r.oid = l.relowner
		WHERE NOT $3::boolean AND NOT pg_has_role($1::name, r.oid, 'USAGE')
		UNION ALL
		SELECT 3, pg_catalog.format('GRANT MAINTAIN ON %s TO %I;', quote_ident(l.name), $1::name) FROM lacking l WHERE $3::boolean
	) g ORDER BY g.rank, g.statement`

// Rights returns what the role lacks for vacuuming the tables. Tables that the database
// does not have are left out. It fails with [ErrNoRole] if there is no such role.
func (q *Queries) Rights(ctx context.Context, role string, tables []string) (Rights, error) {
	fail := func(err error) (Rights, error) { return Rights{}, fmt.Errorf("look for the right to vacuum: %w", err) }
	var found Rights
	var exists bool
	if err := q.db.ReadRow(ctx, []any{&found.Maintain, &exists}, `
		SELECT current_setting('server_version_num')::int >= 170000, EXISTS (SELECT FROM pg_roles r WHERE r.rolname = $1::name)`, role); err != nil {
		return fail(err)
	}
	if !exists {
		return fail(ErrNoRole)
	}
	all, err := q.Facts(ctx, tables, 0)
	if err != nil {
		return fail(err)
	}
	allowed, err := mayVacuum(ctx, q.db, role, all)
	if err != nil {
		return fail(err)
	}
	var lacking []int64
	for _, table := range all {
		if !allowed[table.OID] {
			found.Tables, lacking = append(found.Tables, table.Name), append(lacking, int64(table.OID))
		}
	}
	if found.Grants, err = postgres.Collect(ctx, q.db, pgx.RowTo[string], grants, role, lacking, found.Maintain); err != nil {
		return fail(err)
	}
	return found, nil
}
