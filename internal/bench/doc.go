// Package bench measures Lethe against what it could be measured by: the same
// work as plain SQL, the same work without foreign keys, bare asynq, itself at
// another size.
//
// It promises that every number is a ratio of two things that were measured in
// turn, in one run, on equal copies of a database; that both sides of a purge
// leave the same rows; and that it removes what it made. It must never judge by
// seconds, which say more about a machine than about Lethe, and never write to a
// database that it was given: it works on copies.
package bench
