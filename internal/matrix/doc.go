// Package matrix implements the Matrix formats that Lethe reads and writes: server
// names, ids of users and rooms, page tokens, and events of the room versions 1 to
// 12, with canonical JSON, hashes, event ids and signatures. It splits events
// without decoding them.
//
// It promises that what it accepts is well formed, that it parses what it formats
// to the same value, and that an event gets the same id and signature as on any
// homeserver. It must never do I/O, read a clock, reveal a signing key, or import
// another package of Lethe.
//
// [CanonicalJSON], [ContentHash], [EventID], [Redact] and [VerifySignature] check events
// that Lethe has written. Only tests call them.
package matrix
