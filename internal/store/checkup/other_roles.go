package checkup

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"lethe/internal/store/postgres"
)

// maxMade is how many functions and operators are named.
const maxMade = 20

// OtherRoles says what other roles may make in the homeserver's schema, and have made.
// Lethe, the owners of the schema and of the homeserver's tables, and superusers are no
// other roles.
type OtherRoles struct {
	// Schema is the homeserver's schema, "" if its tables are missing.
	Schema string

	// Revokes has a REVOKE for each role that may create in the schema.
	Revokes []string

	// Made names up to 20 functions and operators of other roles in the schema.
	Made []string
}

// LookForOtherRoles returns what other roles may do in the homeserver's schema, which is in
// the search_path of Lethe's sessions. It fails with [ErrNoRole] if there is no such role.
func LookForOtherRoles(ctx context.Context, db *postgres.DB, role Role) (found OtherRoles, err error) {
	name, _, err := role.find(ctx, db)
	if err == nil {
		err = db.ReadRow(ctx, []any{&found.Schema}, `
			SELECT coalesce(min(n.nspname::text), '')
			FROM pg_namespace n JOIN pg_class c ON c.relnamespace = n.oid
			WHERE c.oid = to_regclass('events')::oid`)
	}
	if err == nil {
		found.Revokes, err = postgres.Collect(ctx, db, pgx.RowTo[string], home+`
			SELECT pg_catalog.format('REVOKE CREATE ON SCHEMA %I FROM %s;', home.nspname, coalesce(quote_ident(r.rolname::text), 'PUBLIC'))
			FROM home
			-- Without rights of its own a schema has the default.
			CROSS JOIN LATERAL aclexplode(coalesce(home.nspacl, acldefault('n'::"char", home.nspowner))) a
			LEFT JOIN pg_roles r ON r.oid = a.grantee
			WHERE a.privilege_type = 'CREATE' AND a.grantee NOT IN (SELECT oid FROM trusted)
			ORDER BY 1`, name)
	}
	if err == nil {
		found.Made, err = postgres.Collect(ctx, db, pgx.RowTo[string], home+`
			SELECT p.oid::regprocedure::text FROM pg_proc p JOIN home ON home.oid = p.pronamespace
			WHERE p.proowner NOT IN (SELECT oid FROM trusted)
			UNION ALL
			SELECT 'operator ' || o.oid::regoperator::text FROM pg_operator o JOIN home ON home.oid = o.oprnamespace
			WHERE o.oprowner NOT IN (SELECT oid FROM trusted)
			ORDER BY 1 LIMIT $2`, name, maxMade)
	}
	if err != nil {
		return OtherRoles{}, fmt.Errorf("look for what other roles may create: %w", err)
	}
	return found, nil
}

// home begins a query with the homeserver's schema, and with the roles that may create
// there: $1, which is Lethe's, among them.
const home = `
	WITH home AS (
		SELECT n.oid, n.nspname, n.nspacl, n.nspowner, c.relowner
		FROM pg_namespace n JOIN pg_class c ON c.relnamespace = n.oid
		WHERE c.oid = to_regclass('events')::oid
	),
	trusted AS (
		SELECT nspowner AS oid FROM home UNION ALL SELECT relowner FROM home
		UNION ALL SELECT oid FROM pg_roles WHERE rolsuper OR rolname IN ($1::name, current_user)
	)`
