// Package tasks knows how jobs are dispatched and worked: the asynq tasks, the
// client that enqueues them, the scheduler that enqueues retention's sweeps when
// they are due, the worker that runs them with one file per kind of job, and the
// reconciler that finds the jobs which asynq or a worker lost. It is the only
// package that knows asynq.
//
// It promises that a job which was accepted ends, whatever process or server
// dies meanwhile, and that its work may be delivered twice without being done
// twice. It must never rest anything on asynq's word: asynq delivers at least
// once, forgets what its Redis forgets, and does not wait for a handler.
package tasks
