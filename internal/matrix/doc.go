// Package matrix knows the Matrix words that Lethe reads and writes: server
// names, ids of users and rooms, page tokens, and events of the room versions 9
// to 12, with what seals and names them: canonical JSON, hashes, redaction and
// signatures. Events of all versions it can redact, and split without decoding
// them.
//
// It promises that what it accepts is well formed, that what it formats it
// parses again to the same value, and that an event gets the same id and the
// same signature here as on any homeserver. It must never do I/O, read a clock,
// reveal a signing key, or import anything of Lethe.
package matrix
