package main

import (
	"context"
	"crypto/rand"
	"errors"
	"flag"
	"fmt"
	"os"

	"lethe/internal/config"
	"lethe/internal/roomgen"
)

// demo creates tables, an admin and rooms to try Lethe on. The database must be empty,
// or created by an earlier demo. demo fails on a database that Synapse created, and
// changes nothing there.
func demo(ctx context.Context, args []string) error {
	if err := parse(flag.NewFlagSet("demo", flag.ContinueOnError), args); err != nil {
		return err
	}
	settings, err := config.Load(os.Environ(), config.ForDatabase)
	if err != nil {
		return err
	}
	if settings.ServerName == "" {
		return errors.New("demo: set LETHE_SERVER_NAME to the name of the server of the rooms, such as " + devServer)
	}
	token := "demo_" + rand.Text()
	rooms, err := populate(ctx, string(settings.Database.URL), settings.ServerName, token)
	if err != nil && !errors.Is(err, roomgen.ErrExists) {
		return err
	}
	for _, room := range rooms {
		fmt.Printf("%-40s %6d events, made by %s\n", room.Room, room.Events, room.Creator)
	}
	fmt.Printf("access token of %s (each run creates a new one): %s\n", adminOf(settings.ServerName), token)
	return nil
}
