// Package doctor looks at the servers that Lethe is set up with, and says what
// keeps it from working or from working fast, and what to do about it.
//
// It promises to change nothing, to end soon, and to print no secret. It must
// never decide what a process does: each looks for itself.
package doctor
