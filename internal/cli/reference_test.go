package cli

import (
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"github.com/stretchr/testify/require"

	"lethe/internal/command"
	"lethe/internal/config"
	"lethe/internal/roomgen"
)

var update = flag.Bool("update", false, "write docs/cli.md")

const referenceFile = "../../docs/cli.md"

const referenceHead = `# The command line

<!-- Written by "make docs" from the commands in internal/cli. A test fails when this file is stale. -->

` + "`lethe`" + ` is one program. Called as ` + "`api`, `worker` or `scheduler`" + `, for example through a link, it is that process, and
so it is as ` + "`lethe api`" + `. Flags have two dashes. The single-dash forms of earlier versions, such as ` + "`-listen`" + `, still work
and print a warning. A later version refuses them.

## Where it works

| what is set | where commands for jobs, rooms, holds and the fleet work |
|---|---|
| ` + "`LETHE_API_URL`, and `LETHE_TOKEN` or `LETHE_TOKEN_FILE`" + ` | over the API, with the access token of a server admin |
| ` + "`--database`" + ` | on the database of Lethe's [settings](configuration.md), without an access token and without Synapse |
| ` + "`--database=URL`" + ` | the same, on another database; other users of the machine can see the URL, so put no password in it |

` + "`lethe hold`" + ` works on the database too if neither is set, but Lethe's settings are.

## Output

` + "`--output json`, `yaml` or `table`" + ` decides what is on stdout. JSON and YAML are exactly one document, with ` + "`--wait`" + ` at the
end. A command that fails without one prints its ` + "`error`" + ` and its exit ` + "`status`" + `. An unknown command or flag prints
only on stderr, where progress and warnings go too. Times in documents are in Unix milliseconds, times in tables in UTC.
Characters that cannot be seen are escaped.

## Exit status

| status | meaning |
|---|---|
| 0 | done |
| 1 | failed, also a job that was waited for |
| 2 | the command line is wrong; nothing was done |
| 3 | refused: the room is held, the job has ended, or the room has changed since the plan |
| 4 | timed out; a job goes on |

A command for several jobs goes on after one that is unknown or refuses, names each of these on stderr, and ends with the
highest status.

## Times

A time is a date (` + "`2026-01-31`" + `), a date with a time (` + "`2026-01-31T12:00:00Z`" + `), Unix milliseconds, or a duration from now
(` + "`90d`, `12h`, `30m`" + `). Without a zone it is in UTC.
`

// TestReference compares docs/cli.md with the commands.
func TestReference(t *testing.T) {
	t.Parallel()
	root := New(nil, nil)
	command.Prepare(root)
	var text strings.Builder
	text.WriteString(referenceHead)
	describe(&text, root)
	if *update {
		require.NoError(t, os.WriteFile(referenceFile, []byte(text.String()), 0o644))
	}
	written, err := os.ReadFile(referenceFile)
	require.NoError(t, err)
	require.Equal(t, text.String(), string(written), "run make docs")
}

// describe writes the section of each command below another one.
func describe(text *strings.Builder, c *cobra.Command) {
	for _, below := range c.Commands() {
		if below.Hidden || below.Name() == "help" {
			continue
		}
		if below.Parent().Name() == "completion" {
			continue // its own help says what to do with it
		}
		mark := "##"
		if below.Parent().HasParent() {
			mark = "###"
		}
		use := strings.TrimSpace(strings.TrimSuffix(below.CommandPath(), below.Name()) + below.Use)
		fmt.Fprintf(text, "\n%s `%s`\n\n", mark, below.CommandPath())
		if below.Name() == "completion" {
			text.WriteString("Prints the script with which bash, zsh, fish or powershell completes commands and flags.\n")
		} else {
			text.WriteString(below.Long + "\n")
		}
		fmt.Fprintf(text, "\n    %s\n", use)
		if below.Example != "" {
			text.WriteString("\nFor example:\n\n")
			for line := range strings.Lines(below.Example + "\n") {
				if line != "\n" {
					text.WriteString("    " + strings.TrimSpace(line) + "\n")
				}
			}
		}
		first := true
		below.LocalFlags().VisitAll(func(f *pflag.Flag) {
			if f.Name == "help" || f.Name == "version" {
				return
			}
			if first {
				text.WriteString("\n| flag | meaning |\n|---|---|\n")
				first = false
			}
			name, usage := pflag.UnquoteUsage(f)
			shown := strings.TrimSpace("--" + f.Name + " " + name)
			if f.DefValue != "" && f.DefValue != "false" && f.DefValue != "0" && f.DefValue != "[]" && f.DefValue != "0s" {
				usage += " (default " + f.DefValue + ")"
			}
			fmt.Fprintf(text, "| `%s` | %s |\n", strings.ReplaceAll(shown, "|", "\\|"), strings.ReplaceAll(usage, "|", "\\|"))
		})
		describe(text, below)
	}
}

// TestStartShowsTheGreeting: docs/start.md has each line of addresses that lethe dev prints.
func TestStartShowsTheGreeting(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile("../../docs/start.md")
	require.NoError(t, err)
	rooms := []roomgen.Summary{{Room: "!a:x"}, {Room: "!b:x"}, {Room: "!c:x"}}
	head, _, _ := strings.Cut(greeting(config.API{}, "token", "postgres://", rooms), "\nRooms:\n")
	labels := 0
	for line := range strings.Lines(head) {
		if label, _, ok := strings.Cut(strings.TrimSpace(line), "  "); ok {
			labels++
			require.Regexp(t, `(?m)^      `+label+`  `, string(page))
		}
	}
	require.Equal(t, 7, labels)
}
