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
	flags.StringVar(&options.Database, "database", "", "work on copies of the database of this URL, as a superuser")
	flags.StringVar(&options.Dir, "dir", "", "keep the data of the server that is started below this directory")
	flags.StringVar(&options.Dump, "dump", "", "work on copies of what this file of pg_dump -Fc holds")
	flags.IntVar(&options.Events, "events", 200_000, "events of the room that is purged")
	flags.IntVar(&options.Jobs, "jobs", 2000, "how many tiny purges")
	flags.IntVar(&options.LargeEvents, "large", 500_000, "events of the large room that a worker's memory is measured with")
	flags.IntVar(&options.SmallEvents, "small", 20_000, "events of the small one")
	flags.IntVar(&options.Rooms, "rooms", 10_000, "how many small rooms to delete")
	flags.IntVar(&options.Runs, "runs", 3, "how often everything is measured")
	flags.IntVar(&options.SweepRooms, "sweep-rooms", 100_000, "how many rooms a retention sweep goes through, at least 100")
	flags.StringVar(&options.Synapse, "synapse", "", "read pages from the Synapse at this URL too")
	flags.StringVar(&options.SynapseDatabase, "synapse-database", "", "the URL of its database, which is only read")
	flags.StringVar(&options.SynapseToken, "synapse-token", "", "the access token of a server admin in the room whose pages are read")
	file := flags.String("json", "", "write the table to this file too, as JSON")
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
			return fmt.Errorf("a program is not beside lethe; make build puts all into bin/: %w", err)
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
