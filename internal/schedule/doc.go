// Package schedule knows when retention's sweeps are due, and enqueues them.
//
// It promises that each tick gets one sweep, however many replicas and cron jobs
// decide about it and whatever dies meanwhile, and that a clock which was wrong for a
// while makes no sweep run early. It must never decide what a sweep deletes.
package schedule
