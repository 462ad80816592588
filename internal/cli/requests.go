package cli

import (
	"context"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"lethe/internal/command"
	"lethe/internal/matrix"
	"lethe/internal/operator"
	"lethe/internal/operator/client"
	"lethe/internal/output"
)

// An accepting is the flags with which a job is accepted.
type accepting struct {
	operator.Acceptance
	wait    bool
	timeout time.Duration
}

// addAccepting adds the flags with which a job is accepted.
func addAccepting(c *cobra.Command) *accepting {
	accepting := &accepting{}
	flags := c.Flags()
	flags.StringVar(&accepting.Grace, "grace", "", "begin after this `time`, such as 24h or 7d; until then nothing is done, and the job can be cancelled (default the setting grace)")
	flags.StringVar(&accepting.Reason, "reason", "", "why, for the log of the job")
	flags.BoolVar(&accepting.wait, "wait", false, "wait until the job has ended, and show its progress on stderr")
	flags.DurationVar(&accepting.timeout, "timeout", 24*time.Hour, "with --wait: the longest `time` to wait; the job goes on after it")
	return accepting
}

// addPlanned adds the flags that bind a job to a plan.
func (accepting *accepting) addPlanned(c *cobra.Command) {
	c.Flags().StringVar(&accepting.Plan, "plan", "", "the `digest` of a plan: refuse if the room has changed since")
	c.Flags().Int64Var(&accepting.Tolerance, "tolerance", 0, "with --plan: how many events the room may have changed by")
}

// check returns what is wrong with the flags, or nil.
func (accepting *accepting) check(c *cobra.Command) error {
	given := c.Flags().Changed
	switch {
	case given("timeout") && !accepting.wait:
		return command.Usage("--timeout needs --wait")
	case accepting.wait && accepting.timeout <= 0:
		return command.Usage("--timeout must be more than 0")
	case given("tolerance") && accepting.Plan == "":
		return command.Usage("--tolerance needs --plan")
	case accepting.Tolerance < 0:
		return command.Usage("--tolerance must not be negative")
	case given("plan") && accepting.Plan == "":
		return command.Usage("--plan needs the digest of a plan")
	}
	if accepting.Grace == "" {
		return nil
	}
	grace, err := command.ParseGrace(accepting.Grace, operator.MaxGrace)
	accepting.Grace = grace
	return err
}

// finish prints an accepted job, or waits for it and prints how it has ended.
func (accepting *accepting) finish(ctx context.Context, c *cobra.Command, api *client.Client, accepted operator.Accepted) error {
	for _, warning := range accepted.Warnings {
		warn(c, "%s", warning)
	}
	if !accepting.wait {
		return print(c, accepted, func(w io.Writer) error {
			return output.Fields(w, "id", accepted.ID, "state", accepted.State, "begins (UTC)", output.At(accepted.Due))
		})
	}
	warn(c, "the job has the id %s", accepted.ID)
	jobs, err := watchJobs(ctx, c, api, watch{ids: []string{accepted.ID}, timeout: accepting.timeout, out: c.ErrOrStderr()})
	// It was accepted, so its id must not be lost.
	job := operator.Job{ID: accepted.ID, State: accepted.State, Due: accepted.Due}
	if len(jobs) > 0 {
		job = jobs[0]
	}
	// Only a job that is asked for by its id has its result.
	if whole, err := api.Job(ctx, accepted.ID); err == nil && whole.Updated >= job.Updated {
		job = whole
	}
	if printErr := printJob(c, job); printErr != nil {
		return printErr
	}
	return err
}

// room returns the id of a room from an argument.
func room(arg string) (string, error) {
	if !matrix.ValidRoomID(arg) {
		return "", command.Usage("%q is not the id of a room, such as !abc:example.org", arg)
	}
	return arg, nil
}

// A point is where a purge ends.
type point struct {
	event, before string
	local         bool
}

// addPoint adds the flags of where a purge ends.
func addPoint(c *cobra.Command) *point {
	p := &point{}
	c.Flags().StringVar(&p.event, "event", "", "delete what is before the event with this `id`, which stays")
	c.Flags().StringVar(&p.before, "before", "", "delete what this server received before this `time`, "+command.TimeForms+" ago")
	c.Flags().BoolVar(&p.local, "delete-local", false, "also delete events of this server's users")
	return p
}

// read returns the event, or the time in Unix milliseconds.
func (p *point) read(c *cobra.Command) (event string, before *int64, err error) {
	switch {
	case (p.event == "") == (p.before == ""):
		return "", nil, command.Usage("%s needs either --event or --before", c.CommandPath())
	case p.event != "" && !strings.HasPrefix(p.event, "$"):
		return "", nil, command.Usage("--event: %q is not the id of an event, which begins with $", p.event)
	case p.event != "":
		return p.event, nil, nil
	}
	at, err := command.ParseTime(p.before, time.Now(), -1)
	if err != nil {
		return "", nil, command.Usage("--before: %w", err)
	}
	return "", &at, nil
}

