// Package jobs knows the job: the kinds of jobs, their ids, their statuses in Redis,
// the heartbeats of running jobs, and how long ended ones are kept.
//
// It promises that a status is never older than ten seconds, that an ended status
// never changes back unless the job is retried, and that it is served for its time to live even if Redis has
// lost it. It must never let Redis decide anything: if Redis and the row in
// PostgreSQL disagree, the row is right.
package jobs
