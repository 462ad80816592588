package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"

	"github.com/spf13/cobra"

	"lethe/internal/command"
	"lethe/internal/holdfile"
	"lethe/internal/operator"
	"lethe/internal/operator/client"
	"lethe/internal/output"
	"lethe/internal/store/migrate"
	"lethe/internal/wire"
)

// maxHolds is the number of holds that the API lists at most.
const maxHolds = 10_000

func (a *app) hold() *cobra.Command {
	c := command.Group(&cobra.Command{
		Use:   "hold",
		Short: "hold rooms, so that nothing is deleted from them",
		Long: `Holds rooms, so that nothing is deleted from them, and lifts, lists, exports and imports
holds.

Without LETHE_API_URL, these commands work on the database LETHE_DATABASE_URL, as with
--database.`,
		Example: `  lethe hold set '!abc:example.org' --reason 'case 4711'
  lethe hold lift '!abc:example.org'`,
	})
	addConnection(c)
	c.AddCommand(a.holdSet(), a.holdLift(), a.holdList(), a.holdExport(), a.holdImport(), a.holdPlace(), a.holdRelease())
	return c
}

// addBy adds the flag --by, which counts on the database only.
func addBy(c *cobra.Command) *string {
	return c.Flags().String("by", "", "with --database: the `name` of who does so (default the user of the shell)")
}

func (a *app) holdSet() *cobra.Command {
	var reason string
	c := &cobra.Command{
		Use:   "set ROOM --reason TEXT",
		Short: "hold a room, so that nothing is deleted from it",
		Long: `Holds a room, so that nothing is deleted from it until the hold is lifted. It waits for the
batch in progress. Jobs of the room wait, and new ones are refused.`,
		Example: `  lethe hold set '!abc:example.org' --reason 'case 4711'`,
		Args:    command.Arguments("the id of a room"),
	}
	c.Flags().StringVar(&reason, "reason", "", "why nothing may be deleted from the room")
	addBy(c)
	c.RunE = a.asks(func(ctx context.Context, c *cobra.Command, api *client.Client, args []string) error {
		return setHold(ctx, c, api, args[0], reason)
	})
	return c
}

func setHold(ctx context.Context, c *cobra.Command, api *client.Client, arg, reason string) error {
	id, err := room(arg)
	switch {
	case err != nil:
		return err
	case reason == "":
		return command.Usage("--reason must not be empty")
	case c.Flags().Changed("by") && c.Flag("by").Value.String() == "":
		return command.Usage("--by must name a person")
	}
	hold, err := api.SetHold(ctx, id, reason)
	if err != nil {
		return err
	}
	return print(c, hold, func(w io.Writer) error { return holdTable(w, hold) })
}

func (a *app) holdLift() *cobra.Command {
	c := &cobra.Command{
		Use:     "lift ROOM",
		Short:   "allow deletes from a held room again",
		Long:    `Lifts the hold of a room. Its jobs go on within seconds.`,
		Example: `  lethe hold lift '!abc:example.org'`,
		Args:    command.Arguments("the id of a room"),
		RunE: a.asks(func(ctx context.Context, c *cobra.Command, api *client.Client, args []string) error {
			return liftHold(ctx, c, api, args[0])
		}),
	}
	addBy(c)
	return c
}

func liftHold(ctx context.Context, c *cobra.Command, api *client.Client, arg string) error {
	id, err := room(arg)
	switch {
	case err != nil:
		return err
	case c.Flags().Changed("by") && c.Flag("by").Value.String() == "":
		return command.Usage("--by must name a person")
	}
	hold, err := api.LiftHold(ctx, id)
	if err != nil {
		return err
	}
	return print(c, hold, func(w io.Writer) error { return holdTable(w, hold) })
}

// holdPlace is the old form of set.
func (a *app) holdPlace() *cobra.Command {
	c := &cobra.Command{
		Use:     "place --room ROOM --reason TEXT",
		Short:   "the old form of set",
		Long:    `The old form of lethe hold set.`,
		Example: `  lethe hold place --room '!abc:example.org' --reason 'case 4711'`,
		Hidden:  true,
		Args:    command.NoArguments,
	}
	id := c.Flags().String("room", "", "the `id` of the room")
	reason := c.Flags().String("reason", "", "why nothing may be deleted from the room")
	addBy(c)
	c.RunE = a.asks(func(ctx context.Context, c *cobra.Command, api *client.Client, _ []string) error {
		return setHold(ctx, c, api, *id, *reason)
	})
	return c
}

// holdRelease is the old form of lift.
func (a *app) holdRelease() *cobra.Command {
	c := &cobra.Command{
		Use:     "release --room ROOM",
		Short:   "the old form of lift",
		Long:    `The old form of lethe hold lift.`,
		Example: `  lethe hold release --room '!abc:example.org'`,
		Hidden:  true,
		Args:    command.NoArguments,
	}
	id := c.Flags().String("room", "", "the `id` of the room")
	addBy(c)
	c.RunE = a.asks(func(ctx context.Context, c *cobra.Command, api *client.Client, _ []string) error {
		return liftHold(ctx, c, api, *id)
	})
	return c
}

