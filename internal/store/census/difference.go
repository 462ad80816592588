package census

import (
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"

	"lethe/internal/schema"
)

// differences returns the sentences about one table. A nil tableShape is a table that
// the database does not have.
func (t *tableShape) differences(table *schema.Table, uses schema.Use) []string {
	if t == nil {
		if table.Absent != "" {
			return nil
		}
		return []string{fmt.Sprintf("it has no table %s; %s", table.Name, newerLethe)}
	}
	var found []string
	add := func(format string, args ...any) { found = append(found, fmt.Sprintf(format, args...)) }
	if t.kind != "" && writes(table, uses) {
		add("%s", t.notTable(table.Name))
		return found
	}
	used := table.Used(uses)
	for _, c := range used {
		formatted, exists := t.types[c.Name]
		switch {
		case exists && schema.Kind(formatted) != c.Kind:
			add("the column %s.%s has the type %s instead of %s; %s", table.Name, c.Name, formatted, kindNames[c.Kind], newerLethe)
		case !exists && !c.Optional:
			add("%s has no column %s, which Lethe needs; %s", table.Name, c.Name, newerLethe)
		}
	}
	for _, key := range table.UsedKeys(uses) {
		if !slices.Contains(t.keys, key) {
			add("%s has no unique key of %s, on which Lethe relies; create it: CREATE UNIQUE INDEX CONCURRENTLY ON %s (%s)",
				table.Name, key, table.Name, key)
		}
	}
	if deletes(uses) && table.Cascade != "" && !slices.Contains(t.cascades, table.Cascade) {
		add("%s.%s does not reference events with ON DELETE CASCADE, so rows of deleted events would stay; restore the foreign key",
			table.Name, table.Cascade)
	}
	if writes(table, uses) {
		found = append(found, t.unknownTriggers(table.Name)...)
	}
	if inserts(table, uses) {
		for _, name := range t.unset {
			if !slices.ContainsFunc(used, func(c schema.Column) bool { return c.Name == name }) {
				add("the column %s.%s needs a value, and Lethe gives none; %s", table.Name, name, newerLethe)
			}
		}
	}
	return found
}

// ruledDifferences returns the sentences about a table from which the rule deletes rows.
func (t *tableShape) ruledDifferences(name string, rule schema.Rule) []string {
	switch {
	case t == nil && schema.Named(name) != nil: // not misspelt, but absent from this version of Synapse
		return nil
	case t == nil:
		return []string{fmt.Sprintf("it has no table %s; remove the table from the setting tables", name)}
	case t.kind != "":
		return []string{t.notTable(name)}
	}
	found := t.unknownTriggers(name)
	for _, column := range rule.Columns(name) {
		if formatted := t.types[column]; schema.Kind(formatted) != "text" {
			found = append(found, fmt.Sprintf("%s has no column %s of the type text, by which the setting tables deletes; correct %s=%s there",
				name, column, name, rule))
		}
	}
	return found
}

func (t *tableShape) notTable(name string) string {
	return fmt.Sprintf("%s is a %s, and Lethe deletes only from tables", name, t.kind)
}

func (t *tableShape) unknownTriggers(table string) []string {
	var found []string
	for _, trigger := range t.triggers {
		name := pgx.Identifier{trigger}.Sanitize()
		found = append(found, fmt.Sprintf(
			"%s has the unknown trigger %s, which may do anything; disable it: ALTER TABLE %s DISABLE TRIGGER %s",
			table, trigger, table, name))
	}
	return found
}

// kindNames are the kinds of columns as the server calls them.
var kindNames = map[string]string{"bool": "boolean", "int": "bigint", "jsonb": "jsonb", "text": "text", "tsvector": "tsvector"}

func deletes(uses schema.Use) bool { return uses&(schema.UsePurge|schema.UseDelete) != 0 }

// writes reports whether one of the uses may fire the table's triggers.
func writes(table *schema.Table, uses schema.Use) bool {
	return uses&(schema.UsePurge|schema.UseDelete|schema.UseShutdown) != 0 && (table.References || table.Rights != "SELECT")
}

// purgeInserts are the tables into which history purges insert rows.
var purgeInserts = []string{"event_backward_extremities", "state_group_edges", "state_groups_state"}

// inserts reports whether one of the uses may insert rows into the table.
func inserts(table *schema.Table, uses schema.Use) bool {
	return uses&schema.UseShutdown != 0 && strings.Contains(table.Rights, "INSERT") ||
		uses&schema.UsePurge != 0 && slices.Contains(purgeInserts, table.Name)
}
