// Package tasks knows how jobs are dispatched and run: the asynq tasks, the client
// that accepts jobs, the worker that runs them with one file for each kind, and the
// reconciler that finds the jobs which asynq or a worker has lost. It is the only
// package that knows asynq.
//
// It promises that an accepted job ends, whatever process or server dies meanwhile,
// and that a task may be delivered twice without its work being done twice. It must
// never rely on asynq alone: asynq delivers at least once, loses whatever its Redis
// loses, and does not wait for a handler.
package tasks
