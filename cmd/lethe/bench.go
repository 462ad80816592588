package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"lethe/internal/bench"
)

// measure runs the benchmark and prints its table.
func measure(ctx context.Context, args []string) error {
	options := bench.Options{Progress: os.Stderr}
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	flags.StringVar(&options.Case, "case", "", "run this case only: "+strings.Join(bench.Cases(), ", "))
	flags.StringVar(&options.Database, "database", "", "URL of a database to copy, as a superuser")
	flags.StringVar(&options.Dir, "dir", "", "directory for the data of the server that the benchmark starts")
	flags.StringVar(&options.Dump, "dump", "", "file of pg_dump -Fc to restore and copy")
	flags.IntVar(&options.Events, "events", 200_000, "number of events of the room that is purged")
	flags.IntVar(&options.Jobs, "jobs", 2000, "number of tiny purges")
	flags.IntVar(&options.LargeEvents, "large", 500_000, "number of events of the large room for the memory of a worker")
	flags.IntVar(&options.SmallEvents, "small", 20_000, "number of events of the small room for the memory of a worker")
	flags.IntVar(&options.Rooms, "rooms", 10_000, "number of small rooms that are deleted")
	flags.IntVar(&options.Runs, "runs", 3, "how often everything is measured")
	flags.IntVar(&options.SweepRooms, "sweep-rooms", 100_000, "number of rooms of a retention sweep, at least 100")
	flags.StringVar(&options.Synapse, "synapse", "", "URL of a Synapse whose pages are measured too")
	flags.StringVar(&options.SynapseDatabase, "synapse-database", "", "URL of the database of that Synapse; it is only read")
	flags.StringVar(&options.SynapseToken, "synapse-token", "", "access token of a server admin on that Synapse; the pages are of the largest room of the admin")
	file := flags.String("json", "", "file to write the table to, as JSON")
	if err := parse(flags, args); err != nil {
		return err
	}
	for _, number := range []int{options.Events, options.Jobs, options.LargeEvents, options.SmallEvents, options.Rooms, options.Runs, options.SweepRooms} {
		if number < 1 {
			return errors.New("bench: numbers must be positive")
		}
	}
	program, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find the programs: %w", err)
	}
	beside := func(name string) string { return filepath.Join(filepath.Dir(program), name) }
	options.API, options.Scheduler, options.Worker = beside("api"), beside("scheduler"), beside("worker")
	for _, file := range []string{options.API, options.Scheduler, options.Worker} {
		if _, err := os.Stat(file); err != nil {
			return fmt.Errorf("a program is not in the directory of lethe; make build puts all programs into bin/: %w", err)
		}
	}
	table, err := bench.Run(ctx, options)
	if err != nil {
		return err
	}
	if *file != "" {
		text, err := json.MarshalIndent(table, "", "\t")
		if err != nil {
			return fmt.Errorf("write the table: %w", err)
		}
		if err := os.WriteFile(*file, append(text, '\n'), 0o644); err != nil {
			return fmt.Errorf("write the table: %w", err)
		}
	}
	return table.Print(os.Stdout)
}
