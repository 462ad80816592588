// Package tasks knows how jobs are dispatched and run: the asynq tasks, the client
// that accepts jobs, the worker that runs them with one file for each kind, and the
// reconciler that finds the jobs which asynq or a worker has lost. It is the only
// package that knows asynq.
//
// It promises that a job which was accepted ends, whatever process or server
// dies meanwhile, and that its work may be delivered twice without being done
// twice. It must never rest anything on asynq's word: asynq delivers at least
// once, forgets what its Redis forgets, and does not wait for a handler.
package tasks
