// Package messages pages through a room's timeline, and shows of it what its
// reader may see.
//
// It promises that a page is one picture of the room: all that a request reads
// is of one moment, whatever is purged or sent meanwhile. Pages that follow each
// other by their tokens give every event that the reader may see, and that
// stays, exactly once.
//
// It must never show what the room's history visibility, a redaction or a
// retention policy hides from the reader, never wait for more than one batch of
// a purge, and never write to the database.
package messages
