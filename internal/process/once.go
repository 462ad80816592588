package process

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"lethe/internal/config"
	"lethe/internal/jobs"
	"lethe/internal/observe"
	"lethe/internal/redisdb"
	"lethe/internal/store/postgres"
	"lethe/internal/tasks"
)

// Once says what a scheduler does that ends.
type Once struct {
	// Job is the name of the job of retention whose tick is decided about.
	// Defaults to "", all jobs.
	Job string

	// Wait waits until the sweeps have ended. Defaults to false: until they are
	// accepted.
	Wait bool

	// Timeout bounds that wait. Defaults to 1h.
	Timeout time.Duration
}

// RunOnce decides about the latest ticks of retention's jobs, as
// [tasks.Scheduler.Once] does, and listens nowhere. A second call changes nothing
// before the next tick.
//
// Redis need not be there for a sweep to be accepted. What this process cannot
// enqueue, and what an earlier one could not, the next reconciler does: that of a
// scheduler, or this one's, which looks once, and for as long as it waits. So
// nothing is stuck where there are only CronJobs.
//
// The error of a wait says that a sweep failed, or that it goes on after the
// timeout or the end of the context.
func RunOnce(ctx context.Context, settings config.Config, log *slog.Logger, once Once) error {
	if once.Timeout == 0 {
		once.Timeout = time.Hour
	}
	observe.SetRedisLogger(log)
	tracer, err := observe.TracerFromEnvironment(ctx, log, name([]config.Purpose{config.ForScheduler}))
	if err != nil {
		return err
	}
	defer closeTracer(ctx, log, tracer)
	doubt(ctx, log, settings)
	db, err := postgres.Open(ctx, string(settings.Database.URL), postgres.Options{
		ApplicationName: name([]config.Purpose{config.ForScheduler}), MaxConnections: settings.Database.MaxConnections,
	})
	if err != nil {
		return err
	}
	defer db.Close()
	client, err := redisdb.Open(string(settings.Redis.URL))
	if err != nil {
		return err
	}
	defer func() { _ = client.Close() }()
	p := &process{
		settings: settings, log: log, db: db, redis: client,
		board: jobs.NewBoard(db, client, settings.StatusTTL, log), metrics: observe.NewMetrics(observe.NewRegistry()),
		tracer: tracer,
	}
	scheduler := p.scheduler()
	sweeps, err := scheduler.Once(ctx, once.Job)
	if len(sweeps) == 0 {
		return err
	}
	reconciler := tasks.NewReconciler(db, client, p.board, log, p.metrics)
	if err != nil || !once.Wait {
		if err := reconciler.Look(ctx); err != nil {
			log.WarnContext(ctx, "reconciler could not look", "error", err)
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
