package cli

import (
	"io"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"lethe/internal/command"
	"lethe/internal/launch"
	"lethe/internal/version"
)

// oldFlags are the flags with a single dash that lethe took before it had two.
var oldFlags = command.OldFlags{
	"bench": {
		"case", "database", "dir", "dump", "events", "jobs", "json", "large", "rooms", "runs", "small", "sweep-rooms",
		"synapse", "synapse-database", "synapse-token",
	},
	"dev":          {"listen"},
	"doctor":       {"deep", "for", "left", "role"},
	"hold list":    {"all"},
	"hold place":   {"by", "reason", "room"},
	"hold release": {"by", "room"},
	"migrate":      {"embedded"},
	"scheduler":    launch.OldFlags["scheduler"],
}

// Main is the main function of lethe. The arguments begin with the name by which it was
// called: if that is api, worker or scheduler, it runs that process. Main returns the
// exit status.
func Main(args []string) int {
	if len(args) > 0 {
		if name := launch.NameOf(args[0]); name != "" {
			return launch.Main(name)
		}
		args = args[1:]
	}
	return command.Main(New(os.Environ(), nil), joined(args), oldFlags)
}

// joined returns the arguments with a URL that follows --database as its value, and with
// a --database before the command after it. Without a URL the flag has no value, so it
// must be one word with the URL, and the word after it could be a command.
func joined(args []string) []string {
	var words []string
	for _, arg := range args {
		if n := len(words); isConnection(arg) && n > 0 && words[n-1] == "--database" {
			words[n-1] += "=" + arg
			continue
		}
		words = append(words, arg)
	}
	if n := len(words); n > 1 && (words[0] == "--database" || strings.HasPrefix(words[0], "--database=")) && !slices.Contains(words, "--") {
		words = append(words[1:n:n], words[0])
	}
	return words
}

// An app is what the commands share.
type app struct {
	environ []string
	local   LocalAPI
}

// New returns the command lethe, for an environment as [os.Environ] returns it. local
// opens the API in the process, for --database. It defaults to the API of this program.
func New(environ []string, local LocalAPI) *cobra.Command {
	if local == nil {
		local = openLocalAPI
	}
	a := &app{environ: environ, local: local}
	root := command.Group(&cobra.Command{
		Use:   "lethe",
		Short: "purge, delete and hold rooms of a Matrix homeserver",
		Long: `lethe purges, deletes and holds rooms of a Matrix homeserver.

The commands for jobs, rooms, holds and the fleet ask the API at LETHE_API_URL, with the
access token of a server admin in LETHE_TOKEN, or in the file that LETHE_TOKEN_FILE names.
With --database they work on the database that the LETHE_ settings name: this needs no
access token and no running Synapse.

Exit status: 0 done, 1 failed, 2 wrong usage, 3 refused, 4 timed out.`,
		Example: `  lethe plan purge '!abc:example.org' --before 90d
  lethe purge '!abc:example.org' --before 90d --wait
  lethe job watch`,
	})
	root.AddGroup(
		&cobra.Group{ID: "rooms", Title: "Jobs and rooms:"},
		&cobra.Group{ID: "install", Title: "Install and check:"},
		&cobra.Group{ID: "run", Title: "Run:"},
	)
	for group, commands := range map[string][]*cobra.Command{
		"rooms":   {a.job(), a.plan(), a.purge(), a.delete(), a.sweep(), a.room(), a.hold(), a.fleet(), a.brake()},
		"install": {a.migrate(), a.uninstall(), a.doctor(), a.probe(), a.version()},
		"run":     append(launch.Commands(), a.dev(), a.demo(), a.bench()),
	} {
		for _, c := range commands {
			c.GroupID = group
			root.AddCommand(c)
		}
	}
	printsFailures(root.Commands())
	return root
}

func (a *app) version() *cobra.Command {
	c := &cobra.Command{
		Use:   "version",
		Short: "print the version and the revision",
		Long:  `Prints the version of this program and the revision that it was built from.`,
		Example: `  lethe version
  lethe version --output json`,
		Args: command.NoArguments,
		RunE: func(c *cobra.Command, _ []string) error {
			return print(c, version.Of(), func(w io.Writer) error {
				_, err := io.WriteString(w, version.Of().Line("lethe")+"\n")
				return err
			})
		},
	}
	addOutput(c)
	return c
}

// completes makes the shell complete the values of a flag.
func completes(c *cobra.Command, flag string, values ...string) {
	_ = c.RegisterFlagCompletionFunc(flag, cobra.FixedCompletions(values, cobra.ShellCompDirectiveNoFileComp)) // fails only if it is registered twice
}
