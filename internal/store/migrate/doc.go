// Package migrate knows the versions of the schema lethe, and of the embedded copy
// of the homeserver's tables, and brings a database to this program's.
//
// It promises that several processes may migrate at once, and that a refusal changes
// nothing. It must never alter a table of a homeserver's own.
package migrate
