// Package wal knows how PostgreSQL compresses its write-ahead log: what the server was
// built with, what a role may set, and what Lethe's sessions set.
//
// It promises that a session which cannot set the compression works without it. It must
// never change a setting beyond the session.
package wal
