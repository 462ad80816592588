package main

import (
	"context"
	"flag"
	"fmt"
	"os"

	"lethe/internal/config"
	"lethe/internal/store/migrate"
)

// migrateSchema updates the schema of a database to the version of this program.
func migrateSchema(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("migrate", flag.ContinueOnError)
	embedded := flags.Bool("embedded", false, "also create Synapse's tables in an empty database")
	if err := parse(flags, args); err != nil {
		return err
	}
	settings, err := config.Load(os.Environ(), config.ForDatabase)
	if err != nil {
		return err
	}
	do := migrate.Up
	if *embedded {
		do = migrate.UpEmbedded
	}
	if err := do(ctx, string(settings.Database.URL)); err != nil {
		return err
	}
	fmt.Println("the schema is that of this version")
	return nil
}
