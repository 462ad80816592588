package rowcache

import (
	"hash/maphash"
	"sync/atomic"
)

// maxHints is the number of places that Hints remember.
const maxHints = 1 << 13

// Hints remember places whose rows were read, so that a caller can guess which rows are
// kept before it knows them. A guess may be wrong. Hints take 64 KiB, and are safe for
// concurrent use.
type Hints struct {
	seed  maphash.Seed
	marks [maxHints]atomic.Uint64
}

// NewHints returns Hints without a place.
func NewHints() *Hints { return &Hints{seed: maphash.MakeSeed()} }

// A place is a part of a text's numbers.
type place struct {
	text   string
	number int64
}

// Mark remembers the place of a number of a text. It may forget another place.
func (h *Hints) Mark(text string, number int64) {
	sum := maphash.Comparable(h.seed, place{text, number})
	h.marks[sum%maxHints].Store(sum)
}

// Marked reports whether the place is remembered.
func (h *Hints) Marked(text string, number int64) bool {
	sum := maphash.Comparable(h.seed, place{text, number})
	return h.marks[sum%maxHints].Load() == sum
}
