package store

import "context"

// BeginSnapshot is how a snapshot begins, and SQL a query's statement, so that tests
// can look at its plan.
const BeginSnapshot = beginPicture + ";" + setPicture

func (q PageQuery) SQL() (string, []any) { return q.sql(nil) }

// Setting is what a setting of the server is in the snapshot.
func (s *Snapshot) Setting(ctx context.Context, name string) (value string, err error) {
	err = s.tx.QueryRow(ctx, `SELECT current_setting($1)`, name).Scan(&value)
	return value, err
}
