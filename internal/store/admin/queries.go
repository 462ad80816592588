package admin

import (
	"context"

	"lethe/internal/store/postgres"
)

// Queries reads and writes what the admin API asks for. It is safe for concurrent
// use.
type Queries struct{ db *postgres.DB }

// New returns Queries on the database.
func New(db *postgres.DB) *Queries { return &Queries{db: db} }

// mayRead reports whether the database has a table, and Lethe's role may read it. It is
// for tables that a homeserver's rooms do not need, and that an embedded database does
// not have: a request is then answered as if they were empty. lethe doctor names the
// rights that are missing.
func (q *Queries) mayRead(ctx context.Context, table string) (may bool, err error) {
	return q.db.MayRead(ctx, table)
}
