// Package roomgen generates rooms for the demo, the benchmarks and the tests.
//
// It promises that the same [Room] gives the same events, that their ids and hashes are
// true, so that a homeserver can read them, that the room is complete in every table that
// Lethe reads, and that memory does not grow with the number of events. The signatures are
// made up. It must never change an existing room, and must be used only for demos,
// benchmarks and tests.
package roomgen
