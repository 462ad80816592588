// Package census compares a database with Synapse's tables as Lethe knows them.
//
// It promises to name each table, column, key and trigger that matters to a job and
// differs, and each column that seems to hold ids of rooms, events or state groups and
// that Lethe does not know, even without a foreign key. It must never change the
// database.
package census
