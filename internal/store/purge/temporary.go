package purge

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"
)

// A temporary is a temporary table that batches work with. It stays in its
// session from batch to batch, with the rows of the last one.
type temporary struct{ name, columns string }

var (
	// theEvents are the events that a batch purges.
	theEvents = temporary{"lethe_selected", `
		event_id             text    NOT NULL,
		topological_ordering bigint  NOT NULL,
		stream_ordering      bigint,
		deletable            boolean NOT NULL,
		place                tid     NOT NULL`}

	// theGroups are the state groups to be deleted, and theChains the chains that
	// lead to them.
	theGroups = temporary{"lethe_groups", `state_group bigint NOT NULL PRIMARY KEY`}
	theChains = temporary{"lethe_chains", `
		root bigint NOT NULL, state_group bigint NOT NULL, PRIMARY KEY (root, state_group)`}
)

// fewBytes is the size from which a temporary table is truncated.
const fewBytes = 1 << 16

// empty makes the table in the transaction's session, or empties it. It is made in
// the batch and not when the connection is: a pooler between us and the server may
// hand each transaction to another session.
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

// create has the pipeline make the table if it is not there, and returns where its
// size will be, in bytes. From 0 it is to be cleared.
func (t temporary) create(pipeline *pgx.Batch) (size *int64) {
	size = new(int64)
	pipeline.Queue(`CREATE TEMPORARY TABLE IF NOT EXISTS ` + t.name + ` (` + t.columns + `)`)
	pipeline.Queue(`SELECT pg_relation_size(to_regclass('pg_temp.` + t.name + `'))`).QueryRow(func(row pgx.Row) error { return row.Scan(size) })
	return size
}

// clear is the statement that empties the table of that size.
//
// To truncate a table, as ON COMMIT DELETE ROWS does too, makes the server plan
// all statements anew that mention it, which takes longer than a small batch.
func (t temporary) clear(size int64) string {
	if size > fewBytes {
		return `TRUNCATE ` + t.name
	}
	return `DELETE FROM ` + t.name
}
