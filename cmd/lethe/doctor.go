package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"os"

	"lethe/internal/config"
	"lethe/internal/doctor"
	"lethe/internal/matrix"
	"lethe/internal/observe"
	"lethe/internal/schema"
	"lethe/internal/store/checkup"
	"lethe/internal/store/postgres"
)

var errUnhealthy = errors.New("Lethe cannot work until the problems marked MEND are solved")

// maxRoleName is the greatest length of a role's name, in bytes.
const maxRoleName = 63

// examine checks the servers and prints the report.
func examine(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("doctor", flag.ContinueOnError)
	deep := flags.Bool("deep", false, "also compare each index that purges use with its table, which reads all of these")
	left := flags.String("left", "", "also scan all tables for rows that the deleted `room` has left, which may read all of them")
	process := flags.String("for", "", "check what this `process` alone needs: api, worker, scheduler or asynqmon")
	role := flags.String("role", "", "print the privileges that this `role` lacks, instead of the role of LETHE_DATABASE_URL")
	if err := parse(flags, args); err != nil {
		return err
	}
	given := map[string]bool{}
	flags.Visit(func(f *flag.Flag) { given[f.Name] = true })
	examined := checkup.Role{Name: *role, Processes: doctor.Processes()}
	if given["for"] {
		one, err := schema.ParseProcess(*process)
		if err != nil {
			return fmt.Errorf("-for: %w", err)
		}
		examined.Processes = []schema.Process{one}
	}
	if given["role"] && (*role == "" || len(*role) > maxRoleName || !postgres.Storable(*role)) {
		return fmt.Errorf("-role must be the name of a role, with 1 to %d bytes", maxRoleName)
	}
	named := given["left"]
	if named && !matrix.ValidRoomID(*left) {
		return errors.New("-left must be the id of a room, such as !abc:example.org")
	}
	settings, err := config.Load(os.Environ(), config.ForDatabase)
	if err != nil {
		return err
	}
	observe.SetRedisLogger(slog.New(slog.DiscardHandler)) // the report has the errors
	report := doctor.Examine(ctx, settings, examined)
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
