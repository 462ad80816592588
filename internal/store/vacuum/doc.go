// Package vacuum knows what ended jobs have left in the homeserver's tables: dead rows, the
// index entries that still lead to them, and space. It asks the server to clear them away,
// and keeps what came of it in the job's row.
//
// It promises that at most one of its VACUUMs runs in a database at a time, that the right
// to run them ends with the session that has it, and that each statement has a deadline. It
// must never run VACUUM FULL, wait for the lock of a table, or make a table's file shorter:
// for that the server would lock out all readers.
package vacuum
