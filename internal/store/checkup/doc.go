// Package checkup knows what a database needs for Lethe: privileges, indexes, indexes
// that match their tables, and no homeserver at work.
//
// It promises to name each thing that is lacking together with the statement that
// adds it. It must never change the database.
package checkup
