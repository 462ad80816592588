package cli

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"lethe/internal/bench"
	"lethe/internal/bench/gobench"
	"lethe/internal/command"
)

func (a *app) bench() *cobra.Command {
	var options bench.Options
	var files gobench.Files
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
			for name := range strings.SplitSeq(options.Case, ",") {
				if options.Case != "" && !slices.Contains(bench.Cases(), name) {
					return command.Usage("--case: there is no case %q: use one of %s", name, strings.Join(bench.Cases(), ", "))
				}
			}
			options.Progress = c.ErrOrStderr()
			return measure(c.Context(), c.OutOrStdout(), options, files)
		},
	}
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	options.RegisterFlags(flags)
	c.Flags().AddGoFlagSet(flags)
	c.Flags().StringVar(&files.JSON, "json", "", "`file` to write the table to, as JSON")
	c.Flags().StringVar(&files.Go, "go", "", "`file` to write each value to, in the format of Go's benchmarks, for benchstat")
	completes(c, "case", bench.Cases()...)
	return c
}

// measure runs the benchmark, writes its table to the files, and prints it.
func measure(ctx context.Context, out io.Writer, options bench.Options, files gobench.Files) error {
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
	if err := files.Write(table); err != nil {
		return err
	}
	return table.Print(out)
}
