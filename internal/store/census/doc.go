// Package census knows every column of Synapse's tables that names a room, an event
// or a state group.
//
// It promises that a table which Lethe does not know is noticed before a purge, even
// if the table has no foreign key. It must never change the database.
package census
