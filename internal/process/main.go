package process

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"runtime/debug"
	"slices"
	"syscall"

	"lethe/internal/config"
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
