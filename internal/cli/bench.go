package cli

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"lethe/internal/bench"
	"lethe/internal/command"
)

func (a *app) bench() *cobra.Command {
	var options bench.Options
	var file string
	c := &cobra.Command{
		Use:   "bench",
		Short: "measure Lethe on its own servers and rooms",
		Long: `Measures Lethe on a PostgreSQL and a Redis of its own, and prints a table. The programs
api, worker and scheduler, or links to lethe with these names, must be in the same
directory as lethe.`,
		Example: `  lethe bench --case purge --events 100000 --runs 1
  lethe bench --json bench.json --dump synapse.dump`,
		Args: command.NoArguments,
		RunE: func(c *cobra.Command, _ []string) error {
			if options.Case != "" && !slices.Contains(bench.Cases(), options.Case) {
				return command.Usage("--case: there is no case %q: use one of %s", options.Case, strings.Join(bench.Cases(), ", "))
			}
			options.Progress = c.ErrOrStderr()
			return measure(c.Context(), c.OutOrStdout(), options, file)
		},
	}
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	options.RegisterFlags(flags)
	c.Flags().AddGoFlagSet(flags)
	c.Flags().StringVar(&file, "json", "", "`file` to write the table to, as JSON")
	completes(c, "case", bench.Cases()...)
	return c
}

// measure runs the benchmark, prints its table, and writes it to the file unless that is
// "".
func measure(ctx context.Context, out io.Writer, options bench.Options, file string) error {
	program, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find the programs: %w", err)
	}
	beside := func(name string) string { return filepath.Join(filepath.Dir(program), name) }
	options.API, options.Scheduler, options.Worker = beside("api"), beside("scheduler"), beside("worker")
	for _, program := range []string{options.API, options.Scheduler, options.Worker} {
		if _, err := os.Stat(program); err != nil {
			return fmt.Errorf("a program is not in the directory of lethe; make build puts all programs into bin/: %w", err)
		}
	}
	table, err := bench.Run(ctx, options)
	if err != nil {
		return err
	}
	if file != "" {
		text, err := json.MarshalIndent(table, "", "\t")
		if err != nil {
			return fmt.Errorf("write the table: %w", err)
		}
		if err := os.WriteFile(file, append(text, '\n'), 0o644); err != nil {
			return fmt.Errorf("write the table: %w", err)
		}
	}
	return table.Print(out)
}
