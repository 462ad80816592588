// Package bench measures Lethe. It compares Lethe with the same work as plain SQL, with
// the same work without foreign keys, with asynq alone, and with itself at another
// size.
//
// Every result is a ratio of two things that were measured by turns, in one run, on
// equal copies of a database. Seconds alone say more about a machine than about
// Lethe. Both sides of a purge leave the same rows. The package removes everything
// that it creates. It never writes to a database that it was given: it works on
// copies.
package bench
