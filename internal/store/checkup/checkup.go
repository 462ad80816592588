package checkup

import (
	"context"
	"fmt"
	"strings"

	"lethe/internal/schema"
	"lethe/internal/store/postgres"
	"lethe/internal/store/purge"

	"github.com/jackc/pgx/v5"
)

// sequences are the sequences from which new events and invalidations take numbers.
var sequences = []string{"cache_invalidation_stream_seq", "event_auth_chain_id", "events_stream_seq", "state_group_id_seq"}

// allPrivileges returns the rights that all jobs and the API need, by table.
func allPrivileges() map[string][]string {
	all := map[string][]string{}
	for _, table := range schema.Tables() {
		all[table.Name] = strings.Fields(table.Rights)
	}
	return all
}

// purgeIndexes are the columns by which a purge finds rows, besides the columns that
// reference events.
var purgeIndexes = []struct {
	table   string
	columns []string
}{
	{"event_auth", []string{"event_id"}},
	{"event_backward_extremities", []string{"room_id"}},
	{"event_edges", []string{"event_id"}},
	{"event_edges", []string{"prev_event_id"}},
	{"event_expiry", []string{"event_id"}},
	{"event_failed_pull_attempts", []string{"room_id"}},
	{"event_forward_extremities", []string{"event_id"}},
	{"event_forward_extremities", []string{"room_id"}},
	{"event_json", []string{"event_id"}},
	{"event_labels", []string{"event_id"}},
	{"event_push_actions", []string{"room_id", "event_id"}},
	{"event_push_actions_staging", []string{"event_id"}},
	{"event_relations", []string{"event_id"}},
	{"event_relations", []string{"relates_to_id"}},
	{"event_search", []string{"event_id"}},
	{"event_to_state_groups", []string{"event_id"}},
	{"event_to_state_groups", []string{"state_group"}},
	{"events", []string{"event_id"}},
	{"events", []string{"room_id", "stream_ordering"}},
	{"events", []string{"room_id", "topological_ordering", "stream_ordering"}},
	{"federation_inbound_events_staging", []string{"room_id"}},
	{"redactions", []string{"event_id"}},
	{"redactions", []string{"redacts"}},
	{"rejections", []string{"event_id"}},
	{"state_events", []string{"event_id"}},
	{"state_group_edges", []string{"prev_state_group"}},
	{"state_group_edges", []string{"state_group"}},
	{"state_groups_state", []string{"state_group"}},
	{"sticky_events", []string{"event_stream_ordering"}},
	{"stream_ordering_to_exterm", []string{"room_id"}},
	{"threads", []string{"room_id", "thread_id"}},
	{"threads", []string{"room_id", "topological_ordering"}},
}

// LackingPrivileges returns a GRANT for each right that Lethe needs and that the
// role does not have. Purges also delete from the tables that the operator's rules
// name.
func LackingPrivileges(ctx context.Context, db *postgres.DB, rules schema.Rules) (grants []string, err error) {
	privileges := allPrivileges()
	for _, table := range rules.Deleting() {
		privileges[table] = []string{"SELECT", "DELETE"}
	}
	tables, wanted := pairs(privileges)
	grants, err = postgres.Collect(ctx, db, pgx.RowTo[string], `
		WITH lacking AS (
			SELECT 1 AS rank, 'TEMPORARY' AS privilege, 'DATABASE ' || quote_ident(current_database()) AS object
			WHERE NOT has_database_privilege(current_database(), 'TEMPORARY')
			UNION ALL
			SELECT 2, 'USAGE', 'SCHEMA lethe' FROM pg_namespace WHERE nspname = 'lethe' AND NOT has_schema_privilege(oid, 'USAGE')
			UNION ALL
			SELECT 3, privilege, 'lethe.' || quote_ident(c.relname)
			FROM pg_class c
			CROSS JOIN unnest(ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE']) AS privilege
			WHERE c.relnamespace = (SELECT oid FROM pg_namespace WHERE nspname = 'lethe') AND c.relkind IN ('r', 'p')
			  AND (privilege = 'SELECT' OR c.relname NOT LIKE 'migrations\_%') AND NOT has_table_privilege(c.oid, privilege)
			UNION ALL
			SELECT 4, privilege, name FROM unnest($1::text[], $2::text[]) AS w (name, privilege)
			WHERE NOT has_table_privilege(to_regclass(name), privilege)
			UNION ALL
			SELECT 5, 'USAGE', 'SEQUENCE ' || name FROM unnest($3::text[]) AS name
			WHERE NOT has_sequence_privilege(to_regclass(name), 'USAGE')
		)
		SELECT format('GRANT %s ON %s TO %I;', string_agg(privilege, ', ' ORDER BY privilege DESC), object, current_user)
		FROM lacking GROUP BY rank, object ORDER BY rank, object`, tables, wanted, sequences)
	if err != nil {
		return nil, fmt.Errorf("look for privileges: %w", err)
	}
	return grants, nil
}

