package cli

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"lethe/internal/command"
	"lethe/internal/operator"
	"lethe/internal/operator/client"
	"lethe/internal/output"
	"lethe/internal/terminal"
)

// bySettings is the value of a limit that is left to the settings.
const bySettings = "default"

func (a *app) fleet() *cobra.Command {
	c := command.Group(&cobra.Command{
		Use:   "fleet",
		Short: "show, limit and pause all workers",
		Long:  `Shows, limits and pauses what all workers do together.`,
		Example: `  lethe fleet show
  lethe fleet set purge_history --rows-per-second 2000`,
	})
	addConnection(c)
	c.AddCommand(a.fleetShow(), a.fleetSet(), a.fleetPause(), a.fleetResume())
	return c
}

// A fleetDocument is the state of the fleet, with its pauses.
type fleetDocument struct {
	operator.Fleet
	operator.Pauses
}

func (a *app) fleetShow() *cobra.Command {
	return &cobra.Command{
		Use:     "show",
		Short:   "show the workers, the schedulers, the limits and the pauses",
		Long:    `Shows the workers and schedulers, the limits for each kind of job, and the pauses.`,
		Example: `  lethe fleet show --output yaml`,
		Args:    command.NoArguments,
		RunE: a.asks(func(ctx context.Context, c *cobra.Command, api *client.Client, _ []string) error {
			fleet, err := api.Fleet(ctx)
			if err != nil {
				return err
			}
			pauses, err := api.Pauses(ctx)
			if err != nil {
				return err
			}
			return print(c, fleetDocument{fleet, pauses}, func(w io.Writer) error {
				if err := limitTable(w, fleet.Limits...); err != nil {
					return err
				}
				if err := aliveTable(w, []string{"WORKER", "STARTED (UTC)", "JOBS"}, fleet.Workers, func(worker operator.FleetWorker) []string {
					return []string{worker.Name, output.At(worker.Started), fmt.Sprintf("%d of %d", worker.Running, worker.Concurrency)}
				}); err != nil {
					return err
				}
				if err := aliveTable(w, []string{"SCHEDULER", "STARTED (UTC)"}, fleet.Schedulers, func(scheduler operator.FleetScheduler) []string {
					return []string{scheduler.Name, output.At(scheduler.Started)}
				}); err != nil {
					return err
				}
				_, _ = fmt.Fprintln(w) // the table returns its error
				return pauseTable(w, pauses.Pauses...)
			})
		}),
	}
}

// aliveTable prints the processes of a kind that are alive, after an empty line. They are
// nil if they are not known.
func aliveTable[P any](w io.Writer, head []string, alive *[]P, line func(P) []string) error {
	lines := [][]string{{"unknown (needs Redis)"}}
	if alive != nil {
		lines = nil
		for _, process := range *alive {
			lines = append(lines, line(process))
		}
	}
	_, _ = fmt.Fprintln(w) // the table returns its error
	return output.Rows(w, head, lines)
}

func limitTable(w io.Writer, limits ...operator.Limit) error {
	var lines [][]string
	number := func(n *int) string {
		if n == nil {
			return bySettings
		}
		return strconv.Itoa(*n)
	}
	for _, limit := range limits {
		lines = append(lines, []string{limit.Kind, number(limit.RowsPerSecond), number(limit.Jobs), limit.Who, output.At(limit.Set)})
	}
	return output.Rows(w, []string{"KIND", "ROWS PER SECOND", "JOBS AT A TIME", "SET BY", "SET (UTC)"}, lines)
}

func pauseTable(w io.Writer, pauses ...operator.Pause) error {
	var lines [][]string
	for _, pause := range pauses {
		until := output.At(pause.Until)
		if until == "" {
			until = "resumed"
		}
		lines = append(lines, []string{pause.Scope, pause.Value, output.At(pause.Set), pause.Who, until, pause.Reason})
	}
	return output.Rows(w, []string{"PAUSED", "WHICH", "SET (UTC)", "BY", "UNTIL (UTC)", "REASON"}, lines)
}

