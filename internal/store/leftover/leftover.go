package leftover

import (
	"slices"
	"sync"
	"time"

	"lethe/internal/schema"
	"lethe/internal/store/postgres"
)

const (
	// PerBatch is how many of its events, and of its state groups, each batch of a
	// delete adds to the [Sample].
	PerBatch = 4

	// maxSample bounds the events, and the state groups, of a delete's sample.
	maxSample = 64

	// MaxRooms bounds the rooms of one [Checker.Check].
	MaxRooms = 1000

	// maxNamed bounds the keys that a [Table] names.
	maxNamed = 5
)

// A Sample is some of the events and state groups that a delete has deleted. It is
// part of checkpoints, which must stay small.
type Sample struct {
	Events      []string `json:"events,omitempty"`
	StateGroups []int64  `json:"state_groups,omitempty"`
}

// With returns the sample with more of the same delete. The result shares no memory
// with either.
func (s Sample) With(more Sample) Sample {
	return Sample{Events: thinned(s.Events, more.Events), StateGroups: thinned(s.StateGroups, more.StateGroups)}
}

// thinned joins two lists. If the result is too long, it keeps every second element,
// so that a sample has elements of all batches.
func thinned[T any](some, more []T) []T {
	all := slices.Concat(some, more)
	for len(all) > maxSample {
		for i := range len(all) / 2 {
			all[i] = all[2*i]
		}
		all = all[:len(all)/2]
	}
	return all
}

// Keys are what deletes have deleted.
type Keys struct {
	// Rooms are the ids of up to [MaxRooms] rooms. More make the check slower.
	Rooms []string

	// Sample is some of their events and state groups. It may be empty.
	Sample

	// Asked are the names of tables that had no row of the rooms a moment ago. A check
	// does not ask them again; a scan does. Defaults to none.
	Asked []string
}

// A Report is what a check has found. It is part of checkpoints and of statuses.
type Report struct {
	// Left are the tables with rows that the delete should have deleted, sorted by
	// name. It is nil if the check was skipped.
	Left []Table `json:"left,omitzero"`

	// Kept are the tables with rows that deletes leave on purpose, sorted by name.
	Kept []Table `json:"kept,omitempty"`

	// NotChecked are the names of the tables that may have such rows and were not asked:
	// no index of theirs leads with a room, an event or a state group, or the role may
	// not read them.
	NotChecked []string `json:"not_checked,omitempty"`

	// Skipped says why no table was asked, "" unless that is so.
	Skipped string `json:"check_skipped,omitempty"`
}

// A Table is a table with rows of the deleted keys.
type Table struct {
	Table string `json:"table"`

	// Rows is the number of rows that were found. More says that there are more of them,
	// which were not counted.
	Rows int64 `json:"rows"`
	More bool  `json:"more,omitempty"`

	// Column is the column by which they were found, and Keys up to 5 of the rooms,
	// events or state groups that they name.
	Column string   `json:"column"`
	Keys   []string `json:"keys"`

	// Why says why the rows are there.
	Why string `json:"why"`
}

// Options are the options of a [Checker].
type Options struct {
	// Tables are the operator's rules for tables. Defaults to none.
	Tables schema.Rules

	// Rows is the number of rows of a table from which no more are counted. Defaults to
	// 100.
	Rows int

	// Time bounds a check, which asks all tables at once. Defaults to 2 s.
	Time time.Duration

	// ScanTime bounds the scan of one table. Defaults to 10 minutes.
	ScanTime time.Duration
}

// A Checker asks the tables of one database. It is safe for concurrent use.
type Checker struct {
	db      *postgres.DB
	options Options

	mu     sync.Mutex
	known  classified
	readAt time.Time
}

// New returns a Checker. It reads nothing from the database.
func New(db *postgres.DB, options Options) *Checker {
	if options.Rows == 0 {
		options.Rows = 100
	}
	if options.Time == 0 {
		options.Time = 2 * time.Second
	}
	if options.ScanTime == 0 {
		options.ScanTime = 10 * time.Minute
	}
	return &Checker{db: db, options: options}
}
