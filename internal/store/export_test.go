package store

// BeginSnapshot is how a snapshot begins, and SQL a query's statement, so that tests
// can look at its plan.
const BeginSnapshot = beginPicture + ";" + setPicture

func (q PageQuery) SQL() (string, []any) { return q.sql(nil) }
