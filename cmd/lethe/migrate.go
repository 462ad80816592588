package main

import (
	"context"
	"flag"
	"fmt"
	"os"

	"lethe/internal/config"
	"lethe/internal/store"
)

// migrate updates the schema of a database to the version of this program.
func migrate(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("migrate", flag.ContinueOnError)
	embedded := flags.Bool("embedded", false, "also create Synapse's tables in an empty database")
	if err := parse(flags, args); err != nil {
		return err
	}
	settings, err := config.Load(os.Environ(), config.ForDatabase)
	if err != nil {
		return err
	}
	do := store.Migrate
	if *embedded {
		do = store.MigrateEmbedded
	}
	if err := do(ctx, string(settings.Database.URL)); err != nil {
		return err
	}
	fmt.Println("the schema is up to date")
	return nil
}
