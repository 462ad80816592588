package purge

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"
)

// A temporary is a temporary table that batches use. It stays in its session from
// batch to batch, with the rows of the last one.
type temporary struct{ name, columns string }

var (
	// eventsTable has the events that a batch purges.
	eventsTable = temporary{"lethe_selected", `
		event_id             text    NOT NULL,
		topological_ordering bigint  NOT NULL,
		stream_ordering      bigint,
		deletable            boolean,
		place                tid     NOT NULL,
		has_censored         boolean NOT NULL DEFAULT false`}

	// groupsTable has the state groups to delete, and chainsTable the chains that lead
	// to them.
	groupsTable = temporary{"lethe_groups", `state_group bigint NOT NULL PRIMARY KEY`}
	chainsTable = temporary{"lethe_chains", `
		root bigint NOT NULL, state_group bigint NOT NULL, PRIMARY KEY (root, state_group)`}
)

// fewBytes is the size above which a temporary table is truncated.
const fewBytes = 1 << 16

// empty makes the table in the transaction's session, or empties it. The batch makes
// it, and not the code that opens connections: a pooler between Lethe and the server
// may move each transaction to another session.
func (t temporary) empty(ctx context.Context, b *batch) error {
	var pipeline pgx.Batch
	size := t.create(&pipeline)
	err := b.Send(ctx, &pipeline)
	if err == nil && *size > 0 {
		_, err = b.Exec(ctx, t.clear(*size))
	}
	if err != nil {
		return fmt.Errorf("empty the table %s: %w", t.name, err)
	}
	return nil
}

// create adds statements to the pipeline that make the table if it does not exist,
// and that read its size in bytes. If the size is above 0, the table must be
// cleared.
func (t temporary) create(pipeline *pgx.Batch) (size *int64) {
	size = new(int64)
	pipeline.Queue(`CREATE TEMPORARY TABLE IF NOT EXISTS ` + t.name + ` (` + t.columns + `)`)
	pipeline.Queue(`SELECT pg_relation_size(to_regclass('pg_temp.` + t.name + `'))`).QueryRow(func(row pgx.Row) error { return row.Scan(size) })
	return size
}

// clear returns the statement that empties a table of the given size.
//
// After TRUNCATE, and also with ON COMMIT DELETE ROWS, the server plans all
// statements with the table again, which takes longer than a small batch.
func (t temporary) clear(size int64) string {
	if size > fewBytes {
		return `TRUNCATE ` + t.name
	}
	return `DELETE FROM ` + t.name
}
