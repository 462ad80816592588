package schema

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
)

// A Rule says what purges do with a table, where the operator may decide that.
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

// Columns returns the columns by which the rule deletes rows of the table.
func (r Rule) Columns(table string) []string {
	switch {
	case r == DeleteByRoom:
		return []string{"room_id"}
	case r == DeleteByEvent && Named(table) != nil: // see [Rules.ByRoom]
		return []string{"event_id", "room_id"}
	case r == DeleteByEvent:
		return []string{"event_id"}
	}
	return nil
}

// Rules are the rules of the operator, by the names of tables. Besides tables that
// Lethe does not know, they may name those with [Table].Rules.
type Rules map[string]Rule

// tableName is the form of a table's name in a rule. The name is part of statements.
var tableName = regexp.MustCompile(`^[a-z_][a-z0-9_]{0,62}$`)

// Nameable reports whether a rule can have the table's name.
func Nameable(table string) bool { return tableName.MatchString(table) }

// ParseRule reads a rule in the form table=keep, and returns the table's name. An
// error says what is wrong.
func ParseRule(text string) (name string, rule Rule, err error) {
	name, action, _ := strings.Cut(text, "=")
	rule = Rule(action)
	switch {
	case !Nameable(name):
		return "", "", fmt.Errorf("%q does not begin with the name of a table in lower case", text)
	case rule != Keep && rule != DeleteByRoom && rule != DeleteByEvent:
		return "", "", fmt.Errorf("%q must be table=%s, table=%s or table=%s", text, Keep, DeleteByRoom, DeleteByEvent)
	case Named(name) == nil:
	case len(Named(name).Rules) == 0:
		return "", "", fmt.Errorf("%q: Lethe knows the table %s", text, name)
	case !slices.Contains(Named(name).Rules, rule):
		return "", "", fmt.Errorf("%q: the table %s has no column event_id", text, name)
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
		if Named(name) != nil {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// Deleting returns the names of the tables whose rows are deleted, sorted within each
// rule.
func (r Rules) Deleting() []string { return slices.Concat(r.With(DeleteByRoom), r.With(DeleteByEvent)) }
