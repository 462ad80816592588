// Package beside knows what a running Synapse shares with Lethe through the database:
// the locks of rooms, the stream of cache invalidations, the events whose mappings to
// state groups must outlive them for a while, the tasks that Synapse runs for Lethe,
// and what shows that Synapse is at work.
//
// It promises that the ids of the stream are committed in their order, that a mapping
// is never deleted whose event has come back, and that none is deleted while the room
// is held. It must never touch the parent rows of locks, which belong to triggers, and
// never write a task whose action Synapse does not know.
package beside
