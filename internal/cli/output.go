package cli

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"lethe/internal/command"
	"lethe/internal/output"
	"lethe/internal/terminal"
)

// formats are the values of --output.
var formats = []string{"table", "json", "yaml"}

// A format is the value of --output. It implements pflag.Value, so that a wrong one is
// refused before anything is done.
type format string

func (f *format) String() string { return string(*f) }
func (f *format) Type() string   { return "format" }
func (f *format) Set(text string) error {
	if !slices.Contains(formats, text) {
		return fmt.Errorf("must be one of %s", strings.Join(formats, ", "))
	}
	*f = format(text)
	return nil
}

// addOutput adds the flag --output to a command and those below it.
func addOutput(c *cobra.Command) {
	f := format("table")
	c.PersistentFlags().VarP(&f, "output", "o", "table, json or yaml; the last two print one document on stdout")
	completes(c, "output", formats...)
}

// formatOf returns the value of --output.
func formatOf(c *cobra.Command) string { return c.Flag("output").Value.String() }

// print prints the document on stdout: as --output says, or with table.
func print(c *cobra.Command, document any, table func(io.Writer) error) error {
	out := c.OutOrStdout()
	if formatOf(c) == "table" {
		return table(out)
	}
	text, err := output.Encode(document, formatOf(c))
	if err != nil {
		return fmt.Errorf("print the answer: %w", err)
	}
	c.Annotations = map[string]string{printed: "yes"}
	_, err = out.Write(text)
	return err
}

// printed is the annotation of a command that has printed its document.
const printed = "printed"

// printsFailures makes the commands print a document also if they fail before they have
// printed one, so that a program that reads it always finds one.
func printsFailures(commands []*cobra.Command) {
	for _, c := range commands {
		printsFailures(c.Commands())
		run := c.RunE
		if run == nil {
			continue
		}
		c.RunE = func(c *cobra.Command, args []string) error {
			err := run(c, args)
			if err != nil && c.Flag("output") != nil && formatOf(c) != "table" && c.Annotations[printed] == "" {
				failure := map[string]any{"error": err.Error(), "status": command.Status(err)}
				err = errors.Join(err, print(c, failure, nil))
			}
			return err
		}
	}
}

// warn prints a line on stderr.
func warn(c *cobra.Command, text string, args ...any) {
	_, _ = fmt.Fprintf(c.ErrOrStderr(), "lethe: %s\n", terminal.Text(fmt.Sprintf(text, args...)))
}

// refused returns an error with the status of a refusal.
func refused(format string, args ...any) error {
	return &command.StatusError{Status: command.Refused, Err: fmt.Errorf(format, args...)}
}
