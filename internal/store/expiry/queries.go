package expiry

import "lethe/internal/store/postgres"

// Queries reads what sweeps need for their decisions. It is safe for concurrent use.
type Queries struct{ db *postgres.DB }

// New returns Queries on the database.
func New(db *postgres.DB) *Queries { return &Queries{db: db} }
