package schema

import (
	"fmt"
	"slices"
	"strings"
)

// A Fate is what becomes of a table's rows.
type Fate string

const (
	// Keeps leaves all rows.
	Keeps Fate = "keeps"

	// Deletes deletes the rows of the room, or of the deleted events.
	Deletes Fate = "deletes"

	// Adjusts changes rows so that they fit what is left.
	Adjusts Fate = "adjusts"
)

// A Use is a set of kinds of work that use a column.
type Use uint8

const (
	// UsePurge is the purge of a room's history.
	UsePurge Use = 1 << iota

	// UseDelete is the delete of a room, without its shutdown.
	UseDelete

	// UseShutdown is the shutdown of a room, where Lethe itself writes its events.
	UseShutdown

	// UseRead is what the api reads: pages of messages, and the admin API.
	UseRead

	// UseAccess is what tells for whom an access token speaks.
	UseAccess

	// UseSweep is what a worker's sweeps decide by, and what it checks at its start.
	UseSweep

	// UseSchedule is what schedulers read.
	UseSchedule

	// UsePlan is what plans of jobs and footprints of rooms count.
	UsePlan

	// UseAll is every use.
	UseAll = UsePurge | UseDelete | UseShutdown | UseRead | UseAccess | UseSweep | UseSchedule | UsePlan
)

// useLetters are the letters of uses in Columns, in the order of their bits.
const useLetters = "PDSRAWCL"

// A Table is one of Synapse's tables.
type Table struct {
	// Name is the table's name, which needs no quotes.
	Name string

	// Purge and Delete are what a history purge and a room's delete do with the rows.
	// They are "" for a table without ids of rooms, events or state groups.
	Purge, Delete Fate

	// Why says why a delete keeps the rows, or who deletes them. It is "" for a table
	// that a delete clears.
	Why string

	// Absent says which databases may do without the table: those of some versions of
	// Synapse's schema, or those whose tables Lethe has made. It is "" if all must have it.
	Absent string

	// Rights are the privileges that the statements of workers need on the table,
	// separated by spaces. Locking a row needs UPDATE. Other processes only read the
	// tables that have columns of their uses, see [Needs].
	Rights string

	// API are the privileges that the statements of the api need besides SELECT. One for
	// a single column has it in parentheses.
	API string

	// ByColumn says that a process may read only the columns that it uses, because others
	// hold secrets or addresses of users. Elsewhere it may read all columns: those of
	// rooms and events serve statements that read whole rows, and it would need a new
	// GRANT for each column that Synapse adds to them.
	ByColumn bool

	// Columns are the known columns, in the form that [tables] describes. Other columns
	// do not matter.
	Columns string

	// Keys are the unique keys that statements rely on, separated by commas. The columns
	// of a key are separated by plus signs.
	Keys string

	// Cascade is a column that must reference events with ON DELETE CASCADE, because no
	// statement deletes its rows with their events. It is "" for most tables.
	Cascade string

	// Rules are what the operator may decide instead. Most tables have none.
	Rules []Rule

	// References says that Synapse gave the table a foreign key to events, rooms or
	// partial_state_rooms. Lethe knows what becomes of its rows.
	References bool

	parsed []Column
}

// A Column is a column of a [Table].
type Column struct {
	Name string

	// Kind is text, int, bool, jsonb or tsvector. See [Kind].
	Kind string

	// Optional says that Lethe does without the column where it is missing.
	Optional bool

	// Uses are the kinds of work that use the column, 0 if no statement names it.
	Uses Use
}

// Kind returns the kind of one of the server's types, as format_type shows it. Types of
// one kind serve a statement alike. Other types are kinds of their own.
func Kind(formatted string) string {
	switch name, _, _ := strings.Cut(formatted, "("); name {
	case "character varying", "text":
		return "text"
	case "smallint", "integer", "bigint":
		return "int"
	case "boolean":
		return "bool"
	}
	return formatted
}

var byName = func() map[string]*Table {
	byName := map[string]*Table{}
	for i := range tables {
		t := &tables[i]
		t.parsed = parseColumns(t.Name, t.Columns)
		byName[t.Name] = t
	}
	return byName
}()

// parseColumns reads Columns. It panics if they are malformed.
func parseColumns(table, text string) []Column {
	var columns []Column
	for column := range strings.SplitSeq(text, ",") {
		parts := strings.Fields(column)
		if len(parts) != 3 {
			panic(fmt.Sprintf("schema: table %s: column %q", table, column))
		}
		c := Column{Name: parts[0]}
		c.Kind, c.Optional = strings.CutSuffix(parts[1], "?")
		for i, letter := range useLetters {
			if strings.ContainsRune(parts[2], letter) {
				c.Uses |= 1 << i
			}
		}
		if (c.Uses == 0) != (parts[2] == "-") {
			panic(fmt.Sprintf("schema: table %s: column %q", table, column))
		}
		columns = append(columns, c)
	}
	return columns
}

// Tables returns all tables, sorted by name.
func Tables() []Table { return slices.Clone(tables) }

// Named returns the table of the name, nil if it is unknown. The caller must not change
// it.
func Named(name string) *Table { return byName[name] }

// Known reports whether the table is known and has the column.
func Known(table, column string) bool {
	t := Named(table)
	return t != nil && slices.ContainsFunc(t.parsed, func(c Column) bool { return c.Name == column })
}

// UsedBy returns the names of the tables with a column that one of the uses uses,
// sorted.
func UsedBy(uses Use) []string {
	var names []string
	for i := range tables {
		if len(tables[i].Used(uses)) > 0 {
			names = append(names, tables[i].Name)
		}
	}
	return names
}

// Referencing returns the names of the tables to which Synapse gave a foreign key to
// events, rooms or partial_state_rooms, sorted.
func Referencing() []string {
	var names []string
	for _, t := range tables {
		if t.References {
			names = append(names, t.Name)
		}
	}
	return names
}

// Used returns the columns that one of the uses uses.
func (t *Table) Used(uses Use) []Column {
	var used []Column
	for _, c := range t.parsed {
		if c.Uses&uses != 0 {
			used = append(used, c)
		}
	}
	return used
}

// UsedKeys returns the keys whose columns all serve one of the uses. The columns of
// each are sorted and separated by ", ".
func (t *Table) UsedKeys(uses Use) []string {
	var keys []string
	for key := range strings.SplitSeq(t.Keys, ",") {
		columns := strings.Split(strings.TrimSpace(key), "+")
		used := func(name string) bool {
			return slices.ContainsFunc(t.Used(uses), func(c Column) bool { return c.Name == name })
		}
		if !slices.ContainsFunc(columns, func(name string) bool { return !used(name) }) {
			slices.Sort(columns)
			keys = append(keys, strings.Join(columns, ", "))
		}
	}
	return keys
}
