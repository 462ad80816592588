package sweep

import (
	"encoding/json"
	"slices"

	"lethe/internal/store/leftover"
)

// A Checkpoint is the checkpoint of a sweep.
type Checkpoint struct {
	// After is the id of the last room that the sweep has decided.
	After string `json:"after"`

	Sweep Result `json:"sweep"`
}

// A Result counts the rooms of a sweep by outcome. Rooms counts all of them, and
// Enqueued those that have got a job.
type Result struct {
	Rooms    int64 `json:"rooms"`
	Enqueued int64 `json:"enqueued"`
	Skipped  struct {
		// Deleting and Purging count rooms with an open job of that kind.
		Deleting int64 `json:"deleting"`
		Purging  int64 `json:"purging"`

		// Held counts held rooms.
		Held int64 `json:"held"`

		// NothingExpired counts rooms with nothing to purge, NoLimit rooms that keep
		// everything, and OtherJob rooms that belong to another retention job, or to
		// none.
		NothingExpired int64 `json:"nothing_expired"`
		NoLimit        int64 `json:"no_limit"`
		OtherJob       int64 `json:"other_job"`

		AbandonedSkips

		// Failed counts rooms that could not be decided, or whose job was refused.
		Failed int64 `json:"failed"`
	} `json:"skipped"`

	// Failures are the first failed rooms.
	Failures []Failure `json:"failures,omitempty"`

	// RoomsChecked is the number of deleted rooms that were checked at the sweep's end,
	// and Report what the check has found, nil before.
	RoomsChecked int `json:"rooms_checked,omitempty"`
	*leftover.Report
}

// A Failure is a room that could not be decided, or whose job was refused, with the
// reason.
type Failure struct {
	Room  string `json:"room_id"`
	Error string `json:"error"`
}

// maxNamedFailures bounds how many failed rooms a sweep names.
const maxNamedFailures = 10

func (r *Result) fail(room string, err error) {
	r.Skipped.Failed++
	if len(r.Failures) < maxNamedFailures {
		r.Failures = append(slices.Clone(r.Failures), Failure{room, err.Error()})
	}
}

// String returns the result in JSON, or "" if that fails.
func (r Result) String() string {
	encoded, err := json.Marshal(r)
	if err != nil {
		return ""
	}
	return string(encoded)
}

// outcomes returns the counts of a retention sweep by name.
func (r *Result) outcomes() map[string]int64 {
	return map[string]int64{
		"enqueued": r.Enqueued, "deleting": r.Skipped.Deleting, "purging": r.Skipped.Purging, "held": r.Skipped.Held,
		"nothing_expired": r.Skipped.NothingExpired, "no_limit": r.Skipped.NoLimit, "other_job": r.Skipped.OtherJob,
		"failed": r.Skipped.Failed,
	}
}
