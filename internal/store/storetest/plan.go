package storetest

// A PlanNode is a node of EXPLAIN's output.
type PlanNode struct {
	Relation string  `json:"Relation Name"`
	Rows     float64 `json:"Actual Rows"`
	Loops    float64 `json:"Actual Loops"`
	Removed  float64 `json:"Rows Removed by Filter"`
	Rechecks float64 `json:"Rows Removed by Index Recheck"`
	Plans    []PlanNode
}

// Count adds the number of rows that were read from each table.
func (n PlanNode) Count(rows map[string]float64) {
	rows[n.Relation] += (n.Rows + n.Removed + n.Rechecks) * n.Loops
	if n.Relation == "" {
		rows[n.Relation] = 0
	}
	for _, plan := range n.Plans {
		plan.Count(rows)
	}
}
