// Package scheduledtasks knows the homeserver's own queue of tasks, the table
// scheduled_tasks: the purges and deletes that Synapse itself runs, has run or will run.
//
// It promises that a database without the table, or a role that may not read it, has no
// tasks. It must never write the table: Synapse runs every open task that it finds there,
// and one that it does not know stops its queue.
package scheduledtasks
