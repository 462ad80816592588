package launch

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"lethe/internal/command"
	"lethe/internal/config"
	"lethe/internal/observe"
	"lethe/internal/process"
	"lethe/internal/schedule"
)

// OldFlags are the flags with a single dash that the processes took.
var OldFlags = command.OldFlags{"scheduler": {"once", "job", "wait", "timeout"}}

// Main is the main function of a program that is one process: api, worker or scheduler.
// It returns the exit status.
func Main(name string) int {
	root, ok := ByName(name)
	if !ok {
		panic("launch: no process " + name)
	}
	return mainOf(root)
}

// MainOfAsynqmon is [Main] for asynqmon, which needs the maker of its pages.
func MainOfAsynqmon(makeMonitor process.MonitorMaker) int { return mainOf(asynqmon(makeMonitor)) }

// mainOf runs a process whose command is the root. There the old flags have no path.
func mainOf(root *cobra.Command) int {
	return command.Main(root, os.Args[1:], command.OldFlags{"": OldFlags[root.Name()]})
}

// NameOf returns the process that a program was called as, from the first word of its
// command line, such as "worker" for /usr/local/bin/worker. It returns "" if the program
// was not called by the name of a process.
func NameOf(called string) string {
	name := strings.TrimSuffix(filepath.Base(called), ".exe")
	if _, ok := ByName(name); ok {
		return name
	}
	return ""
}

// Commands returns the commands of the processes that need no maker of pages.
func Commands() []*cobra.Command { return []*cobra.Command{api(), worker(), scheduler()} }

// ByName returns the command of one of [Commands].
func ByName(name string) (*cobra.Command, bool) {
	for _, found := range Commands() {
		if found.Name() == name {
			return found, true
		}
	}
	return nil, false
}

func api() *cobra.Command {
	return serves(&cobra.Command{
		Use:   "api",
		Short: "serve the admin API and accept jobs",
		Long: `Serves the admin API and users' /messages, and accepts jobs.

It runs until SIGTERM or SIGINT. docs/configuration.md describes its settings.`,
		Example: `  LETHE_CONFIG=/etc/lethe/lethe.yaml api
  api --check`,
	}, nil, config.ForAPI)
}

func worker() *cobra.Command {
	return serves(&cobra.Command{
		Use:   "worker",
		Short: "run jobs",
		Long: `Runs jobs. Any number of workers can run.

It runs until SIGTERM or SIGINT. docs/configuration.md describes its settings.`,
		Example: `  LETHE_CONFIG=/etc/lethe/lethe.yaml worker
  worker --check`,
	}, nil, config.ForWorker)
}

func asynqmon(makeMonitor process.MonitorMaker) *cobra.Command {
	return serves(&cobra.Command{
		Use:   "asynqmon",
		Short: "show the queues to server admins, in a browser",
		Long: `Shows the queues to server admins, in a browser.

It runs until SIGTERM or SIGINT. docs/configuration.md describes its settings.`,
		Example: `  LETHE_CONFIG=/etc/lethe/lethe.yaml asynqmon
  asynqmon --check`,
	}, makeMonitor, config.ForAsynqmon)
}