func (a *app) holdList() *cobra.Command {
	var all bool
	c := &cobra.Command{
		Use:     "list",
		Short:   "list the rooms that are held",
		Long:    `Lists the rooms that are held, the last held first.`,
		Example: `  lethe hold list --all`,
		Args:    command.NoArguments,
	}
	c.Flags().BoolVar(&all, "all", false, "also list holds that were lifted")
	c.RunE = a.asks(func(ctx context.Context, c *cobra.Command, api *client.Client, _ []string) error {
		holds, err := api.Holds(ctx, all)
		if err != nil {
			return err
		}
		if len(holds.Holds) == maxHolds {
			warn(c, "there may be more holds than these %d", maxHolds)
		}
		if holds.Holds == nil {
			holds.Holds = []operator.Hold{}
		}
		return print(c, holds, func(w io.Writer) error { return holdTable(w, holds.Holds...) })
	})
	return c
}

// holdTable prints holds, with times in UTC.
func holdTable(w io.Writer, holds ...operator.Hold) error {
	var lines [][]string
	for _, hold := range holds {
		lifted, by := "-", "-"
		if hold.ReleasedAt != 0 {
			lifted, by = output.At(hold.ReleasedAt), hold.ReleasedBy
		}
		lines = append(lines, []string{hold.Room, output.At(hold.PlacedAt), hold.PlacedBy, lifted, by, hold.Reason})
	}
	return output.Rows(w, []string{"ROOM", "SET (UTC)", "BY", "LIFTED (UTC)", "BY", "REASON"}, lines)
}

func (a *app) holdExport() *cobra.Command {
	var all, overwrite bool
	c := &cobra.Command{
		Use:   "export FILE",
		Short: "write the holds to a file",
		Long: `Writes the holds to a file, with a digest. lethe hold import reads it. lethe migrate --down
and lethe uninstall need it while rooms are held. With - as FILE it writes to stdout.`,
		Example: `  lethe hold export holds.json`,
		Args:    command.Arguments("the name of a file, or -"),
	}
	c.Flags().BoolVar(&all, "all", false, "also write holds that were lifted")
	c.Flags().BoolVar(&overwrite, "overwrite", false, "replace a file that exists")
	c.RunE = a.asks(func(ctx context.Context, c *cobra.Command, api *client.Client, args []string) error {
		holds, err := api.Holds(ctx, all)
		switch {
		case err != nil:
			return err
		case len(holds.Holds) >= maxHolds:
			return fmt.Errorf("there are more holds than %d, and the API lists no more: nothing was written", maxHolds-1)
		}
		export := holdfile.New(holds.Holds)
		if args[0] == "-" {
			return export.Write(c.OutOrStdout())
		}
		if err := export.WriteFile(args[0], overwrite); err != nil {
			return err
		}
		n := len(holds.Holds)
		warn(c, "%s %s in %s", output.Counted(n, "hold"), output.Agree(n, "is", "are"), args[0])
		return nil
	})
	return c
}

// An importDocument is what an import has done.
type importDocument struct {
	Holds   []operator.Hold `json:"holds"`
	Refused []refusedHold   `json:"refused"`
}

type refusedHold struct {
	Room  string `json:"room_id"`
	Error string `json:"error"`
}

func (a *app) holdImport() *cobra.Command {
	return &cobra.Command{
		Use:   "import FILE",
		Short: "hold the rooms of an exported file again",
		Long: `Holds the rooms of an exported file again, for the reasons in the file. Holds that were
lifted stay lifted. A room that is held for the same reason stays as it is, and one that is
held for another reason is refused; the other rooms are held all the same. The time of a
hold, and by whom, are those of the import: the file has the first ones.`,
		Example: `  lethe hold import holds.json`,
		Args:    command.Arguments("the name of a file"),
		RunE: a.asks(func(ctx context.Context, c *cobra.Command, api *client.Client, args []string) error {
			file, err := readHoldFile(args[0])
			if err != nil {
				return err
			}
			done := importDocument{Holds: []operator.Hold{}, Refused: []refusedHold{}}
			for _, hold := range file.Standing() {
				set, err := api.SetHold(ctx, hold.Room, hold.Reason)
				var answer *wire.Error
				switch {
				case errors.As(err, &answer) && answer.Status == http.StatusConflict:
					done.Refused = append(done.Refused, refusedHold{hold.Room, answer.Text})
					warn(c, "%s: %s", hold.Room, answer.Text)
				case err != nil:
					return fmt.Errorf("%s: %w; %s before it %s held", hold.Room, explain(err),
						output.Counted(len(done.Holds), "room"), output.Agree(len(done.Holds), "is", "are"))
				default:
					done.Holds = append(done.Holds, set)
				}
			}
			if err := print(c, done, func(w io.Writer) error { return holdTable(w, done.Holds...) }); err != nil {
				return err
			}
			if n := len(done.Refused); n > 0 {
				return refused("%d of %s %s held for another reason", n, output.Counted(n+len(done.Holds), "room"), output.Agree(n, "is", "are"))
			}
			return nil
		}),
	}
}

// readHoldFile reads an exported file.
func readHoldFile(path string) (holdfile.File, error) {
	text, err := readFile(path, holdfile.MaxBytes)
	if err == nil {
		var file holdfile.File
		if file, err = holdfile.Parse(text); err == nil {
			return file, nil
		}
	}
	return holdfile.File{}, fmt.Errorf("read %s: %w", path, err)
}

// exportedHolds returns the holds of an exported file for package migrate. Without a file
// it returns none.
func exportedHolds(path string) ([]migrate.Hold, error) {
	if path == "" {
		return nil, nil
	}
	file, err := readHoldFile(path)
	if err != nil {
		return nil, &command.StatusError{Status: command.BadUsage, Err: err}
	}
	var holds []migrate.Hold
	for _, hold := range file.Standing() {
		holds = append(holds, migrate.Hold{Room: hold.Room, Reason: hold.Reason})
	}
	return holds, nil
}
