// Package selfcheck checks after a delete, or after all deletes of a sweep, what they
// have left, and logs and counts it.
//
// It promises that a check never fails a delete, and that it ends soon. It must never
// take the lock of a room, or change the database.
package selfcheck
