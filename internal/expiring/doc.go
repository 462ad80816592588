// Package expiring has the map that Lethe caches in: what another system said
// about a key, for as long as that may be believed.
//
// It promises that a map holds no more entries than its maximum, that no entry is
// returned after its time to live, and that a full map evicts the entry that would
// expire first. It starts no goroutine, so a map needs no Close: expired entries
// are removed by later calls of Put.
//
// It must never hold the only copy of anything, because every entry may be evicted
// at any time.
package expiring
