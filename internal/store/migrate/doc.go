// Package migrate knows the versions of the schema lethe, and of the embedded copy
// of the homeserver's tables, and migrates a database to the version of this
// program.
//
// It promises that several processes may migrate at once, and that a refusal changes
// nothing. It must never alter a table of a homeserver's own.
package migrate
