// Package postgres knows the connection to PostgreSQL: the pool, transactions that
// begin in one round trip with their first statement, retries of reads, and which
// errors are worth another attempt.
//
// It promises that no statement runs on in the server after its context has ended,
// that a read survives a restart of the server, and that heartbeats never wait for
// the pool. It must never name a table, except in SQL that several packages share.
package postgres
