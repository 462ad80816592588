package vacuum

// A State is how far the vacuum of a table is, or of all tables of a job.
type State string

const (
	// Waiting means that nothing has begun.
	Waiting State = "waiting"

	// Running means that the server is at it.
	Running State = "running"

	// Done means that the server has done it.
	Done State = "done"

	// Skipped means that it is left to autovacuum. There is a reason.
	Skipped State = "skipped"
)

// Ended reports whether nothing more will be done.
func (s State) Ended() bool { return s == Done || s == Skipped }

// A Phase is what is done about the space that an ended job has left. It does not delay
// the end of the job.
type Phase struct {
	// State is waiting, running or done. It is done when each table is done or skipped.
	State State `json:"state"`

	// WaitsFor is why nothing has begun, in words, "" if something has.
	WaitsFor string `json:"waits_for,omitempty"`

	// Walk is the walk through the index entries of the purged events, nil without one.
	Walk *Walk `json:"index_walk,omitempty"`

	// Tables are the tables that the job has deleted from.
	Tables []EmptiedTable `json:"tables"`

	// Horizon is the transaction id below which all deletes of the job are, for other
	// workers. It is "" before the first look.
	Horizon string `json:"horizon,omitempty"`

	// Generation is the generation of the job that this is about.
	Generation int `json:"generation"`
}

// A Walk has read the purged events' index entries once, so that later readers of the room
// skip them.
type Walk struct {
	// State is done or skipped.
	State State `json:"state"`

	// Reason is why the walk was skipped, "" unless it was.
	Reason string `json:"reason,omitempty"`

	// Seconds is how long the walk took.
	Seconds float64 `json:"seconds"`
}

// An EmptiedTable is a table that a job has deleted from.
type EmptiedTable struct {
	Name string `json:"name"`

	// State is waiting, running, done or skipped, and Reason why it was skipped.
	State  State  `json:"state"`
	Reason string `json:"reason,omitempty"`

	// Begun is how often a VACUUM was begun that has not ended: its worker was killed, or its
	// session was ended.
	Begun int `json:"begun,omitempty"`

	// Seconds is how long the VACUUM took, and Pages how many pages the table has.
	Seconds float64 `json:"seconds,omitempty"`
	Pages   int64   `json:"pages,omitempty"`

	// Space is what can be had of the table's space, nil if it is not known.
	Space *Space `json:"space,omitempty"`
}

// A Space is what can be had of a table's space, in bytes. All figures are estimates by the
// server's statistics.
type Space struct {
	// Bytes is the size of the table with its indexes and its TOAST table.
	Bytes int64 `json:"bytes"`

	// Dead is what deleted rows still take. New rows cannot use it before a VACUUM.
	Dead int64 `json:"dead_bytes"`

	// Reusable is the empty space that new rows of the table can use.
	Reusable int64 `json:"reusable_bytes"`

	// Returnable is what a VACUUM with TRUNCATE may return to the operating system: the pages
	// without a row at the end of the table. Lethe's own VACUUM returns nothing.
	Returnable int64 `json:"returnable_bytes"`

	// Rewrite is what would be returned by a rewrite of the table and its indexes, as
	// pg_repack does it, or REPACK (CONCURRENTLY) of PostgreSQL 19.
	Rewrite int64 `json:"rewrite_bytes"`
}

// Ended reports whether nothing more will be done for the job.
func (p Phase) Ended() bool { return p.State == Done }

// Table returns the table of the name, nil if the job has not deleted from it.
func (p Phase) Table(name string) *EmptiedTable {
	for i := range p.Tables {
		if p.Tables[i].Name == name {
			return &p.Tables[i]
		}
	}
	return nil
}

// Settle ends the phase if each of its tables is done or skipped.
func (p *Phase) Settle() {
	for i := range p.Tables {
		if !p.Tables[i].State.Ended() {
			return
		}
	}
	p.State, p.WaitsFor = Done, ""
}
