package census

import (
	"context"
	"fmt"
	"regexp"
	"slices"

	"github.com/jackc/pgx/v5"

	"lethe/internal/schema"
	"lethe/internal/store/postgres"
)

// namePattern is the form of a column's name that holds what a purge may delete. The
// case does not matter.
const namePattern = `(?i)(room_?ids?|event_?ids?|state_?groups?|stream_?ordering|room_?alias|redacts|relates_to_id|auth_id|thread_id)$`

var holdsIDs = regexp.MustCompile(namePattern)

// knownTriggers are the triggers that Synapse makes.
var knownTriggers = []string{
	"check_event_stream_ordering",
	"check_partial_state_events",
	"delete_read_write_lock_parent_trigger",
	"upsert_read_write_lock_parent_trigger",
}

// newerLethe is what to do where Lethe does not fit the database.
const newerLethe = "use a Lethe that was tested with this version of Synapse"

// Differences returns a sentence for each thing that differs from what the uses need:
// what it is, what Lethe needs, and what to do. It also returns one for each column
// that is named like those of rooms, events and state groups, but that neither Lethe
// knows nor a rule covers. It looks for these in all tables of the schemas of the
// search path except Lethe's own: in partitions, foreign tables and materialized views
// too, but not in other views and temporary tables. A table that another one of its name
// hides is unknown, because no statement reaches it.
func Differences(ctx context.Context, db *postgres.DB, uses schema.Use, rules schema.Rules) ([]string, error) {
	found, err := read(ctx, db, uses, rules)
	if err != nil {
		return nil, fmt.Errorf("compare the tables with those that Lethe knows: %w", err)
	}
	differences := found.unknown
	for _, name := range compared(uses) {
		differences = append(differences, found.tables[name].differences(schema.Named(name), uses)...)
	}
	for _, name := range rules.Deleting() {
		differences = append(differences, found.tables[name].ruledDifferences(name, rules[name])...)
	}
	return differences, nil
}

