// Command lethe is the operator's tool: it tries Lethe out and prepares
// databases.
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

	lethe dev [-listen host:port]   everything in one process, with demo rooms
	lethe migrate [-embedded]       bring the schema lethe of LETHE_DATABASE_URL to this version;
	                                with -embedded make Synapse's tables in an empty database too
	lethe demo                      make Synapse's tables, an admin and three rooms in the empty database
	                                of LETHE_DATABASE_URL, on the server LETHE_SERVER_NAME
	lethe probe url                 ask a process, such as http://127.0.0.1:8470/readyz, and fail unless
	                                the answer is 200
	lethe doctor                    what keeps Lethe from working, or from working fast, with the
	                                LETHE_ settings there are, and what to do
	lethe bench [-events n] [-runs n] [-case name] [-json file] [-dump file | -database url]
	                                measure purges against plain SQL, on rooms and a server of its own;
	                                -h lists more
`

// errUsage ends the process with status 2, after the usage was shown.
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

func run(ctx context.Context, args []string) error {
	commands := map[string]func(context.Context, []string) error{
		"bench": measure, "demo": demo, "dev": dev, "doctor": examine, "migrate": migrate, "probe": probe,
	}
	if len(args) > 0 && commands[args[0]] != nil {
		return commands[args[0]](ctx, args[1:])
	}
	fmt.Fprint(os.Stderr, usage)
	return errUsage
}

// parse parses a command's flags; it takes no other arguments.
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
