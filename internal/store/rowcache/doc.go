// Package rowcache keeps what was made of rows of the database, with the version of the
// row, within a number of bytes.
//
// It promises that a value is returned only for the very version of the row that it was
// made of, and that all values together stay within the bytes. A row that only seems to
// have changed costs a miss.
//
// It must never decide whether a row exists: its caller reads the version of the row in
// the snapshot that asks, every time.
package rowcache