// LackingForSetWise returns a GRANT for each right that the role lacks for checking
// references set-wise. If only a superuser may do that, as before PostgreSQL 15,
// superuser is true.
func LackingForSetWise(ctx context.Context, db *postgres.DB, catalog purge.Catalog) (grants []string, superuser bool, err error) {
	fail := func(err error) ([]string, bool, error) {
		return nil, false, fmt.Errorf("look for privileges: %w", err)
	}
	may, err := purge.MayDisableTriggers(ctx, db)
	if err != nil {
		return fail(err)
	}
	if !may {
		var grant *string
		if err := db.QueryRow(ctx, `
			SELECT format('GRANT SET ON PARAMETER session_replication_role TO %I;', current_user)
			WHERE current_setting('server_version_num')::int >= 150000
			UNION ALL SELECT NULL LIMIT 1`).Scan(&grant); err != nil {
			return fail(err)
		}
		if grant == nil {
			return nil, true, nil
		}
		grants = append(grants, *grant)
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
		SELECT format('GRANT %s ON %s TO %I;', string_agg(DISTINCT privilege, ', ' ORDER BY privilege DESC), name, current_user)
		FROM unnest($1::text[], $2::text[]) AS w (name, privilege)
		WHERE NOT has_table_privilege(to_regclass(name), privilege)
		GROUP BY name ORDER BY name`, tables, wanted)
	if err != nil {
		return fail(err)
	}
	return append(grants, more...), false, nil
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

// smallTable is the size in bytes up to which a table that references events needs
// no index: Synapse has left some, mostly empty, tables without one.
const smallTable = 1 << 20

// LackingIndexes returns a CREATE INDEX for each index that a purge needs and the
// database does not have. Without it each batch reads a whole table.
func LackingIndexes(ctx context.Context, db *postgres.DB, catalog purge.Catalog) (statements []string, err error) {
	var tables, columns []string
	var large []int64 // the sizes from which the index is needed
	add := func(table string, from int64, names ...string) {
		tables, columns, large = append(tables, table), append(columns, strings.Join(names, ", ")), append(large, from)
	}
	for _, index := range purgeIndexes {
		add(index.table, 0, index.columns...)
	}
	for _, r := range catalog.References() {
		if !catalog.DeletesByEvent(r.Table) {
			add(r.Table, smallTable, r.Column)
		}
	}
	// An index serves if it begins with these columns and covers all rows.
	statements, err = postgres.Collect(ctx, db, pgx.RowTo[string], `
		SELECT format('CREATE INDEX CONCURRENTLY ON %s (%s);', w.name, w.columns)
		FROM unnest($1::text[], $2::text[], $3::bigint[]) AS w (name, columns, large)
		WHERE pg_relation_size(to_regclass(w.name)) >= w.large AND NOT EXISTS (
			SELECT FROM pg_index i
			WHERE i.indrelid = to_regclass(w.name) AND i.indisvalid AND i.indpred IS NULL
			  AND w.columns || ',' = left((
				SELECT string_agg(quote_ident(a.attname), ', ' ORDER BY k.place) || ','
				FROM unnest(i.indkey::int2[]) WITH ORDINALITY AS k (attnum, place)
				JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.attnum
				WHERE k.place <= i.indnkeyatts), length(w.columns) + 1))
		ORDER BY 1`, tables, columns, large)
	if err != nil {
		return nil, fmt.Errorf("look for indexes: %w", err)
	}
	return statements, nil
}
