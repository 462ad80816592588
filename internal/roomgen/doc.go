// Package roomgen makes up rooms: in an empty database for a demonstration, in
// a large one for a benchmark, and for tests.
//
// It promises that the same [Room] gives the same events, that the room is whole
// in every table that Lethe reads, and that memory does not grow with the number
// of events. Its events are not signed. It must never touch a room that is
// there already, and nothing but demonstrations, benchmarks and tests may use
// it.
package roomgen
