// Package footprint knows how much of the database belongs to a room, and what a
// purge or a delete of it would take away.
//
// It promises that all figures of one answer come from one snapshot, that the number
// of events is exact, and that each figure says whether its rows were counted or
// estimated. Each statement has a deadline. It must never write anything, or hold more
// of a room in memory than the numbers of its state groups.
package footprint
