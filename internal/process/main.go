package process

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"runtime/debug"
	"slices"
	"sync"
	"syscall"
	"time"

	"lethe/internal/config"
	"lethe/internal/dispatch"
	"lethe/internal/observe"
	"lethe/internal/schedule"
)

// Main is the main function of a process that serves the purposes. It reads the
// settings from the environment, runs until SIGTERM or SIGINT, and returns the exit
// status. A second signal ends the process at once.
func Main(purposes ...config.Purpose) int { return MainWithMonitor(nil, purposes...) }

// MainWithMonitor is [Main] for a process that shows the queues: see [Run].
func MainWithMonitor(makeMonitor MonitorMaker, purposes ...config.Purpose) int {
	ctx, stop := untilSignal()
	defer stop()
	if slices.Contains(purposes, config.ForAPI) {
		relaxGC()
	}
	settings, err := config.Load(os.Environ(), purposes...)
	if err == nil {
		log := observe.NewLogger(os.Stderr, settings.Log.Level, settings.Log.Format)
		err = Run(ctx, settings, log, makeMonitor, purposes...)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "lethe:", err)
		return 1
	}
	return 0
}

// MainOnce is [Main] for a scheduler that runs once and ends: see [RunOnce]. The
// exit status is 2 if the settings cannot be used or do not have the job, and 1 if
// anything else fails.
func MainOnce(once Once) int {
	ctx, stop := untilSignal()
	defer stop()
	settings, err := config.Load(os.Environ(), config.ForScheduler)
	status := 2
	if err == nil {
		log := observe.NewLogger(os.Stderr, settings.Log.Level, settings.Log.Format)
		if err = RunOnce(ctx, settings, log, once); !errors.Is(err, schedule.ErrNoSuchJob) {
			status = 1
		}
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "lethe:", err)
		return status
	}
	return 0
}

// apiGCPercent is the value of GOGC for an api. A page of history uses much memory
// for a moment, while little memory stays in use. With Go's default of 100, a third
// of the time goes to collecting garbage.
const apiGCPercent = 400

// relaxGC makes the garbage collector run less often, unless GOGC is set.
// GOMEMLIMIT still limits the memory.
func relaxGC() {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(apiGCPercent)
	}
}

// untilSignal returns a context that ends with SIGTERM or SIGINT. A second signal
// ends the process at once.
func untilSignal() (ctx context.Context, stop context.CancelFunc) {
	ctx, stop = signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	context.AfterFunc(ctx, stop)
	return ctx, stop
}

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
