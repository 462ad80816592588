package checkup

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/jackc/pgx/v5"

	"lethe/internal/schema"
	"lethe/internal/store/postgres"
	"lethe/internal/store/purge"
)

// ErrNoRole is returned when the database has no role of the name.
var ErrNoRole = errors.New("the database has no such role")

// A Role is a role of the database, and the processes that connect as it.
type Role struct {
	// Name is the role's name. Defaults to "", the role of the connection.
	Name string

	// Processes are those that connect as the role. Defaults to none, for which a role
	// needs no privilege.
	Processes []schema.Process
}

func (r Role) serves(process schema.Process) bool { return slices.Contains(r.Processes, process) }

// find returns the role's name, and whether it is a superuser.
func (r Role) find(ctx context.Context, db *postgres.DB) (name string, superuser bool, err error) {
	err = db.ReadRow(ctx, []any{&name, &superuser}, `
		SELECT rolname::text, rolsuper FROM pg_roles WHERE rolname = coalesce(nullif($1::text, ''), current_user::text)`, r.Name)
	if errors.Is(err, postgres.ErrNotFound) {
		err = ErrNoRole
	}
	return name, superuser, err
}

// LackingPrivileges returns a GRANT for each table, sequence, schema and database on
// which the role lacks a privilege that its processes need. Workers also delete from
// the tables that the operator's rules name, and the api counts their rows. A privilege
// on columns that the database does not have is not needed. It fails with [ErrNoRole]
// if there is no such role.
func LackingPrivileges(ctx context.Context, db *postgres.DB, role Role, rules schema.Rules) (grants []string, err error) {
	name, _, err := role.find(ctx, db)
	if err != nil {
		return nil, fmt.Errorf("look for privileges: %w", err)
	}
	var own []bool
	var objects, kinds, privileges []string
	var columns []*string
	add := func(need schema.Need, column *string) {
		kind := "table"
		if need.Sequence {
			kind = "sequence"
		}
		own, objects, kinds = append(own, need.Own), append(objects, need.Name), append(kinds, kind)
		privileges, columns = append(privileges, need.Privilege), append(columns, column)
	}
	needs := schema.Needs(role.Processes...)
	if role.serves(schema.Worker) {
		for _, table := range rules.Deleting() {
			needs = append(needs, schema.Need{Name: table, Privilege: "SELECT"}, schema.Need{Name: table, Privilege: "DELETE"})
		}
	} else if role.serves(schema.API) { // which only counts their rows
		for _, table := range rules.Deleting() {
			needs = append(needs, schema.Need{Name: table, Privilege: "SELECT", Columns: rules[table].Columns(table)})
		}
	}
	for _, need := range needs {
		if need.Columns == nil {
			add(need, nil)
		}
		for _, column := range need.Columns {
			add(need, &column)
		}
	}
	usesLethe := slices.ContainsFunc(needs, func(n schema.Need) bool { return n.Own })
	grants, err = postgres.Collect(ctx, db, pgx.RowTo[string], `
		WITH wanted AS (
			SELECT w.*,
			       -- Only a role with USAGE on the schema may look a name of it up.
			       CASE WHEN own THEN (
			           SELECT c.oid FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
			           WHERE n.nspname = 'lethe' AND c.relname = w.name)
			       ELSE to_regclass(quote_ident(name))::oid END AS oid
			FROM unnest($2::boolean[], $3::text[], $4::text[], $5::text[], $6::text[]) AS w (own, name, kind, privilege, column_name)
		),
		lacking (rank, object, privilege, columns) AS (
			SELECT 1, 'DATABASE ' || quote_ident(current_database()::text), 'TEMPORARY', NULL
			WHERE $7 AND NOT has_database_privilege($1::name, current_database()::text, 'TEMPORARY')
			UNION ALL
			SELECT 2, 'SCHEMA lethe', 'USAGE', NULL
			FROM pg_namespace WHERE $8 AND nspname = 'lethe' AND NOT has_schema_privilege($1::name, oid, 'USAGE')
			UNION ALL
			SELECT CASE WHEN own THEN 3 WHEN kind = 'table' THEN 4 ELSE 5 END,
			       CASE WHEN own THEN 'lethe.' WHEN kind = 'sequence' THEN 'SEQUENCE ' ELSE '' END || quote_ident(name), privilege, NULL
			FROM wanted
			WHERE column_name IS NULL
			  AND CASE kind WHEN 'sequence' THEN NOT has_sequence_privilege($1::name, oid, privilege)
			                ELSE NOT has_table_privilege($1::name, oid, privilege) END
			UNION ALL
			SELECT 4, quote_ident(name), privilege,
			       ' (' || string_agg(quote_ident(attname::text), ', ' ORDER BY attname) || ')'
			FROM wanted JOIN pg_attribute ON attrelid = oid AND attname = column_name AND NOT attisdropped
			WHERE NOT has_column_privilege($1::name, oid, attnum, privilege)
			GROUP BY name, privilege
		)
		SELECT pg_catalog.format('GRANT %s ON %s TO %I;', string_agg(DISTINCT privilege || coalesce(columns, ''), ', ' ORDER BY privilege || coalesce(columns, '') DESC),
		              object, $1::name)
		FROM lacking GROUP BY rank, object ORDER BY rank, object`,
		name, own, objects, kinds, privileges, columns, role.serves(schema.Worker), usesLethe)
	if err != nil {
		return nil, fmt.Errorf("look for privileges: %w", err)
	}
	return grants, nil
}

