// Command scheduler enqueues retention's sweeps when they are due, and finds jobs
// that were lost on the way and enqueues them again. Any number of them may run.
// With --once it decides about the latest ticks and ends, for a CronJob.
// Its settings are in docs/config.example.yaml.
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

Without --once it runs until it is told to stop.

	--once          make sure that the latest tick of each job of retention has its sweep, and
	                end; what is there already is not made again. Nothing is listened at
	--job name      only of this job
	--wait          wait until the sweeps have ended
	--timeout time  wait no longer, 1h if not given; the sweeps go on

It exits with 0 when the sweeps are accepted, or, with --wait, complete, and when
retention is not enabled; with 1 when that failed, 2 when the settings or these
options cannot be used.
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
		return 2 // it was said
	case flags.NArg() > 0:
		err = fmt.Errorf("there is no argument %q", flags.Arg(0))
	case !*isOnce && (given["job"] || given["wait"] || given["timeout"]):
		err = errors.New("--job, --wait and --timeout are for --once")
	case given["job"] && once.Job == "":
		err = errors.New("--job needs a name")
	case given["timeout"] && (!once.Wait || once.Timeout <= 0):
		err = errors.New("--timeout must be more than 0, and is for --wait")
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
