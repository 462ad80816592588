// Package jobs knows the job: what kinds there are, its states, its status in
// Redis beside its row in PostgreSQL, and the heartbeat of those that run.
//
// It promises that a status is never older than ten seconds, that an ended one
// never goes back, and that it is served for its time to live after the end
// even if Redis has lost it. It must never let Redis decide anything: where the
// two disagree, the row is right.
package jobs
