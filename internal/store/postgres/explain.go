package postgres

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
)

// A Plan is the server's plan for a statement.
type Plan struct{ tree any }

// Explain returns the server's plan for a statement. It does not run the statement.
func Explain(ctx context.Context, q Querier, sql string, args ...any) (Plan, error) {
	var text []byte
	if err := q.QueryRow(ctx, `EXPLAIN (FORMAT JSON) `+sql, args...).Scan(&text); err != nil {
		return Plan{}, fmt.Errorf("explain: %w", err)
	}
	var plan Plan
	if err := json.Unmarshal(text, &plan.tree); err != nil {
		return Plan{}, fmt.Errorf("explain: %w", err)
	}
	return plan, nil
}

// Values returns the texts that the nodes of the plan have for a key, such as "Index
// Name", sorted and each once.
func (p Plan) Values(key string) []string {
	values := valuesOf(p.tree, key)
	slices.Sort(values)
	return slices.Compact(values)
}

func valuesOf(tree any, wanted string) (values []string) {
	switch node := tree.(type) {
	case []any:
		for _, child := range node {
			values = append(values, valuesOf(child, wanted)...)
		}
	case map[string]any:
		for key, child := range node {
			if text, ok := child.(string); ok && key == wanted {
				values = append(values, text)
			}
			values = append(values, valuesOf(child, wanted)...)
		}
	}
	return values
}
