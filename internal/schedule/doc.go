// Package schedule knows when retention's sweeps are due, and enqueues them.
//
// It promises that each tick gets one sweep, however many replicas and CronJobs
// take it and whichever of them dies, and that a clock that was wrong for a while
// starts no sweep early. It must never decide what a sweep deletes.
package schedule
