package cli

import (
	"context"
	"encoding/json"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"lethe/internal/command"
	"lethe/internal/operator"
	"lethe/internal/operator/client"
	"lethe/internal/output"
)

func (a *app) plan() *cobra.Command {
	c := command.Group(&cobra.Command{
		Use:   "plan",
		Short: "show what a purge, a delete or a sweep would do",
		Long: `Shows what a purge, a delete or a sweep would do, and changes nothing. The digest of a plan
binds a job to it: lethe purge --plan DIGEST is refused if the room has changed.`,
		Example: `  lethe plan purge '!abc:example.org' --before 90d
  lethe plan delete '!abc:example.org' --output json`,
	})
	addConnection(c)
	exact := c.PersistentFlags().Bool("exact", false, "count the rows of every table, however long that takes")

	purge := &cobra.Command{
		Use:   "purge ROOM (--event ID | --before TIME)",
		Short: "show what a purge would delete",
		Long:  `Shows what a purge of the history of a room would delete.`,
		Example: `  lethe plan purge '!abc:example.org' --before 2026-01-31 --delete-local
  lethe plan purge '!abc:example.org' --event '$first-that-stays' --output json`,
		Args: command.Arguments("the id of a room"),
	}
	p := addPoint(purge)
	purge.RunE = a.asks(func(ctx context.Context, c *cobra.Command, api *client.Client, args []string) error {
		body := operator.PlanRequest{Kind: "purge_history", DeleteLocal: p.local, Exact: *exact}
		var err error
		if body.Room, err = room(args[0]); err != nil {
			return err
		}
		if body.BeforeEvent, body.BeforeTime, err = p.read(c); err != nil {
			return err
		}
		return printPlan(ctx, c, api, body)
	})
	del := &cobra.Command{
		Use:     "delete ROOM",
		Short:   "show what a delete would delete, and who would leave",
		Long:    `Shows what a delete of a room would delete, and which users would leave the room.`,
		Example: `  lethe plan delete '!abc:example.org'`,
		Args:    command.Arguments("the id of a room"),
		RunE: a.asks(func(ctx context.Context, c *cobra.Command, api *client.Client, args []string) error {
			id, err := room(args[0])
			if err != nil {
				return err
			}
			return printPlan(ctx, c, api, operator.PlanRequest{Kind: "delete_room", Room: id, Exact: *exact})
		}),
	}
	sweep := &cobra.Command{
		Use:       "sweep [retention | abandoned]",
		Short:     "show which rooms a sweep would purge or delete",
		Long:      `Shows which rooms a sweep would purge or delete, and how many events.`,
		Example:   `  lethe plan sweep retention`,
		Args:      cobra.MaximumNArgs(1),
		ValidArgs: []string{"retention", "abandoned"},
		RunE: a.asks(func(ctx context.Context, c *cobra.Command, api *client.Client, args []string) error {
			kind, err := sweepKind(args)
			if err != nil {
				return err
			}
			return printPlan(ctx, c, api, operator.PlanRequest{Kind: kind, Exact: *exact})
		}),
	}
	c.AddCommand(purge, del, sweep)
	return c
}

// printPlan asks for a plan and prints it. Its warnings also go to stderr.
func printPlan(ctx context.Context, c *cobra.Command, api *client.Client, body operator.PlanRequest) error {
	plan, err := api.Plan(ctx, body)
	if err != nil {
		return err
	}
	var known struct {
		Warnings []string `json:"warnings"`
	}
	if err := json.Unmarshal(plan, &known); err != nil {
		return err
	}
	for _, warning := range known.Warnings {
		warn(c, "%s", warning)
	}
	return print(c, plan, func(w io.Writer) error { return output.Raw(w, plan, withoutMeaning(body.Kind, plan)...) })
}

// withoutMeaning returns the fields of a plan that say nothing to people: warnings, which
// they have read, and what a job of the kind does not have.
func withoutMeaning(kind string, plan json.RawMessage) []string {
	fields := []string{"warnings"}
	switch kind {
	case "purge_history":
		return append(fields, "users", "users_count")
	case "delete_room":
		return append(fields, "delete_local_events", "events_kept")
	}
	// A sweep does not compute all figures of the jobs that it would make.
	var figures map[string]json.RawMessage
	if json.Unmarshal(plan, &figures) != nil {
		return fields
	}
	for name, figure := range figures {
		text := string(figure)
		if name != "events" && (text == "0" || text == "false" || strings.HasPrefix(text, `{"rows":0,`)) {
			fields = append(fields, name)
		}
	}
	return fields
}