// SetWise is whether a role may check references set-wise.
type SetWise struct {
	// Allowed says that it may set session_replication_role.
	Allowed bool

	// Superuser says that only a superuser may set it, as before PostgreSQL 15.
	Superuser bool

	// Grants has a GRANT for each privilege that the role lacks.
	Grants []string
}

// ForSetWise returns what the role of a worker lacks for checking references set-wise.
// It fails with [ErrNoRole] if there is no such role.
func ForSetWise(ctx context.Context, db *postgres.DB, role Role, catalog purge.Catalog) (SetWise, error) {
	fail := func(err error) (SetWise, error) { return SetWise{}, fmt.Errorf("look for privileges: %w", err) }
	name, superuser, err := role.find(ctx, db)
	if err != nil {
		return fail(err)
	}
	var found SetWise
	var grant string
	if err := db.ReadRow(ctx, []any{&found.Superuser, &grant}, `
		SELECT current_setting('server_version_num')::int < 150000, pg_catalog.format('GRANT SET ON PARAMETER session_replication_role TO %I;', $1::name)`,
		name); err != nil {
		return fail(err)
	}
	found.Allowed = superuser
	if !superuser && !found.Superuser {
		if err := db.ReadRow(ctx, []any{&found.Allowed}, `
			SELECT has_parameter_privilege($1::name, 'session_replication_role', 'SET')`, name); err != nil {
			return fail(err)
		}
	}
	switch {
	case !found.Allowed && found.Superuser:
		return found, nil
	case !found.Allowed:
		found.Grants = append(found.Grants, grant)
	}
	// The server cascades and checks as the table's owner, but Lethe as its own role.
	needed := map[string][]string{}
	for _, r := range catalog.References() {
		needed[r.Table] = append(needed[r.Table], "SELECT")
		if r.Cascade {
			needed[r.Table] = append(needed[r.Table], "DELETE")
		}
	}
	tables, wanted := pairs(needed)
	more, err := postgres.Collect(ctx, db, pgx.RowTo[string], `
		SELECT pg_catalog.format('GRANT %s ON %s TO %I;', string_agg(DISTINCT privilege, ', ' ORDER BY privilege DESC), name, $3::name)
		FROM unnest($1::text[], $2::text[]) AS w (name, privilege)
		WHERE NOT has_table_privilege($3::name, to_regclass(name)::oid, privilege)
		GROUP BY name ORDER BY name`, tables, wanted, name)
	if err != nil {
		return fail(err)
	}
	found.Grants = append(found.Grants, more...)
	return found, nil
}

// pairs returns a pair of table and privilege for each privilege.
func pairs(privileges map[string][]string) (tables, wanted []string) {
	for table, each := range privileges {
		for _, privilege := range each {
			tables, wanted = append(tables, table), append(wanted, privilege)
		}
	}
	return tables, wanted
}

// Excess returns what the role may do that its processes never do and that harms most
// if somebody takes one of them over. Each is a phrase that follows "the role". It
// fails with [ErrNoRole] if there is no such role.
func Excess(ctx context.Context, db *postgres.DB, role Role) (excess []string, err error) {
	name, superuser, err := role.find(ctx, db)
	if err != nil {
		return nil, fmt.Errorf("look for needless privileges: %w", err)
	}
	if superuser {
		return []string{"is a superuser"}, nil
	}
	var readsPasswords, deletesEvents bool
	if err := db.ReadRow(ctx, []any{&readsPasswords, &deletesEvents}, `
		SELECT coalesce((
		         SELECT has_column_privilege($1::name, attrelid, attnum, 'SELECT') FROM pg_attribute
		         WHERE attrelid = to_regclass('users')::oid AND attname = 'password_hash' AND NOT attisdropped), false),
		       coalesce(has_table_privilege($1::name, to_regclass('events')::oid, 'DELETE'), false)`, name); err != nil {
		return nil, fmt.Errorf("look for needless privileges: %w", err)
	}
	if readsPasswords {
		excess = append(excess, "may read users.password_hash")
	}
	if deletesEvents && !role.serves(schema.Worker) {
		excess = append(excess, "may delete events, which only workers do")
	}
	return excess, nil
}
