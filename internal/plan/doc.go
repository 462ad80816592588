// Package plan knows what a job would do before it is accepted: which events and rows
// it would delete, whom it would concern, and how long it would take.
//
// It promises that a plan's number of events is what the job deletes if the room does
// not change, and that a plan's digest tells whether it has changed. It must never
// write anything.
package plan
