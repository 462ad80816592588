package jobs

import (
	"crypto/rand"
	"errors"
)

// ErrNotFound is returned for a job that is unknown, has another kind, or ended
// longer ago than its status is kept.
var ErrNotFound = errors.New("no such job")

// idLength is the number of letters that admin tools expect in an opaque id.
const idLength = 16

const letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"

// NewID returns a new job's id: 16 random ASCII letters.
func NewID() string {
	id := make([]byte, 0, idLength)
	for len(id) < idLength {
		var random [2 * idLength]byte
		_, _ = rand.Read(random[:]) // never fails
		for _, b := range random {
			// Bytes above the last multiple of 52 would make some letters more likely.
			if int(b) < 256/len(letters)*len(letters) && len(id) < idLength {
				id = append(id, letters[int(b)%len(letters)])
			}
		}
	}
	return string(id)
}

// ValidID reports whether s has the form of a job's id.
func ValidID(s string) bool {
	for _, c := range []byte(s) {
		if (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') {
			return false
		}
	}
	return len(s) == idLength
}

// A PurgePoint is where a history purge ends, in the words of its request: the event with
// this id, or a time in Unix milliseconds. Without either, a sweep has decided it.
type PurgePoint struct {
	BeforeEvent string `json:"before_event_id,omitempty"`
	BeforeTime  *int64 `json:"before_ts,omitempty"`
}
