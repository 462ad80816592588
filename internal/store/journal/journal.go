package journal

import (
	"slices"

	"lethe/internal/store/postgres"
)

// A Kind is a kind of job, such as "purge_history". Package jobs lists all kinds.
type Kind string

// A Queue is a queue of tasks. Package jobs lists all queues.
type Queue string

// LowQueue is the queue for the jobs that sweeps make. Two settings limit how many
// of them may be open and how many may run.
const LowQueue Queue = "low"

// A State is a state of a job.
type State string

// The states of a job. A job ends in one of the last three. A scheduled job waits for the
// end of its grace, a held one for the end of a hold, a paused one for the end of a pause,
// and an absorbed one for the end of the job that does its work.
const (
	Scheduled State = "scheduled"
	Queued    State = "queued"
	Running   State = "running"
	Held      State = "held"
	Paused    State = "paused"
	Absorbed  State = "absorbed"
	Complete  State = "complete"
	Failed    State = "failed"
	Cancelled State = "cancelled"
)

// States returns all states of a job.
func States() []State {
	return []State{Scheduled, Queued, Running, Held, Paused, Absorbed, Complete, Failed, Cancelled}
}

// EndStates are the states in which a job has ended.
func EndStates() []State { return []State{Complete, Failed, Cancelled} }

// Ended reports whether a job in this state has ended. An ended job keeps its state.
func (s State) Ended() bool { return slices.Contains(EndStates(), s) }

// A Journal reads and writes the rows of jobs. It is safe for concurrent use.
type Journal struct {
	db      *postgres.DB
	inserts groupInserter
	worker  string
}

// RunBy makes the Journal record the name with each job that it claims: that of the
// process which runs the job. Call it before all other methods; the last call wins.
func (j *Journal) RunBy(worker string) *Journal {
	j.worker = worker
	return j
}

// New returns a Journal in the database. Concurrent inserts through one Journal
// share commits.
func New(db *postgres.DB) *Journal {
	j := &Journal{db: db}
	j.inserts.insertAll = j.InsertJobs
	return j
}
