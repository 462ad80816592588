// Package pace knows how large the batches of jobs are: the first of a job, by what
// others have taken, and each next one, by what the last has taken.
//
// It promises that a batch aims at a given time, and at a part of it while readers wait
// for the room; that an old figure alone never makes a batch large; and that no batch is
// smaller than what its fixed costs justify, so that a purge gets on beside any number of
// readers. It must never ask a server: it knows only what it is told.
package pace
