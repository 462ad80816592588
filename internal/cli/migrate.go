package cli

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"lethe/internal/command"
	"lethe/internal/config"
	"lethe/internal/store/migrate"
)

func (a *app) migrate() *cobra.Command {
	var embedded, newID, sameID bool
	var holds string
	var down int64
	c := &cobra.Command{
		Use:   "migrate",
		Short: "create or update Lethe's tables, or go back to an older version",
		Long: `Creates or updates Lethe's tables in the database LETHE_DATABASE_URL. Jobs and holds stay.

With --down it goes back to an older version of the tables, so that an older Lethe can use
them: the number is that of the last migration which that Lethe knows. It is refused while
processes run, and while rooms are held unless --holds names a file in which lethe hold
export has written the holds: an older Lethe may not know them.

The names of Lethe's keys and queues in Redis have an id, which the database keeps. In a
database that was copied or restored, or whose server was upgraded, no process starts before
--new-id or --same-id. With --new-id it is a deployment of its own, beside the original.
With --same-id it takes the place of the original, which is not used any more.`,
		Example: `  lethe migrate
  lethe migrate --new-id
  lethe hold export holds.json && lethe migrate --down 11 --holds holds.json`,
		Args: command.NoArguments,
	}
	flags := c.Flags()
	flags.BoolVar(&embedded, "embedded", false, "also create Synapse's tables in an empty database")
	flags.Int64Var(&down, "down", 0, "go back to this `version` of the tables")
	flags.BoolVar(&newID, "new-id", false, "make this database, a copy, a deployment of its own")
	flags.BoolVar(&sameID, "same-id", false, "let this database take the place of the one that it was copied from")
	flags.StringVar(&holds, "holds", "", "with --down: the `file` of lethe hold export")
	c.RunE = func(c *cobra.Command, _ []string) error {
		back := flags.Changed("down")
		if holds != "" && !back {
			return command.Usage("--holds needs --down")
		}
		if embedded && back {
			return command.Usage("--embedded and --down cannot be together")
		}
		if (newID || sameID) && back || newID && sameID {
			return command.Usage("--new-id, --same-id and --down cannot be together")
		}
		exported, err := exportedHolds(holds)
		if err != nil {
			return err
		}
		settings, err := config.Load(a.environ, config.ForDatabase)
		if err != nil {
			return err
		}
		url := string(settings.Database.URL)
		if back {
			err := migrate.Down(c.Context(), url, down, migrate.Leaving{Exported: exported})
			if err != nil {
				return leavingError(err)
			}
			_, err = fmt.Fprintf(c.OutOrStdout(), "the schema is version %d\n", down)
			return err
		}
		do := migrate.Up
		if embedded {
			do = migrate.UpEmbedded
		}
		if err := do(c.Context(), url); err != nil {
			return err
		}
		if _, err := fmt.Fprintln(c.OutOrStdout(), "the schema is that of this version"); err != nil {
			return err
		}
		switch {
		case newID:
			err = migrate.NewID(c.Context(), url)
		case sameID:
			err = migrate.SameID(c.Context(), url)
		}
		if err != nil {
			return leavingError(err)
		}
		id, err := migrate.IDOf(c.Context(), url)
		if errors.Is(err, migrate.ErrCopied) {
			return refused("%w", err)
		} else if err != nil {
			return err
		}
		_, err = fmt.Fprintf(c.OutOrStdout(), "the deployment is %s\n", id)
		return err
	}
	return c
}

func (a *app) uninstall() *cobra.Command {
	var holds string
	var abandon, yes bool
	c := &cobra.Command{
		Use:   "uninstall",
		Short: "remove Lethe's tables from the database",
		Long: `Removes the schema lethe from the database LETHE_DATABASE_URL: the record of all jobs, and
all holds. The homeserver's tables stay as they are.

It is refused while processes run, while jobs have not ended, and while rooms are held
unless --holds names a file in which lethe hold export has written the holds. Without --yes
it only says whether it would be refused.`,
		Example: `  lethe uninstall
  lethe hold export holds.json && lethe uninstall --holds holds.json --yes`,
		Args: command.NoArguments,
	}
	c.Flags().StringVar(&holds, "holds", "", "the `file` of lethe hold export")
	c.Flags().BoolVar(&abandon, "abandon-jobs", false, "also remove jobs that have not ended")
	c.Flags().BoolVar(&yes, "yes", false, "remove the tables")
	c.RunE = func(c *cobra.Command, _ []string) error {
		exported, err := exportedHolds(holds)
		if err != nil {
			return err
		}
		settings, err := config.Load(a.environ, config.ForDatabase)
		if err != nil {
			return err
		}
		leaving := migrate.Leaving{Exported: exported, AbandonJobs: abandon}
		if !yes {
			if err := migrate.CheckUninstall(c.Context(), string(settings.Database.URL), leaving); err != nil {
				return leavingError(err)
			}
			return refused("nothing was removed: --yes removes the schema lethe, with the record of all jobs and holds")
		}
		prefix := "lethe:"
		// There may be no schema, or that of an older version.
		if id, _ := migrate.IDOf(c.Context(), string(settings.Database.URL)); id != "" {
			prefix += id + ":"
		}
		if err := migrate.Uninstall(c.Context(), string(settings.Database.URL), leaving); err != nil {
			return leavingError(err)
		}
		_, err = fmt.Fprintln(c.OutOrStdout(), "the schema lethe is removed; keys of Lethe in Redis begin with "+prefix+" and asynq:{"+prefix)
		return err
	}
	return c
}

// leavingError returns the error with its exit status, and what to do.
func leavingError(err error) error {
	switch {
	case errors.Is(err, migrate.ErrHolds):
		return refused("%w: write them to a file with lethe hold export, and name it with --holds", err)
	case errors.Is(err, migrate.ErrInUse):
		return refused("%w", err)
	case errors.Is(err, migrate.ErrVersion):
		return command.Usage("--down: %w", err)
	}
	return err
}
