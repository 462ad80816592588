// Package matrix knows the Matrix words that Lethe reads and writes: server
// names, the domain of a user id, and page tokens.
//
// It promises that what it accepts is well formed and that what it formats it
// parses again to the same value. It must never do I/O, and imports nothing of
// Lethe.
package matrix
