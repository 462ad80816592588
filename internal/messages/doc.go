// Package messages makes pages of a room's timeline with the events that their reader
// may see.
//
// It promises that a page shows the room at one moment, whatever is purged or sent
// meanwhile. Pages that follow each other by their tokens have every event that the
// reader may see, and that is not purged meanwhile, exactly once.
//
// It must never show an event that the room's history visibility, a redaction or a
// retention policy hides from the reader. It must never wait for more than one batch of a
// purge, and never write to the database.
package messages
