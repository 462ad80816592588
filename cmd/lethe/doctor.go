package main

import (
	"context"
	"errors"
	"flag"
	"log/slog"
	"os"

	"lethe/internal/config"
	"lethe/internal/doctor"
	"lethe/internal/observe"
)

var errUnhealthy = errors.New("Lethe cannot work before what is marked MEND is mended")

// examine looks at the servers and prints what it finds.
func examine(ctx context.Context, args []string) error {
	if err := parse(flag.NewFlagSet("doctor", flag.ContinueOnError), args); err != nil {
		return err
	}
	settings, err := config.Load(os.Environ(), config.ForDatabase)
	if err != nil {
		return err
	}
	observe.SetRedisLogger(slog.New(slog.DiscardHandler)) // what matters is in the report
	report := doctor.Examine(ctx, settings)
	if err := report.Print(os.Stdout); err != nil {
		return err
	}
	if !report.Healthy() {
		return errUnhealthy
	}
	return nil
}
