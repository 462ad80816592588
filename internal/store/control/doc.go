// Package control knows what operators see of jobs and what they may do to them: lists,
// logs, the stream of events, the verbs, pauses, and the limits of the fleet.
//
// It promises that the row of a job decides, with no process alive that runs jobs, that
// each verb is one transaction and leaves a record of who, when and why, and that the
// stream of events has each event once, in an order that does not change. It must never
// delete anything of a room, nor ask Redis for anything.
package control
