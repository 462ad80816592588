package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/user"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"lethe/internal/config"
	"lethe/internal/matrix"
	"lethe/internal/store/journal"
	"lethe/internal/store/migrate"
	"lethe/internal/store/postgres"
)

// hold places, releases or lists holds.
func hold(ctx context.Context, args []string) error {
	verb := ""
	if len(args) > 0 {
		verb, args = args[0], args[1:]
	}
	flags := flag.NewFlagSet("hold "+verb, flag.ContinueOnError)
	room := flags.String("room", "", "the room's id")
	reason := flags.String("reason", "", "why nothing may be deleted from the room")
	by := flags.String("by", userName(), "who places or releases the hold")
	all := flags.Bool("all", false, "also list holds that were released")
	if err := parse(flags, args); err != nil {
		return err
	}
	switch {
	case verb != "place" && verb != "release" && verb != "list":
		return errors.New("the word after hold must be place, release or list")
	case verb != "list" && !matrix.ValidRoomID(*room):
		return errors.New("-room must be the id of a room, such as !abc:example.org")
	case verb != "list" && *by == "":
		return errors.New("-by must name a person")
	case verb == "place" && *reason == "":
		return errors.New("-reason must not be empty")
	}
	settings, err := config.Load(os.Environ(), config.ForDatabase)
	if err != nil {
		return err
	}
	db, err := postgres.Open(ctx, string(settings.Database.URL), postgres.Options{ApplicationName: "lethe hold", MaxConnections: 2})
	if err != nil {
		return err
	}
	defer db.Close()
	if err := migrate.CheckSchema(ctx, db); err != nil {
		return err
	}
	rooms, holds := journal.NewHolds(db), make([]journal.Hold, 1)
	switch verb {
	case "list":
		holds, err = rooms.List(ctx, *all, 10_000)
	case "place":
		if holds[0], err = rooms.Place(ctx, *room, *reason, *by); errors.Is(err, journal.ErrExists) {
			err = fmt.Errorf("the room is held for another reason: %s", shown(holds[0].Reason))
		}
	case "release":
		holds[0], err = rooms.Release(ctx, *room, *by)
	}
	if err != nil {
		return err
	}
	return printHolds(holds)
}

// printHolds prints holds as a table, with times in UTC.
func printHolds(holds []journal.Hold) error {
	table := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	_, _ = fmt.Fprintln(table, "ROOM\tPLACED\tBY\tRELEASED\tBY\tREASON") // Flush returns its error
	at := func(t time.Time) string { return t.UTC().Format(time.DateTime) }
	for _, h := range holds {
		released, by := "-", "-"
		if !h.ReleasedAt.IsZero() {
			released, by = at(h.ReleasedAt), h.ReleasedBy
		}
		_, _ = fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\t%s\n",
			shown(h.Room), at(h.PlacedAt), shown(h.PlacedBy), released, shown(by), shown(h.Reason))
	}
	return table.Flush()
}

// shown returns a text that is safe to print on a terminal.
func shown(text string) string { return strings.Trim(strconv.QuoteToGraphic(text), `"`) }

// userName returns the name of the user who runs the command, "" if it is not
// known.
func userName() string {
	if current, err := user.Current(); err == nil {
		return current.Username
	}
	return ""
}
