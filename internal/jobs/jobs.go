package jobs

import (
	"crypto/rand"
	"errors"
)

// ErrNotFound is returned for a job that is unknown, of another kind, or that
// ended longer ago than its status is kept.
var ErrNotFound = errors.New("no such job")

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