// compared returns the names of the tables that matter to the uses, sorted. The
// server deletes rows of tables that reference deleted rows.
func compared(uses schema.Use) []string {
	names := schema.UsedBy(uses)
	if uses&(schema.UsePurge|schema.UseDelete) != 0 {
		names = append(names, schema.Referencing()...)
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// A shape is what the database has.
type shape struct {
	// unknown are the sentences about unknown columns.
	unknown []string

	// tables are the tables that the search path finds, by name.
	tables map[string]*tableShape
}

// A tableShape is what matters of one table.
type tableShape struct {
	// types are the columns' types as format_type shows them.
	types map[string]string

	// kind is what stands in place of a table, "" for a table.
	kind string

	// unset are the columns that need a value and have no default.
	unset []string

	// keys are the columns of the unique keys, sorted, with ", " between them.
	keys []string

	// cascades are the columns that reference events with ON DELETE CASCADE.
	cascades []string

	// triggers are the enabled triggers that Synapse does not make.
	triggers []string
}

// read reads everything with one query, so that all answers come from one snapshot.
func read(ctx context.Context, db *postgres.DB, uses schema.Use, rules schema.Rules) (shape, error) {
	// Names resolve by the connection's search path, like those in statements. It has the
	// homeserver's schema.
	rows, err := db.Query(ctx, `
		WITH ours AS MATERIALIZED (
			SELECT name, to_regclass(quote_ident(name))::oid AS oid FROM pg_catalog.unnest($2::text[]) AS name
		)
		SELECT 'column', c.relname, c.oid::regclass::text, a.attname, format_type(a.atttypid, a.atttypmod),
		       a.attnotnull AND NOT a.atthasdef AND a.attidentity = '', ours.oid IS NOT NULL
		FROM pg_class c
		JOIN pg_namespace n ON n.oid = c.relnamespace
		JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
		LEFT JOIN ours ON ours.oid = c.oid
		WHERE n.nspname = ANY (current_schemas(false)) AND n.nspname <> 'pg_catalog'
		  AND c.relkind IN ('r', 'p', 'f', 'm') AND c.relpersistence <> 't' AND (ours.oid IS NOT NULL OR a.attname ~ $1::text)
		UNION ALL
		SELECT 'kind', ours.name, '', CASE c.relkind WHEN 'f' THEN 'foreign table' WHEN 'm' THEN 'materialized view' ELSE 'view' END, '',
		       false, true
		FROM ours JOIN pg_class c ON c.oid = ours.oid WHERE c.relkind NOT IN ('r', 'p')
		UNION ALL
		-- Only such a key serves ON CONFLICT, and holds for every row at every moment.
		SELECT 'key', ours.name, '', (
		         SELECT string_agg(a.attname::text, ', ' ORDER BY a.attname COLLATE "C")
		         FROM pg_attribute a
		         WHERE a.attrelid = i.indrelid AND a.attnum = ANY ((i.indkey::int2[])[0:i.indnkeyatts - 1])), '', false, true
		FROM ours JOIN pg_index i ON i.indrelid = ours.oid
		WHERE i.indisunique AND i.indisvalid AND i.indimmediate AND i.indpred IS NULL AND i.indexprs IS NULL
		UNION ALL
		SELECT 'cascade', ours.name, '', a.attname, '', false, true
		FROM ours
		JOIN pg_constraint f ON f.conrelid = ours.oid AND f.contype = 'f' AND f.confdeltype = 'c' AND pg_catalog.cardinality(f.conkey) = 1
		JOIN pg_attribute a ON a.attrelid = f.conrelid AND a.attnum = f.conkey[1]
		WHERE f.confrelid = to_regclass('events')::oid
		UNION ALL
		SELECT 'trigger', ours.name, '', t.tgname, '', false, true
		FROM ours JOIN pg_trigger t ON t.tgrelid = ours.oid
		WHERE NOT t.tgisinternal AND t.tgenabled <> 'D' AND t.tgname <> ALL ($3)
		ORDER BY 1, 3, 2, 4`, namePattern, slices.Concat(compared(uses), rules.Deleting()), knownTriggers)
	if err != nil {
		return shape{}, err
	}
	found := shape{tables: map[string]*tableShape{}}
	var what, table, shown, name, formatted string
	var unset, ours bool
	_, err = pgx.ForEachRow(rows, []any{&what, &table, &shown, &name, &formatted, &unset, &ours}, func() error {
		if what == "column" && holdsIDs.MatchString(name) {
			if sentence := unknownColumn(table, shown, name, rules); sentence != "" {
				found.unknown = append(found.unknown, sentence)
			}
		}
		if !ours {
			return nil
		}
		t := found.tables[table]
		if t == nil {
			t = &tableShape{types: map[string]string{}}
			found.tables[table] = t
		}
		switch what {
		case "column":
			t.types[name] = formatted
			if unset {
				t.unset = append(t.unset, name)
			}
		case "kind":
			t.kind = name
		case "key":
			t.keys = append(t.keys, name)
		case "cascade":
			t.cascades = append(t.cascades, name)
		case "trigger":
			t.triggers = append(t.triggers, name)
		}
		return nil
	})
	return found, err
}

// unknownColumn returns the sentence about a column that is named like those of ids,
// or "" if Lethe knows it or a rule covers it. shown is the table's name in SQL.
func unknownColumn(table, shown, name string, rules schema.Rules) string {
	_, ruled := rules[table]
	switch {
	case ruled || schema.Known(table, name):
		return ""
	case !schema.Nameable(table):
		return fmt.Sprintf("Lethe does not know the column %s.%s, and the setting tables cannot name the table; "+
			"rename it, or move it to another schema", shown, name)
	}
	return fmt.Sprintf("Lethe does not know the column %s.%s; say in the setting tables what to do with the table", shown, name)
}
