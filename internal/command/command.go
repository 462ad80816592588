package command

import (
	"context"
	"errors"
	"fmt"
	"os/signal"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"lethe/internal/terminal"
	"lethe/internal/version"
)

// Run runs the command that the arguments name, below the root or the root itself. It
// prints an error on stderr, after "lethe:" whatever the program is called, and returns the exit status. The streams are those of the
// root.
func Run(ctx context.Context, root *cobra.Command, args []string, old OldFlags) int {
	Prepare(root)
	args, warnings := old.rewrite(root, args)
	for _, warning := range warnings {
		_, _ = fmt.Fprintf(root.ErrOrStderr(), "lethe: %s\n", warning)
	}
	root.SetArgs(args)
	ran, err := root.ExecuteContextC(ctx)
	if err == nil {
		return Done
	}
	if strings.HasPrefix(err.Error(), "unknown command ") && Status(err) == Failed { // of the root: cobra has no type for it
		err = Usage("%w", err)
	}
	var decided *StatusError
	if !errors.As(err, &decided) || decided.Err != nil {
		_, _ = fmt.Fprintf(root.ErrOrStderr(), "lethe: %s\n", terminal.Lines(err.Error()))
	}
	if Status(err) == BadUsage && (decided == nil || decided.Err != nil) {
		_, _ = fmt.Fprintf(root.ErrOrStderr(), "%s --help explains the command.\n", ran.CommandPath())
	}
	return Status(err)
}

// Main is [Run] for the main function of a program: it stops the command with SIGTERM or
// SIGINT. A second signal ends the process at once.
func Main(root *cobra.Command, args []string, old OldFlags) int {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	context.AfterFunc(ctx, stop)
	return Run(ctx, root, args, old)
}

// Prepare gives a root and all its commands what they have in common. [Run] does so
// itself. A second call does nothing more.
func Prepare(root *cobra.Command) {
	if root.HasSubCommands() {
		addStandard(root)
	}
	root.SilenceErrors, root.SilenceUsage = true, true
	root.Version = version.Of().Version
	root.SetVersionTemplate(version.Of().Line(root.Name()) + "\n")
	each(root, func(command *cobra.Command) {
		command.Version = root.Version
		command.SuggestionsMinimumDistance = 2
		command.DisableFlagsInUseLine = true
		command.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return Usage("%w", err) })
		if arguments := command.Args; arguments != nil {
			command.Args = func(command *cobra.Command, args []string) error {
				if err := arguments(command, args); err != nil {
					return Usage("%w", err)
				}
				return nil
			}
		}
	})
}

// addStandard adds the commands that cobra has for every program, with examples. The
// streams of the root must be set, because the completion writes to them.
func addStandard(root *cobra.Command) {
	root.InitDefaultHelpCmd()
	root.InitDefaultCompletionCmd()
	for _, c := range root.Commands() {
		switch c.Name() {
		case "help":
			c.Example = fmt.Sprintf("  %s help completion", root.Name())
			c.Run = nil // it would succeed for a word that it does not know
			c.RunE = func(_ *cobra.Command, args []string) error {
				found, rest, err := root.Find(args)
				if err != nil || len(rest) > 0 {
					return Usage("there is no command %q", strings.Join(args, " "))
				}
				found.InitDefaultHelpFlag()
				return found.Help()
			}
		case "completion":
			Group(c)
			c.Example = fmt.Sprintf("  %s completion bash > /etc/bash_completion.d/%[1]s", root.Name())
			for _, shell := range c.Commands() {
				shell.Example = fmt.Sprintf("  %s completion %s > %[1]s.completion", root.Name(), shell.Name())
			}
		}
	}
}

// each calls do for a command and all commands below it.
func each(command *cobra.Command, do func(*cobra.Command)) {
	do(command)
	for _, below := range command.Commands() {
		each(below, do)
	}
}

// Group makes a command that only has commands below it. Without a word it prints its
// help and fails, and an unknown word is named.
func Group(group *cobra.Command) *cobra.Command {
	group.Args = func(group *cobra.Command, args []string) error {
		if len(args) == 0 {
			return nil
		}
		similar := ""
		if words := group.SuggestionsFor(args[0]); len(words) > 0 {
			similar = ": did you mean " + strings.Join(words, " or ") + "?"
		}
		return fmt.Errorf("unknown command %q for %q%s", args[0], group.CommandPath(), similar)
	}
	group.RunE = func(group *cobra.Command, _ []string) error {
		group.SetOut(group.ErrOrStderr())
		if err := group.Help(); err != nil {
			return err
		}
		return &StatusError{Status: BadUsage}
	}
	return group
}

// NoArguments refuses arguments, and names the first one.
func NoArguments(command *cobra.Command, args []string) error {
	if len(args) > 0 {
		return fmt.Errorf("%s takes no argument %q", command.CommandPath(), args[0])
	}
	return nil
}

// Arguments requires one argument for each name, and says which one is missing.
func Arguments(names ...string) cobra.PositionalArgs {
	return func(command *cobra.Command, args []string) error {
		switch {
		case len(args) < len(names):
			return fmt.Errorf("%s needs %s", command.CommandPath(), names[len(args)])
		case len(args) > len(names):
			return fmt.Errorf("%s takes no argument %q", command.CommandPath(), args[len(names)])
		}
		return nil
	}
}
