package rowcache

import (
	"container/list"
	"sync"
)

const (
	// entryBytes is about what an entry takes besides its key and its value: the entry
	// itself, its place in the order and that in the map.
	entryBytes = 256

	// maxShare is the part of a budget that one entry may take, as a divisor.
	maxShare = 64
)

// A Budget is the memory that several Rows take together, in bytes. What was used least
// recently is forgotten first, whichever Rows has it. It is safe for concurrent use.
//
// It is built on container/list: the well-known caches for Go bound the number of their
// entries, or bound bytes by evicting them later in the background, and none lets two
// caches share one bound.
type Budget struct {
	mu     sync.Mutex
	size   int64
	taken  int64
	recent list.List // of entries, the most recently used first
}

// NewBudget returns a Budget of a number of bytes. With 0 nothing is kept.
func NewBudget(bytes int) *Budget { return &Budget{size: int64(bytes)} }

// Taken returns the number of bytes that are taken.
func (b *Budget) Taken() int64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.taken
}

// An entry is what one of the Rows keeps of a row.
type entry interface {
	// drop takes the entry out of its Rows, and returns its size. Evicted says that the
	// budget was taken.
	drop(evicted bool) int64
}

// remove removes an entry. The caller has the mutex.
func (b *Budget) remove(at *list.Element, evicted bool) {
	b.taken -= b.recent.Remove(at).(entry).drop(evicted)
}
