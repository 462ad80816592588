// Package journal knows the schema lethe: jobs and their queue, the batches in which
// jobs work, the rooms' fences and holds, and the schedules of sweeps.
//
// It promises that a batch commits only while its run owns the job, its fence token
// is the room's newest and the room is not held, and that the job's checkpoint moves
// in the same commit. An accepted job stays until it has ended. All times come from
// PostgreSQL's clock.
//
// It must never touch a table of the homeserver's, or decide what a job is for.
package journal