func scheduler() *cobra.Command {
	var once process.Once
	var isOnce bool
	c := serves(&cobra.Command{
		Use:   "scheduler",
		Short: "start the sweeps of retention when they are due",
		Long: `Starts the sweeps of retention when they are due, and enqueues jobs again that Redis
has lost. Any number of schedulers can run.

Without --once it runs until SIGTERM or SIGINT. With --once it enqueues the latest sweep
of each retention job, unless it exists, and ends; it then serves no health and no
metrics. The exit status is 0 when the sweeps are accepted, or complete with --wait. It
is also 0 when retention is not enabled. It is 1 when the sweeps failed, and 2 when the
settings or the options cannot be used. docs/configuration.md describes the settings.`,
		Example: `  LETHE_CONFIG=/etc/lethe/lethe.yaml scheduler
  scheduler --once --job nightly --wait --timeout 2h
  scheduler --check`,
	}, nil, config.ForScheduler)
	flags := c.Flags()
	flags.BoolVar(&isOnce, "once", false, "enqueue the latest sweeps and end")
	flags.StringVar(&once.Job, "job", "", "with --once: only the sweep of the retention job with this `name`")
	flags.BoolVar(&once.Wait, "wait", false, "with --once: wait until the sweeps have ended")
	flags.DurationVar(&once.Timeout, "timeout", time.Hour, "with --wait: the longest `time` to wait; the sweeps go on after it")
	serve := c.RunE
	c.RunE = func(c *cobra.Command, args []string) error {
		switch given := flags.Changed; {
		case !isOnce && (given("job") || given("wait") || given("timeout")):
			return command.Usage("--job, --wait and --timeout need --once")
		case isOnce && given("check"):
			return command.Usage("--check and --once cannot be together")
		case given("job") && once.Job == "":
			return command.Usage("--job needs a name")
		case given("timeout") && (!once.Wait || once.Timeout <= 0):
			return command.Usage("--timeout needs --wait, and must be more than 0")
		case !isOnce:
			return serve(c, args)
		}
		return runOnce(c.Context(), once)
	}
	return c
}

// runOnce runs a scheduler once.
func runOnce(ctx context.Context, once process.Once) error {
	settings, err := config.Load(os.Environ(), config.ForScheduler)
	if err != nil {
		return &command.StatusError{Status: command.BadUsage, Err: err}
	}
	log := observe.NewLogger(os.Stderr, settings.Log.Level, settings.Log.Format)
	err = process.RunOnce(ctx, settings, log, once)
	switch {
	case errors.Is(err, schedule.ErrNoSuchJob):
		return &command.StatusError{Status: command.BadUsage, Err: err}
	case err != nil:
		// CronJobs rely on 1, also for a wait that was too long.
		return &command.StatusError{Status: command.Failed, Err: err}
	}
	return nil
}

// serves completes a command that runs a process until the context ends.
func serves(c *cobra.Command, makeMonitor process.MonitorMaker, purpose config.Purpose) *cobra.Command {
	check := c.Flags().Bool("check", false, "read the settings, check the servers once, and end without starting anything; the exit status is 0 if the process could start")
	c.Args = command.NoArguments
	c.RunE = func(c *cobra.Command, _ []string) error {
		settings, err := config.Load(os.Environ(), purpose)
		if err != nil {
			return err
		}
		if purpose == config.ForAPI && !*check {
			relaxGC(settings.Messages.MaxTotalBytes + settings.API.CacheBytes)
		}
		log := observe.NewLogger(os.Stderr, settings.Log.Level, settings.Log.Format)
		if !*check {
			return process.Run(c.Context(), settings, log, makeMonitor, purpose)
		}
		if err := process.Check(c.Context(), settings, log, makeMonitor, purpose); err != nil {
			return err
		}
		_, err = fmt.Fprintf(c.OutOrStdout(), "%s can start\n", c.Name())
		return err
	}
	return c
}

// apiGCPercent is the value of GOGC for an api. A page of history uses much memory
// for a moment, while little memory stays in use. With Go's default of 100, a third
// of the time goes to collecting garbage.
const apiGCPercent = 400

// besidePages is the memory that an api needs besides that of pages and their cache, in
// bytes.
const besidePages = 40 << 20

// relaxGC makes the garbage collector run less often, unless GOGC is set. It runs as often
// as necessary when the memory nears that of pages and their cache and what an api needs
// besides, or a lower GOMEMLIMIT.
func relaxGC(pages int) {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(apiGCPercent)
	}
	debug.SetMemoryLimit(min(debug.SetMemoryLimit(-1), int64(pages)+besidePages))
}
