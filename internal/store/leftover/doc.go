// Package leftover asks the homeserver's tables for rows that a delete of rooms has
// left, by what the delete has deleted: rooms, events and state groups.
//
// It promises to bound each question in rows and in time, and to name each table that
// it did not ask. It must never change the database, and never take the lock of a room.
package leftover
