package purge

import (
	"context"
	"fmt"

	"lethe/internal/store/postgres"

	"github.com/jackc/pgx/v5"
)

// The temporary tables of batches.
var (
	// eventsTable has the events that a batch purges.
	eventsTable = postgres.TempTable{Name: "lethe_selected", Columns: `
		event_id             text    NOT NULL,
		topological_ordering bigint  NOT NULL,
		stream_ordering      bigint,
		deletable            boolean,
		place                tid     NOT NULL,
		has_censored         boolean NOT NULL DEFAULT false`}

	// groupsTable has the state groups to delete, and chainsTable the chains that lead
	// to them.
	groupsTable = postgres.TempTable{Name: "lethe_groups", Columns: `state_group bigint NOT NULL PRIMARY KEY`}
	chainsTable = postgres.TempTable{Name: "lethe_chains", Columns: `
		root bigint NOT NULL, state_group bigint NOT NULL, PRIMARY KEY (root, state_group)`}
)

// empty makes the table in the transaction's session, or empties it.
func (b *batch) empty(ctx context.Context, t postgres.TempTable) error {
	var pipeline pgx.Batch
	size := t.Create(&pipeline)
	err := b.Send(ctx, &pipeline)
	if err == nil && *size > 0 {
		_, err = b.Exec(ctx, t.Clear(*size))
	}
	if err != nil {
		return fmt.Errorf("empty the table %s: %w", t.Name, err)
	}
	return nil
}
