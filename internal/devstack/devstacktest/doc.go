// Package devstacktest gives tests their servers and databases: one PostgreSQL
// for a test process, with a database of its own for each test, and a Redis of
// its own for each test that asks.
//
// It promises that tests, and packages, may run in parallel without seeing each
// other, and that what it hands out is gone when the test that asked has ended.
// It fails a test, and never skips one, when a server is not installed. Nothing
// but tests may import it.
package devstacktest
