package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"

	"lethe/internal/bench"
)

// measure runs the benchmark and prints its table.
func measure(ctx context.Context, args []string) error {
	options := bench.Options{Progress: os.Stderr}
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	options.RegisterFlags(flags)
	file := flags.String("json", "", "file to write the table to, as JSON")
	if err := parse(flags, args); err != nil {
		return err
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
