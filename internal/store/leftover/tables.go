package leftover

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"lethe/internal/schema"
)

// A key is a kind of what a delete deletes. Its value is the parameter of questions
// that has the keys.
type key int

const (
	noKey key = iota
	roomKey
	eventKey
	groupKey
)

// parameters are the parameters of questions with their types, by key.
var parameters = map[key]string{roomKey: `$1::text[]`, eventKey: `$2::text[]`, groupKey: `$3::bigint[]`}

// keyOf returns the key that a column holds. A column of another type than in
// Synapse's schema cannot be compared with a key.
func keyOf(table, column, formatted string) key {
	switch kind := schema.Kind(formatted); {
	case column == "room_id" && kind == "text":
		return roomKey
	case column == "event_id" && kind == "text":
		return eventKey
	case kind != "int":
		return noKey
	case column == "state_group", column == "prev_state_group", table == "state_groups" && column == "id":
		return groupKey
	}
	return noKey
}

// A column is a column of a table by which rows of deleted keys can be found.
type column struct {
	// table is the table's name, and shown the same quoted for SQL and qualified as the
	// search path needs.
	table, shown string
	name         string
	key          key

	// indexed says that an index leads with the column.
	indexed bool
}

// classified are the tables whose rows deletes delete or keep.
type classified struct {
	// columns are sorted by table and name.
	columns []column

	// unreadable are the names of the tables that have such a column which the role may
	// not read, sorted. unkeyed are those that have ids only in another form.
	unreadable, unkeyed []string
}

// names returns the names of the tables that Lethe or the operator has classified.
func (c *Checker) names() []string {
	var names []string
	for _, t := range schema.Tables() {
		if t.Delete != "" {
			names = append(names, t.Name)
		}
	}
	names = slices.AppendSeq(names, maps.Keys(c.options.Tables))
	slices.Sort(names)
	return slices.Compact(names)
}

// tablesAge is the age up to which the classified tables are not read again. Reading
// them takes longer than a check.
const tablesAge = 10 * time.Second

// tables returns the classified tables as they were at most [tablesAge] ago.
func (c *Checker) tables(ctx context.Context) (classified, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if time.Since(c.readAt) < tablesAge {
		return c.known, nil
	}
	readAt := time.Now()
	known, err := c.readTables(ctx)
	if err != nil {
		return classified{}, err
	}
	c.known, c.readAt = known, readAt
	return known, nil
}

func (c *Checker) readTables(ctx context.Context) (classified, error) {
	// Names resolve by the search path, as in the statements of deletes. A partial index
	// may not have the row, and only a B-tree is certain to find one by its first column.
	rows, err := c.db.Query(ctx, `
		SELECT w.name, c.oid::regclass::text, a.attname, format_type(a.atttypid, a.atttypmod),
		       EXISTS (
		           SELECT FROM pg_index i JOIN pg_class x ON x.oid = i.indexrelid JOIN pg_am m ON m.oid = x.relam
		           WHERE i.indrelid = c.oid AND i.indisvalid AND i.indpred IS NULL AND i.indkey[0] = a.attnum
		             AND m.amname = 'btree'),
		       has_column_privilege(c.oid, a.attnum, 'SELECT') AND NOT row_security_active(c.oid)
		FROM pg_catalog.unnest($1::text[]) AS w (name)
		JOIN pg_class c ON c.oid = to_regclass(quote_ident(w.name))::oid AND c.relkind IN ('r', 'p', 'f')
		JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
		WHERE a.attname ~ '(room_id|event_ids?|state_group)$'::text OR w.name = 'state_groups' AND a.attname = 'id'
		ORDER BY w.name, a.attname`, c.names())
	if err != nil {
		return classified{}, fmt.Errorf("read the classified tables: %w", err)
	}
	var found classified
	keyed, mentioned := map[string]bool{}, map[string]bool{}
	var table, shown, name, formatted string
	var indexed, readable bool
	_, err = pgx.ForEachRow(rows, []any{&table, &shown, &name, &formatted, &indexed, &readable}, func() error {
		mentioned[table] = true
		switch k := keyOf(table, name, formatted); {
		case k == noKey:
		case !readable:
			found.unreadable = append(found.unreadable, table)
		default:
			keyed[table] = true
			found.columns = append(found.columns, column{table: table, shown: shown, name: name, key: k, indexed: indexed})
		}
		return nil
	})
	if err != nil {
		return classified{}, fmt.Errorf("read the classified tables: %w", err)
	}
	for _, table := range slices.Sorted(maps.Keys(mentioned)) {
		if !keyed[table] && !slices.Contains(found.unreadable, table) {
			found.unkeyed = append(found.unkeyed, table)
		}
	}
	return found, nil
}

// forget makes the next check read the classified tables again.
func (c *Checker) forget() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.readAt = time.Time{}
}

// keeps reports whether deletes leave the table's rows on purpose, and why.
func (c *Checker) keeps(table string) (why string, keeps bool) {
	t := schema.Named(table)
	switch rule, ruled := c.options.Tables[table]; {
	case ruled && rule != schema.Keep:
		return "", false
	case t != nil:
		return t.Why, t.Delete == schema.Keeps
	}
	return "the setting tables keeps it", true
}
