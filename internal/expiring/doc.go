// Package expiring has the map that Lethe uses for caches. An entry holds the answer
// of another system, for as long as the answer may be used.
//
// It promises that a map has no more entries than its maximum, that no entry is
// returned after its time to live, and that a full map evicts the entry that would
// expire first. It starts no goroutine, so a map needs no Close: later calls of Put
// remove expired entries.
//
// It must never hold the only copy of anything, because every entry may be evicted
// at any time.
package expiring
