// Package tasks knows how jobs are accepted and run: the client that accepts them, and
// the worker that runs them, with one file for each kind. The decisions of sweeps are
// those of package sweep.
//
// It promises that an accepted job ends, whatever process or server dies meanwhile,
// and that a task may be delivered twice without its work being done twice. It must
// never rely on asynq alone: asynq delivers at least once, loses whatever its Redis
// loses, and does not wait for a handler.
package tasks
