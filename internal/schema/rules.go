package schema

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
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
	case Named(name) != nil:
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

// Deleting returns the names of the tables whose rows are deleted, sorted within each
// rule.
func (r Rules) Deleting() []string { return slices.Concat(r.With(DeleteByRoom), r.With(DeleteByEvent)) }