func (a *app) purge() *cobra.Command {
	c := &cobra.Command{
		Use:   "purge ROOM (--event ID | --before TIME)",
		Short: "purge the history of a room",
		Long: `Purges the history of a room: deletes its older events, but not its state. It cannot be
undone. lethe plan purge shows what would be deleted.`,
		Example: `  lethe purge '!abc:example.org' --before 90d
  lethe purge '!abc:example.org' --event '$first-that-stays' --delete-local --plan DIGEST --wait`,
		Args: command.Arguments("the id of a room"),
	}
	addConnection(c)
	p, accepting := addPoint(c), addAccepting(c)
	accepting.addPlanned(c)
	c.RunE = a.asks(func(ctx context.Context, c *cobra.Command, api *client.Client, args []string) error {
		body, err := operator.PurgeRequest{DeleteLocal: p.local}, error(nil)
		if body.Room, err = room(args[0]); err != nil {
			return err
		}
		if body.BeforeEvent, body.BeforeTime, err = p.read(c); err != nil {
			return err
		}
		if err := accepting.check(c); err != nil {
			return err
		}
		body.Acceptance = accepting.Acceptance
		accepted, err := api.Purge(ctx, body)
		if err != nil {
			return err
		}
		return accepting.finish(ctx, c, api, accepted)
	})
	return c
}

func (a *app) delete() *cobra.Command {
	var body operator.DeleteRequest
	var keep bool
	c := &cobra.Command{
		Use:   "delete ROOM",
		Short: "shut a room down and delete it",
		Long: `Shuts a room down and deletes it: this server's users leave the room, and then the room is
deleted. It cannot be undone. lethe plan delete shows what would be deleted.`,
		Example: `  lethe delete '!abc:example.org' --block --grace 24h
  lethe delete '!abc:example.org' --new-room-user '@admin:example.org' --message 'We have moved.' --wait`,
		Args: command.Arguments("the id of a room"),
	}
	addConnection(c)
	flags := c.Flags()
	flags.BoolVar(&body.Block, "block", false, "keep this server's users from joining the room again")
	flags.BoolVar(&keep, "no-purge", false, "only shut the room down, and keep its history")
	flags.BoolVar(&body.ForcePurge, "force-purge", false, "delete the room even if some users cannot leave it")
	flags.StringVar(&body.NewRoomUser, "new-room-user", "", "the `user` who creates a new room, which the users join")
	flags.StringVar(&body.RoomName, "room-name", "", "the `name` of the new room")
	flags.StringVar(&body.Message, "message", "", "the `text` of the first message in the new room")
	accepting := addAccepting(c)
	accepting.addPlanned(c)
	c.RunE = a.asks(func(ctx context.Context, c *cobra.Command, api *client.Client, args []string) error {
		body, err := body, error(nil)
		if body.Room, err = room(args[0]); err != nil {
			return err
		}
		if keep && body.ForcePurge {
			return command.Usage("--no-purge and --force-purge cannot be together")
		}
		if body.NewRoomUser == "" && (body.RoomName != "" || body.Message != "") {
			return command.Usage("--room-name and --message need --new-room-user")
		}
		if err := accepting.check(c); err != nil {
			return err
		}
		if keep {
			body.Purge = new(false)
		}
		body.Acceptance = accepting.Acceptance
		accepted, err := api.Delete(ctx, body)
		if err != nil {
			return err
		}
		return accepting.finish(ctx, c, api, accepted)
	})
	return c
}

// sweepKind returns the kind of a sweep from the arguments. It defaults to a sweep of
// retention.
func sweepKind(args []string) (string, error) {
	switch {
	case len(args) == 0 || args[0] == "retention" || args[0] == "retention_sweep":
		return "retention_sweep", nil
	case args[0] == "abandoned" || args[0] == "abandoned_sweep":
		return "abandoned_sweep", nil
	}
	return "", command.Usage("%q is not a sweep: write retention or abandoned", args[0])
}

func (a *app) sweep() *cobra.Command {
	var name string
	c := &cobra.Command{
		Use:   "sweep [retention | abandoned]",
		Short: "run a sweep of retention or of abandoned rooms now",
		Long: `Runs a sweep now: retention purges what is older than the rooms allow, and abandoned
deletes rooms without users of this server.`,
		Example: `  lethe sweep
  lethe sweep retention --name nightly --grace 1h
  lethe sweep abandoned --wait`,
		Args:      cobra.MaximumNArgs(1),
		ValidArgs: []string{"retention", "abandoned"},
	}
	addConnection(c)
	c.Flags().StringVar(&name, "name", "", "the `name` of the retention job in the settings (default the only one)")
	accepting := addAccepting(c)
	c.RunE = a.asks(func(ctx context.Context, c *cobra.Command, api *client.Client, args []string) error {
		kind, err := sweepKind(args)
		if err != nil {
			return err
		}
		if err := accepting.check(c); err != nil {
			return err
		}
		accepted, err := api.Sweep(ctx, operator.SweepRequest{Kind: kind, Name: name, Acceptance: accepting.Acceptance})
		if err != nil {
			return err
		}
		return accepting.finish(ctx, c, api, accepted)
	})
	return c
}
