package purge

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// ErrCorrupt is returned when an index has led a purge to a row that the index's own
// columns contradict. The batch must be rolled back: it has written rows that the
// purge did not select.
var ErrCorrupt = errors.New("an index is corrupt")

// checked returns a statement that counts the rows it writes, and those for which
// the condition does not hold. change is a DELETE or UPDATE. The condition repeats
// what change has searched for.
//
// The repetition is not redundant. An index scan never compares the row that it
// finds with the key that it searched for, so a corrupt index leads a DELETE to the
// rows of another room. RETURNING evaluates the condition on the row itself.
func checked(what, change, condition string) statement {
	return statement{what, `
		WITH written AS (` + change + ` RETURNING (` + condition + `) AS meant)
		SELECT count(*), count(*) FILTER (WHERE meant IS NOT TRUE) FROM written`, true}
}

// corrupt returns an [ErrCorrupt] that names the indexes by which the server runs a
// statement after those before it.
func (b *batch) corrupt(ctx context.Context, before []statement, s statement, args []any) error {
	indexes, err := b.indexesOf(ctx, before, s, args)
	if err != nil {
		return errors.Join(fmt.Errorf("%s: %w", s.what, ErrCorrupt), err)
	}
	return corruptIndexes(s.what, indexes)
}

func corruptIndexes(what string, indexes []string) error {
	return fmt.Errorf("%s: %w: a search by %s found a row that does not match; run lethe doctor --deep, and REINDEX it",
		what, ErrCorrupt, strings.Join(indexes, " or "))
}

// indexesOf returns the names of the indexes that the server uses for a statement
// with the settings that the statements before it have made.
func (b *batch) indexesOf(ctx context.Context, before []statement, s statement, args []any) ([]string, error) {
	for _, set := range before {
		if strings.HasPrefix(strings.TrimSpace(set.sql), "SELECT set_config") {
			if _, err := b.Exec(ctx, set.sql); err != nil {
				return nil, fmt.Errorf("%s: %w", set.what, err)
			}
		}
	}
	var plan []byte
	if err := b.QueryRow(ctx, `EXPLAIN (FORMAT JSON) `+s.sql, args...).Scan(&plan); err != nil {
		return nil, fmt.Errorf("explain: %w", err)
	}
	var tree any
	if err := json.Unmarshal(plan, &tree); err != nil {
		return nil, fmt.Errorf("explain: %w", err)
	}
	indexes := indexNames(tree)
	slices.Sort(indexes)
	return slices.Compact(indexes), nil
}

// indexNames returns the names of the indexes in a plan.
func indexNames(plan any) (names []string) {
	switch node := plan.(type) {
	case []any:
		for _, child := range node {
			names = append(names, indexNames(child)...)
		}
	case map[string]any:
		for key, child := range node {
			if name, ok := child.(string); ok && key == "Index Name" {
				names = append(names, name)
			}
			names = append(names, indexNames(child)...)
		}
	}
	return names
}
