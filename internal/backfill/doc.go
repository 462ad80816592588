// Package backfill gets history that this server does not have, by asking the homeserver
// for it.
//
// It promises that the homeserver is asked as the reader, for few rooms at a time, and not
// again for the same page within a pause.
//
// It must never log an access token, nor make a reader wait longer than its timeout.
package backfill
