package command_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/stretchr/testify/require"

	"lethe/internal/command"
)

// A ran is what a command was run with.
type ran struct {
	room, reason string
	deep         bool
	args         []string
}

// run runs a small program, and returns its status, what it was run with, and its stderr.
func run(t *testing.T, fails error, args ...string) (int, ran, string) {
	t.Helper()
	var got ran
	leaf := &cobra.Command{
		Use: "place", Aliases: []string{"put"}, Args: command.Arguments("a room"),
		RunE: func(_ *cobra.Command, args []string) error {
			got.args = args
			return fails
		},
	}
	leaf.Flags().StringVar(&got.reason, "reason", "", "why")
	leaf.Flags().BoolVarP(&got.deep, "deep", "d", false, "deep")
	group := command.Group(&cobra.Command{Use: "hold"})
	group.PersistentFlags().StringVar(&got.room, "room", "", "room")
	group.AddCommand(leaf, &cobra.Command{Use: "list", Args: command.NoArguments, RunE: func(*cobra.Command, []string) error { return fails }})
	root := command.Group(&cobra.Command{Use: "lethe"})
	root.AddCommand(group)
	var stdout, stderr bytes.Buffer
	root.SetOut(&stdout)
	root.SetErr(&stderr)
	status := command.Run(t.Context(), root, args, command.OldFlags{"hold place": {"room", "reason", "deep"}})
	return status, got, stderr.String() + stdout.String()
}

func TestOldFlags(t *testing.T) {
	t.Parallel()
	for line, want := range map[string]struct {
		ran
		warnings int
	}{
		"hold place -room !a -reason why x":          {ran{room: "!a", reason: "why", args: []string{"x"}}, 2},
		"hold place -room=!a x -deep":                {ran{room: "!a", deep: true, args: []string{"x"}}, 2},
		"hold place -deep=false --reason -room x":    {ran{reason: "-room", args: []string{"x"}}, 1},
		"hold place --reason=-deep -d x":             {ran{reason: "-deep", deep: true, args: []string{"x"}}, 0},
		"hold place -- -room":                        {ran{args: []string{"-room"}}, 0},
		"hold place -":                               {ran{args: []string{"-"}}, 0},
		"hold --room -reason place x":                {ran{room: "-reason", args: []string{"x"}}, 0},
		"hold place --room !a --reason why --deep x": {ran{room: "!a", reason: "why", deep: true, args: []string{"x"}}, 0},
		"hold place -reason -deep x":                 {ran{reason: "-deep", args: []string{"x"}}, 1},
	} {
		t.Run(line, func(t *testing.T) {
			t.Parallel()
			status, got, said := run(t, nil, strings.Fields(line)...)
			require.Equal(t, command.Done, status, said)
			require.Equal(t, want.ran, got)
			require.Equal(t, want.warnings, strings.Count(said, "is an old form, which a later version refuses: write --"), said)
			require.Equal(t, want.warnings, strings.Count(said, "\n"))
		})
	}
	// A flag that is new has no old form.
	status, _, _ := run(t, nil, "hold", "list", "-room", "!a")
	require.Equal(t, command.BadUsage, status)
}

func TestWrongWordsAreNamed(t *testing.T) {
	t.Parallel()
	for line, want := range map[string]string{
		"":                        "lethe [command]",
		"frob":                    `unknown command "frob" for "lethe"`,
		"hodl":                    "did you mean hold?",
		"hold":                    "lethe hold [command]",
		"hold plaec":              `unknown command "plaec" for "lethe hold": did you mean place?`,
		"help frob":               `there is no command "frob"`,
		"help hold frob":          `there is no command "hold frob"`,
		"hold list now":           `takes no argument "now"`,
		"hold place":              "needs a room",
		"hold place a b":          `takes no argument "b"`,
		"hold place a --frob":     "unknown flag: --frob",
		"hold place a --deep=may": `"may"`,
		"hold place a -x":         "'x' in -x",
	} {
		t.Run(line, func(t *testing.T) {
			t.Parallel()
			status, got, said := run(t, nil, strings.Fields(line)...)
			require.Equal(t, command.BadUsage, status, said)
			require.Contains(t, said, want)
			require.Nil(t, got.args, "it ran")
		})
	}
	status, _, said := run(t, nil, "help", "hold", "place")
	require.Equal(t, command.Done, status)
	require.Contains(t, said, "--reason string   why")
	for _, line := range []string{"--version", "hold --version", "hold list --version"} {
		status, _, said := run(t, nil, strings.Fields(line)...)
		require.Equal(t, command.Done, status, said)
		require.Regexp(t, `^lethe \S+ \(revision \S+, go1\.`, said)
	}
}

func TestStatus(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		err    error
		status int
		says   string
	}{
		{nil, command.Done, ""},
		{errors.New("away\x1b[2J\nfor long"), command.Failed, "lethe: away\\x1b[2J\nfor long\n"},
		{command.Usage("no %s", "room"), command.BadUsage, "lethe: no room\nlethe hold list --help explains the command.\n"},
		{fmt.Errorf("hold: %w", &command.StatusError{Status: command.Refused, Err: errors.New("held")}), command.Refused, "lethe: hold: held\n"},
		{fmt.Errorf("wait: %w", context.DeadlineExceeded), command.TimedOut, "lethe: wait: context deadline exceeded\n"},
		{&command.StatusError{Status: command.Failed}, command.Failed, ""},
	} {
		status, _, said := run(t, test.err, "hold", "list")
		require.Equal(t, test.status, status)
		require.Equal(t, test.says, said)
	}
}
