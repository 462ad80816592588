// Command scheduler enqueues the sweeps of retention when they are due. It also
// enqueues jobs again that Redis has lost. Any number of schedulers can run. With
// --once it runs once and ends, for a CronJob. docs/configuration.md describes its
// settings.
package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"time"

	"lethe/internal/config"
	"lethe/internal/process"
)

const usage = `scheduler [--once [--job name] [--wait [--timeout 1h]]]

Without --once, the scheduler runs until it gets SIGTERM or SIGINT.

	--once          enqueue the latest sweep of each retention job, unless it exists, and end.
	                With --once, the scheduler serves no health and no metrics
	--job name      enqueue the sweep of this job only
	--wait          wait until the sweeps have ended
	--timeout time  the longest wait, 1h by default; the sweeps continue after it

The exit status is 0 when the sweeps are accepted, or complete with --wait. It is
also 0 when retention is not enabled. It is 1 when the sweeps failed, and 2 when the
settings or the options cannot be used.
`

func main() { os.Exit(run(os.Args[1:])) }

func run(args []string) (status int) {
	var once process.Once
	flags := flag.NewFlagSet("scheduler", flag.ContinueOnError)
	flags.Usage = func() { fmt.Fprint(os.Stderr, usage) }
	isOnce := flags.Bool("once", false, "")
	flags.StringVar(&once.Job, "job", "", "")
	flags.BoolVar(&once.Wait, "wait", false, "")
	flags.DurationVar(&once.Timeout, "timeout", time.Hour, "")
	err := flags.Parse(args)
	if errors.Is(err, flag.ErrHelp) {
		return 0
	}
	given := map[string]bool{}
	flags.Visit(func(f *flag.Flag) { given[f.Name] = true })
	switch {
	case err != nil:
		return 2 // Parse has printed the error
	case flags.NArg() > 0:
		err = fmt.Errorf("unexpected argument %q", flags.Arg(0))
	case !*isOnce && (given["job"] || given["wait"] || given["timeout"]):
		err = errors.New("--job, --wait and --timeout need --once")
	case given["job"] && once.Job == "":
		err = errors.New("--job needs a name")
	case given["timeout"] && (!once.Wait || once.Timeout <= 0):
		err = errors.New("--timeout needs --wait, and must be more than 0")
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "scheduler: %v\n\n%s", err, usage)
		return 2
	}
	if *isOnce {
		return process.MainOnce(once)
	}
	return process.Main(config.ForScheduler)
}
