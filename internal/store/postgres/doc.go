// Package postgres knows the connection to PostgreSQL: the pool, transactions that
// begin in one round trip with their first statement, retries of reads, and which
// errors are worth another try.
//
// It promises that no statement outlives its context in the server, that a read
// survives a restart of the server, and that heartbeats never wait for the pool.
// It must never know a table's name, except where a search in a table is shared by
// several packages.
package postgres
