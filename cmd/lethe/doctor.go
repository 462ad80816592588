package main

import (
	"context"
	"errors"
	"flag"
	"log/slog"
	"os"

	"lethe/internal/config"
	"lethe/internal/doctor"
	"lethe/internal/matrix"
	"lethe/internal/observe"
)

var errUnhealthy = errors.New("Lethe cannot work until the problems marked MEND are solved")

// examine checks the servers and prints the report.
func examine(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("doctor", flag.ContinueOnError)
	deep := flags.Bool("deep", false, "also compare each index that purges use with its table, which reads all of these")
	left := flags.String("left", "", "also scan all tables for rows that the deleted `room` has left, which may read all of them")
	if err := parse(flags, args); err != nil {
		return err
	}
	named := false
	flags.Visit(func(f *flag.Flag) { named = named || f.Name == "left" })
	if named && !matrix.ValidRoomID(*left) {
		return errors.New("-left must be the id of a room, such as !abc:example.org")
	}
	settings, err := config.Load(os.Environ(), config.ForDatabase)
	if err != nil {
		return err
	}
	observe.SetRedisLogger(slog.New(slog.DiscardHandler)) // the report has the errors
	report := doctor.Examine(ctx, settings)
	if *deep {
		report = append(report, doctor.ExamineDeep(ctx, settings)...)
	}
	if named {
		report = append(report, doctor.ExamineLeft(ctx, settings, *left)...)
	}
	if err := report.Print(os.Stdout); err != nil {
		return err
	}
	if !report.Healthy() {
		return errUnhealthy
	}
	return nil
}
