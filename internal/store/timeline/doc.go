// Package timeline knows how to read a room's history: pages of events, their
// relations, the state at an event, and what decides who may see it.
//
// It promises that all reads through one [Snapshot] see one moment of the database,
// that a page takes a few round trips however large the room is, and that every
// query is bounded. It must never write, or decide what a user may see.
package timeline
