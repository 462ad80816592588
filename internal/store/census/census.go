package census

import (
	"context"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"

	"lethe/internal/store/postgres"
)

// A Rule says what purges do with a table that Lethe does not know.
type Rule string

const (
	// Keep leaves the rows of the table.
	Keep Rule = "keep"

	// DeleteByRoom deletes the rows by their column room_id when the room is deleted. A
	// history purge leaves them.
	DeleteByRoom Rule = "delete_by_room"

	// DeleteByEvent deletes the rows by their column event_id when the event is deleted.
	DeleteByEvent Rule = "delete_by_event"
)

// Rules are the rules of the operator, by the names of tables.
type Rules map[string]Rule

// reports are the tables that Lethe knows and that a rule may name all the same, with
// the rules that they may have. Without a rule their rows stay.
var reports = map[string][]Rule{
	"event_reports": {Keep, DeleteByRoom, DeleteByEvent},
	"room_reports":  {Keep, DeleteByRoom},
}

// MayBeAbsent reports whether a table with a rule may be missing from the database:
// Lethe knows it, so its name is not misspelt.
func MayBeAbsent(table string) bool { return reports[table] != nil }

// tableName is the form of a table's name in a rule. The name is part of statements.
var tableName = regexp.MustCompile(`^[a-z_][a-z0-9_]{0,62}$`)

// ParseRule reads a rule in the form table=keep, and returns the table's name. An
// error says what is wrong.
func ParseRule(text string) (name string, rule Rule, err error) {
	name, action, _ := strings.Cut(text, "=")
	rule = Rule(action)
	switch {
	case !tableName.MatchString(name):
		return "", "", fmt.Errorf("%q does not begin with the name of a table in lower case", text)
	case rule != Keep && rule != DeleteByRoom && rule != DeleteByEvent:
		return "", "", fmt.Errorf("%q must be table=%s, table=%s or table=%s", text, Keep, DeleteByRoom, DeleteByEvent)
	case reports[name] != nil && !slices.Contains(reports[name], rule):
		return "", "", fmt.Errorf("%q: the table %s has no column event_id", text, name)
	case known[name] != "" && reports[name] == nil:
		return "", "", fmt.Errorf("%q: Lethe knows the table %s", text, name)
	}
	return name, rule, nil
}

// With returns the names of the tables that have the rule, sorted.
func (r Rules) With(rule Rule) []string {
	var names []string
	for _, name := range slices.Sorted(maps.Keys(r)) {
		if r[name] == rule {
			names = append(names, name)
		}
	}
	return names
}

// ByRoom returns the names of the tables whose rows are deleted with the room, sorted.
// Reports that are deleted with their events are among them: a report may be about an
// event that is gone already.
func (r Rules) ByRoom() []string {
	names := r.With(DeleteByRoom)
	for _, name := range r.With(DeleteByEvent) {
		if reports[name] != nil {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// known are the columns of tables, between spaces.
var known = func() map[string]string {
	known := map[string]string{}
	for _, t := range tables {
		known[t.name] = " " + t.columns + " "
	}
	return known
}()

// namePattern is the form of a column's name that holds what a purge may delete.
const namePattern = `(room_ids?|event_ids?|state_groups?|stream_ordering|room_alias|redacts|relates_to_id|auth_id|thread_id)$`

// A Column is a column of a table.
type Column struct {
	// Table is quoted and qualified as the search path needs.
	Table, Column string
}

// String returns the column with its table.
func (c Column) String() string { return c.Table + "." + c.Column }

// Unknown returns the columns that are named like those of rooms, events and state
// groups, but that neither Lethe knows nor a rule covers, sorted. It looks at all
// tables in the schemas of the search path, except Lethe's own: partitions and
// foreign tables too, but not views and temporary tables.
func Unknown(ctx context.Context, db *postgres.DB, rules Rules) ([]Column, error) {
	rows, err := db.Query(ctx, `
		SELECT c.relname, c.oid::regclass::text, a.attname
		FROM pg_class c
		JOIN pg_namespace n ON n.oid = c.relnamespace
		JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
		WHERE n.nspname = ANY (current_schemas(false)) AND n.nspname <> 'lethe'
		  AND c.relkind IN ('r', 'p', 'f') AND c.relpersistence <> 't' AND a.attname ~ $1
		ORDER BY 2, a.attnum`, namePattern)
	if err != nil {
		return nil, fmt.Errorf("read the columns of all tables: %w", err)
	}
	var unknown []Column
	var name, shown, column string
	if _, err := pgx.ForEachRow(rows, []any{&name, &shown, &column}, func() error {
		if _, ruled := rules[name]; !ruled && !strings.Contains(known[name], " "+column+" ") {
			unknown = append(unknown, Column{shown, column})
		}
		return nil
	}); err != nil {
		return nil, fmt.Errorf("read the columns of all tables: %w", err)
	}
	return unknown, nil
}
