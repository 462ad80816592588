package cli

import (
	"context"
	"io"

	"github.com/spf13/cobra"

	"lethe/internal/command"
	"lethe/internal/operator/client"
	"lethe/internal/output"
)

func (a *app) room() *cobra.Command {
	c := command.Group(&cobra.Command{
		Use:   "room",
		Short: "show what rooms have in the database",
		Long:  `Shows what rooms have in the database: rows and bytes.`,
		Example: `  lethe room list
  lethe room show '!abc:example.org'`,
	})
	addConnection(c)
	var limit int
	var from string
	list := &cobra.Command{
		Use:     "list",
		Short:   "list the largest rooms by bytes",
		Long:    `Lists the largest rooms by bytes, as PostgreSQL's statistics estimate them.`,
		Example: `  lethe room list --limit 20`,
		Args:    command.NoArguments,
		RunE: a.asks(func(ctx context.Context, c *cobra.Command, api *client.Client, _ []string) error {
			if c.Flags().Changed("limit") && limit < 1 {
				return command.Usage("--limit must be at least 1")
			}
			page, err := api.Rooms(ctx, limit, from)
			if err != nil {
				return err
			}
			return print(c, page, func(w io.Writer) error { return output.Raw(w, page) })
		}),
	}
	list.Flags().IntVar(&limit, "limit", 0, "the most rooms of a page (default that of the API)")
	list.Flags().StringVar(&from, "from", "", "list from this `place`, the \"next\" of the page before")
	show := &cobra.Command{
		Use:     "show ROOM",
		Short:   "show rows and bytes of a room by table",
		Long:    `Shows rows and bytes of a room by table, and its state groups.`,
		Example: `  lethe room show '!abc:example.org' --output json`,
		Args:    command.Arguments("the id of a room"),
		RunE: a.asks(func(ctx context.Context, c *cobra.Command, api *client.Client, args []string) error {
			id, err := room(args[0])
			if err != nil {
				return err
			}
			footprint, err := api.Room(ctx, id)
			if err != nil {
				return err
			}
			return print(c, footprint, func(w io.Writer) error { return output.Raw(w, footprint) })
		}),
	}
	c.AddCommand(list, show)
	return c
}
