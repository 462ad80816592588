package timeline

// SQL is a query's statement, so that tests can look at its plan.
func (q PageQuery) SQL() (string, []any) { return q.sql(nil, true, loading{}) }
