package journal

import (
	"slices"

	"lethe/internal/store/postgres"
)

// A Kind is a kind of job, such as "purge_history". The package jobs lists them.
type Kind string

// A Queue is a queue of tasks. The package jobs lists them.
type Queue string

// LowQueue is the queue of the jobs that sweeps make. The numbers of those that are
// open, and of those that run, are limited.
const LowQueue Queue = "low"

// A State is a state of a job.
type State string

// The states of a job. The last three are its end.
const (
	Queued    State = "queued"
	Running   State = "running"
	Held      State = "held"
	Complete  State = "complete"
	Failed    State = "failed"
	Cancelled State = "cancelled"
)

// EndStates are the states in which a job has ended.
func EndStates() []State { return []State{Complete, Failed, Cancelled} }

// Ended reports whether a job in the state has ended. It then stays in it.
func (s State) Ended() bool { return slices.Contains(EndStates(), s) }

// A Journal reads and writes the rows of jobs. It is safe for concurrent use.
type Journal struct {
	db       *postgres.DB
	arrivals arrivals
}

// New returns a Journal in the database. Inserts through one Journal share commits.
func New(db *postgres.DB) *Journal {
	j := &Journal{db: db}
	j.arrivals.insertAll = j.InsertJobs
	return j
}
