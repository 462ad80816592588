package process

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"lethe/internal/config"
	"lethe/internal/dispatch"
)

// Once is what a scheduler does that runs once.
type Once struct {
	// Job is the name of the retention job to run. Defaults to "", all jobs.
	Job string

	// Wait is whether to wait until the sweeps have ended. Defaults to false: return
	// when they are accepted.
	Wait bool

	// Timeout is the longest wait. Defaults to 1h.
	Timeout time.Duration
}

// RunOnce makes sure that the latest tick of each retention job has its sweep: see
// [schedule.Scheduler.Once]. It serves no HTTP. A second call changes nothing before
// the next tick.
//
// A sweep can be accepted while Redis cannot be reached. RunOnce therefore also
// runs the reconciler, which enqueues jobs that are not in Redis: once, or for as
// long as RunOnce waits. So jobs do not get stuck where schedulers only run once.
//
// When RunOnce waits, its error says that a sweep failed, or that a sweep was still
// running at the timeout or when the context ended.
func RunOnce(ctx context.Context, settings config.Config, log *slog.Logger, once Once) error {
	once.Timeout = cmp.Or(once.Timeout, time.Hour)
	p := &process{settings: settings, purposes: []config.Purpose{config.ForScheduler}, log: log}
	defer p.close(ctx)
	if err := p.openBase(ctx); err != nil {
		return err
	}
	scheduler := p.scheduler()
	sweeps, err := scheduler.Once(ctx, once.Job)
	if len(sweeps) == 0 {
		return err
	}
	reconciler := dispatch.NewReconciler(p.db, p.redis, p.board, log, p.metrics)
	if err != nil || !once.Wait {
		if err := reconciler.Check(ctx); err != nil {
			log.WarnContext(ctx, "reconciler's check failed", "error", err)
		}
		return err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, once.Timeout, fmt.Errorf("waited for %s", once.Timeout))
	var group sync.WaitGroup
	group.Go(func() { reconciler.Run(ctx) })
	defer group.Wait()
	defer cancel()
	return scheduler.Await(ctx, sweeps)
}