func (a *app) fleetSet() *cobra.Command {
	var rate, jobs string
	c := &cobra.Command{
		Use:   "set KIND",
		Short: "limit what the fleet does for a kind of job",
		Long: `Limits what the fleet does for a kind of job. Every worker sees the limit within five
seconds. A limit that is not named stays. The word default leaves a limit to the settings.`,
		Example: `  lethe fleet set purge_history --rows-per-second 2000 --jobs 2
  lethe fleet set purge_history --rows-per-second default`,
		Args:      command.Arguments("a kind of job: " + strings.Join(kinds, ", ")),
		ValidArgs: kinds,
	}
	c.Flags().StringVar(&rate, "rows-per-second", "", "the most events that all jobs of the kind delete per second, whatever rows go with them, a `number` or default")
	c.Flags().StringVar(&jobs, "jobs", "", "the most jobs at a time, a `number` or default")
	c.RunE = a.asks(func(ctx context.Context, c *cobra.Command, api *client.Client, args []string) error {
		kind, given := args[0], c.Flags().Changed
		if !slices.Contains(kinds, kind) {
			return command.Usage("%q is not a kind of job: use one of %s", kind, strings.Join(kinds, ", "))
		}
		if !given("rows-per-second") && !given("jobs") {
			return command.Usage("%s needs --rows-per-second or --jobs", c.CommandPath())
		}
		newRate, err := readLimit("--rows-per-second", rate, operator.MaxRows)
		if err != nil {
			return err
		}
		newJobs, err := readLimit("--jobs", jobs, operator.MaxRunning)
		if err != nil {
			return err
		}
		if !given("rows-per-second") || !given("jobs") {
			fleet, err := api.Fleet(ctx)
			if err != nil {
				return err
			}
			for _, limit := range fleet.Limits {
				if limit.Kind != kind {
					continue
				}
				if !given("rows-per-second") {
					newRate = limit.RowsPerSecond
				}
				if !given("jobs") {
					newJobs = limit.Jobs
				}
			}
		}
		limit, err := api.SetLimit(ctx, kind, newRate, newJobs)
		if err != nil {
			return err
		}
		return print(c, limit, func(w io.Writer) error { return limitTable(w, limit) })
	})
	return c
}

// readLimit returns the value of a limit, nil for default and for "".
func readLimit(flag, text string, most int) (*int, error) {
	if text == "" || text == bySettings {
		return nil, nil
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 || n > most {
		return nil, command.Usage("%s: %q must be a number from 1 to %d, or default", flag, text, most)
	}
	return &n, nil
}

// A pauseScope is what a pause covers.
type pauseScope struct{ room, kind string }

// addScope adds the flags of what a pause covers.
func addScope(c *cobra.Command) *pauseScope {
	s := &pauseScope{}
	c.Flags().StringVar(&s.room, "room", "", "only jobs of the room with this `id`")
	c.Flags().StringVar(&s.kind, "kind", "", "only jobs of this `kind`: "+strings.Join(kinds, ", "))
	completes(c, "kind", kinds...)
	return s
}

// read returns the scope and its value.
func (s *pauseScope) read() (scope, value string, err error) {
	switch {
	case s.room != "" && s.kind != "":
		return "", "", command.Usage("--room and --kind cannot be together")
	case s.room != "":
		value, err = room(s.room)
		return "room", value, err
	case s.kind != "":
		return "kind", s.kind, knownWords("--kind", []string{s.kind}, kinds)
	}
	return "all", "all", nil
}

func (a *app) fleetPause() *cobra.Command {
	var body operator.VerbRequest
	var until string
	c := &cobra.Command{
		Use:   "pause [--room ROOM | --kind KIND] --reason WHY",
		Short: "pause all jobs, or those of a room or a kind",
		Long: `Pauses all jobs, or those of a room or a kind: those that run from their next batch, and
those that are requested later. They wait until lethe fleet resume, or until a time.`,
		Example: `  lethe fleet pause --until 2h --reason 'backup'
  lethe fleet pause --room '!abc:example.org' --reason 'under discussion'`,
		Args: command.NoArguments,
	}
	s := addScope(c)
	c.Flags().StringVar(&body.Reason, "reason", "", "why; it must not be empty")
	c.Flags().StringVar(&until, "until", "", "end the pause at this `time`, "+command.TimeForms+" from now")
	c.RunE = a.asks(func(ctx context.Context, c *cobra.Command, api *client.Client, _ []string) error {
		scope, value, err := s.read()
		if err != nil {
			return err
		}
		if body.Reason == "" {
			return command.Usage("%s needs --reason, for those who wonder why their jobs wait", c.CommandPath())
		}
		if until != "" {
			if body.Until, err = command.ParseUntil(until); err != nil {
				return err
			}
		}
		pause, err := api.SetPause(ctx, scope, value, body)
		if err != nil {
			return err
		}
		return print(c, pause, func(w io.Writer) error { return pauseTable(w, pause) })
	})
	return c
}

func (a *app) fleetResume() *cobra.Command {
	c := &cobra.Command{
		Use:   "resume [--room ROOM | --kind KIND]",
		Short: "end a pause of all jobs, or of a room or a kind",
		Long:  `Ends the pause of all jobs, of a room or of a kind. Other pauses stay.`,
		Example: `  lethe fleet resume
  lethe fleet resume --kind retention_sweep`,
		Args: command.NoArguments,
	}
	s := addScope(c)
	c.RunE = a.asks(func(ctx context.Context, c *cobra.Command, api *client.Client, _ []string) error {
		scope, value, err := s.read()
		if err != nil {
			return err
		}
		pause, err := api.LiftPause(ctx, scope, value)
		if err != nil {
			return err
		}
		return print(c, pause, func(w io.Writer) error {
			_, err := fmt.Fprintf(w, "The pause of %s has ended. %s had set it at %s: %s\n", terminal.Text(operator.Paused(scope, value)),
				terminal.Text(pause.Who), output.At(pause.Set), terminal.Text(pause.Reason))
			return err
		})
	})
	return c
}
