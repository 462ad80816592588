// Command lethe is the operator's tool. It prepares databases, checks the servers,
// holds rooms, measures Lethe, and starts a Lethe to try.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"
)

const usage = `lethe forgets rooms.

	lethe dev [-listen host:port]   run everything in one process, with demo rooms
	lethe migrate [-embedded]       create or update Lethe's tables in the database LETHE_DATABASE_URL;
	                                with -embedded, also create Synapse's tables in an empty database
	lethe demo                      create Synapse's tables, an admin and three rooms in the empty
	                                database LETHE_DATABASE_URL, for the server LETHE_SERVER_NAME
	lethe probe url                 request a URL, such as http://127.0.0.1:8470/readyz, and fail unless
	                                the status is 200
	lethe doctor [-for process] [-role name] [-deep] [-left room]
	                                check the servers that the LETHE_ settings name: what keeps Lethe
	                                from working, or from working fast, and what to do;
	                                with -for, only what api, worker, scheduler or asynqmon needs;
	                                with -role, print the privileges that this role lacks;
	                                with -deep, also compare each index with its table;
	                                with -left, also scan all tables for rows of a deleted room
	lethe hold place -room id -reason text [-by name]
	                                make sure that nothing is deleted from a room
	lethe hold release -room id [-by name]
	                                allow deletes from the room again
	lethe hold list [-all]          list the rooms that are held
	lethe bench [-events n] [-runs n] [-case name] [-json file] [-dump file | -database url]
	                                measure Lethe on its own servers and rooms; -h lists more flags
`

// errUsage ends the process with status 2. The usage has been printed.
var errUsage = errors.New("usage")

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	context.AfterFunc(ctx, stop) // a second signal ends the process at once
	switch err := run(ctx, os.Args[1:]); {
	case errors.Is(err, errUsage):
		os.Exit(2)
	case err != nil:
		fmt.Fprintln(os.Stderr, "lethe:", err)
		os.Exit(1)
	}
}

// run runs the command that the first argument names.
func run(ctx context.Context, args []string) error {
	commands := map[string]func(context.Context, []string) error{
		"bench": measure, "demo": demo, "dev": dev, "doctor": examine, "hold": hold, "migrate": migrateSchema, "probe": probe,
	}
	if len(args) > 0 && commands[args[0]] != nil {
		return commands[args[0]](ctx, args[1:])
	}
	fmt.Fprint(os.Stderr, usage)
	return errUsage
}

// parse parses the flags of a command that takes no other arguments.
func parse(flags *flag.FlagSet, args []string) error {
	if err := flags.Parse(args); err != nil {
		return errUsage
	}
	if flags.NArg() > 0 {
		fmt.Fprintf(os.Stderr, "lethe %s takes no argument %q\n", flags.Name(), flags.Arg(0))
		return errUsage
	}
	return nil
}
