package admin

import "lethe/internal/store/postgres"

// Queries reads and writes what the admin API asks for. It is safe for concurrent
// use.
type Queries struct{ db *postgres.DB }

// New returns Queries on the database.
func New(db *postgres.DB) *Queries { return &Queries{db: db} }
