// Package synapse knows a running Synapse from outside of it: whether it is at work, how
// it is told that its caches are stale, and how a room is locked against it.
//
// It promises that a process of Synapse which listens hears of every committed
// invalidation, however Lethe's processes die, and that what must wait for Synapse says
// for what. It must never assume that no Synapse runs because none was seen, except
// where the settings say so, and never decide what a job deletes.
package synapse
