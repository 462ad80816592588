package control

import (
	"time"

	"lethe/internal/store/journal"
	"lethe/internal/store/postgres"
)

// A Control reads jobs, and changes them as operators ask. It is safe for concurrent use.
type Control struct {
	db          *postgres.DB
	pauses      *journal.Pauses
	absorptions *journal.Absorptions
}

// New returns a Control of the jobs in the database. It reads nothing.
func New(db *postgres.DB) *Control {
	return &Control{db: db, pauses: journal.NewPauses(db), absorptions: journal.NewAbsorptions(db)}
}

// orNil returns nil for the zero time, which is stored as NULL.
func orNil(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return &t
}

// orZero returns the zero time for nil.
func orZero(t *time.Time) time.Time {
	if t == nil {
		return time.Time{}
	}
	return *t
}
