package cli

import (
	"context"
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"lethe/internal/brake"
	"lethe/internal/command"
	"lethe/internal/operator"
	"lethe/internal/operator/client"
	"lethe/internal/output"
)

// noLimit is a limit that never slows jobs down.
const noLimit = "none"

func (a *app) brake() *cobra.Command {
	c := command.Group(&cobra.Command{
		Use:   "brake",
		Short: "show and set what slows jobs down",
		Long: `Shows and sets the limits at which jobs slow down for the sake of others: from the soft
limit of a signal on their batches are shorter and the pauses longer, and at the hard limit
they wait.`,
		Example: `  lethe brake show
  lethe brake set standby_seconds --soft 5 --hard 30`,
	})
	addConnection(c)
	c.AddCommand(a.brakeShow(), a.brakeSet(), a.brakeReset())
	return c
}

func (a *app) brakeShow() *cobra.Command {
	return &cobra.Command{
		Use:     "show",
		Short:   "show the signals, their limits, and what each worker does",
		Long:    `Shows the signals, their limits, the worst values that workers have seen, and what each worker does.`,
		Example: `  lethe brake show --output yaml`,
		Args:    command.NoArguments,
		RunE: a.asks(func(ctx context.Context, c *cobra.Command, api *client.Client, _ []string) error {
			shown, err := api.Brake(ctx)
			if err != nil {
				return err
			}
			return print(c, shown, func(w io.Writer) error {
				if err := signalTable(w, shown.Signals...); err != nil {
					return err
				}
				lines := [][]string{{"unknown (needs Redis)", "", ""}}
				if shown.Workers != nil {
					lines = nil
					for _, worker := range *shown.Workers {
						lines = append(lines, []string{worker.Name, strconv.FormatFloat(100*worker.Share, 'f', 0, 64) + " %", worker.Reason})
					}
				}
				_, _ = fmt.Fprintln(w) // the table returns its error
				return output.Rows(w, []string{"WORKER", "SPEED", "BECAUSE"}, lines)
			})
		}),
	}
}

func signalTable(w io.Writer, signals ...operator.BrakeSignal) error {
	limit := func(n *float64) string {
		if n == nil {
			return noLimit
		}
		return strconv.FormatFloat(*n, 'f', -1, 64)
	}
	var lines [][]string
	for _, s := range signals {
		who := s.Who
		if s.Default {
			who = bySettings
		}
		now := s.Says
		if s.Value == nil {
			now = "unknown"
		}
		lines = append(lines, []string{s.Signal, limit(s.Soft), limit(s.Hard), who, now})
	}
	return output.Rows(w, []string{"SIGNAL", "SOFT", "HARD", "SET BY", "NOW"}, lines)
}

func (a *app) brakeSet() *cobra.Command {
	var soft, hard string
	c := &cobra.Command{
		Use:   "set SIGNAL",
		Short: "set the limits of a signal",
		Long: `Sets the limits of a signal. Every worker sees them within three seconds. A limit that is
not named stays. The word none leaves out a limit.`,
		Example: `  lethe brake set standby_seconds --soft 5 --hard 30
  lethe brake set autovacuums --soft 1`,
		Args:      command.Arguments("a signal: " + strings.Join(brake.Names(), ", ")),
		ValidArgs: brake.Names(),
	}
	c.Flags().StringVar(&soft, "soft", "", "the value from which on jobs are slower, a `number` or none")
	c.Flags().StringVar(&hard, "hard", "", "the value at which jobs wait, a `number` or none")
	c.RunE = a.asks(func(ctx context.Context, c *cobra.Command, api *client.Client, args []string) error {
		given := c.Flags().Changed
		signal, err := brake.ParseSignal(args[0])
		switch {
		case err != nil:
			return command.Usage("%s", err)
		case !given("soft") && !given("hard"):
			return command.Usage("%s needs --soft or --hard", c.CommandPath())
		}
		shown, err := api.Brake(ctx)
		if err != nil {
			return err
		}
		var body operator.BrakeRequest
		for _, s := range shown.Signals {
			if s.Signal == string(signal) {
				body = operator.BrakeRequest{Soft: s.Soft, Hard: s.Hard}
			}
		}
		for name, limit := range map[string]**float64{"soft": &body.Soft, "hard": &body.Hard} {
			if !given(name) {
				continue
			}
			if *limit, err = readBrakeLimit(c.Flag(name).Value.String()); err != nil {
				return command.Usage("--%s: %s", name, err)
			}
		}
		set, err := api.SetBrake(ctx, string(signal), body)
		if err != nil {
			return err
		}
		return print(c, set, func(w io.Writer) error { return signalTable(w, set) })
	})
	return c
}

// readBrakeLimit reads a number, or nil for none.
func readBrakeLimit(text string) (*float64, error) {
	if text == noLimit {
		return nil, nil
	}
	n, err := strconv.ParseFloat(text, 64)
	if err != nil {
		return nil, fmt.Errorf("%q is not a number and not %s", text, noLimit)
	}
	return &n, nil
}

func (a *app) brakeReset() *cobra.Command {
	return &cobra.Command{
		Use:       "reset SIGNAL",
		Short:     "give a signal its default limits again",
		Long:      `Gives a signal its default limits again.`,
		Example:   `  lethe brake reset standby_seconds`,
		Args:      command.Arguments("a signal: " + strings.Join(brake.Names(), ", ")),
		ValidArgs: brake.Names(),
		RunE: a.asks(func(ctx context.Context, c *cobra.Command, api *client.Client, args []string) error {
			signal, err := brake.ParseSignal(args[0])
			if err != nil {
				return command.Usage("%s", err)
			}
			set, err := api.ResetBrake(ctx, string(signal))
			if err != nil {
				return err
			}
			return print(c, set, func(w io.Writer) error { return signalTable(w, set) })
		}),
	}
}
