// Package dispatch knows asynq's tasks: it enqueues the task of a job, and its
// [Reconciler] finds the jobs that asynq or a worker has lost.
//
// It promises that enqueueing twice does no harm, and that every open job has a task
// again within a minute or two, whatever Redis has lost. It must never run a job, and
// never rely on Redis to know which jobs there are: that is in the journal.
package dispatch
