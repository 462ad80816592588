package jobs

import (
	"crypto/rand"
	"errors"

	"lethe/internal/store"
)

// ErrNotFound is returned for a job that is unknown, of another kind, or that
// ended longer ago than its status is kept.
var ErrNotFound = errors.New("no such job")

// A Kind is what a job is for.
type Kind string

// The kinds: PurgeHistory purges the history of a room up to a depth, DeleteRoom
// shuts a room down and may delete all of it. RetentionSweep, which has no room,
// makes a purge of each room that keeps events for longer than it is to, and
// AbandonedSweep, which has none either, a delete of each that is abandoned.
const (
	PurgeHistory   Kind = "purge_history"
	DeleteRoom     Kind = "delete_room"
	RetentionSweep Kind = "retention_sweep"
	AbandonedSweep Kind = "abandoned_sweep"
)

// A State is how far a job is.
type State string

// The states. A job that yields is queued again, and one whose room is held is
// Held until that ends; Complete, Failed and Cancelled are its end.
const (
	Queued    State = store.JobQueued
	Running   State = store.JobRunning
	Held      State = store.JobHeld
	Complete  State = store.JobComplete
	Failed    State = store.JobFailed
	Cancelled State = store.JobCancelled
)

// Ended reports whether the state is a job's end.
func (s State) Ended() bool { return s == Complete || s == Failed || s == Cancelled }

// idLength is how many letters admin tools expect an opaque id to have.
const idLength = 16

const letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"

// NewID makes a job's id: 16 random ASCII letters.
func NewID() string {
	id := make([]byte, 0, idLength)
	for len(id) < idLength {
		var random [2 * idLength]byte
		_, _ = rand.Read(random[:]) // never fails
		for _, b := range random {
			// A byte above the last multiple of 52 would favour some letters.
			if int(b) < 256/len(letters)*len(letters) && len(id) < idLength {
				id = append(id, letters[int(b)%len(letters)])
			}
		}
	}
	return string(id)
}

// ValidID reports whether s can be a job's id.
func ValidID(s string) bool {
	for _, c := range []byte(s) {
		if (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') {
			return false
		}
	}
	return len(s) == idLength
}
