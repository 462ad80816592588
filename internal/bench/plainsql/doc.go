// Package plainsql knows the deletes that an expert in Synapse's schema would write for a
// purge and for a delete of a room: set-based, in one transaction. They are what Lethe is
// compared with.
//
// It promises that they leave the same rows as Lethe. It must never commit, or delete rows of
// another room.
package plainsql
