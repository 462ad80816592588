package purge

import (
	"context"
	"fmt"
	"strings"

	"lethe/internal/store/journal"
	"lethe/internal/store/postgres"
)

// A batch is a batch of a purge: the transaction, and what is known of the
// database that it deletes from.
type batch struct {
	*journal.Batch
	purger  *Purger
	catalog Catalog
}

// A step is one statement of a batch. One that mentions $1 is given the room.
type step struct {
	what string
	sql  string
}

// run runs the steps in order, in one round trip, and returns how many rows they
// deleted.
func (b *batch) run(ctx context.Context, steps []step) (deleted int64, err error) {
	statements := make([]postgres.Statement, len(steps))
	for i, s := range steps {
		statements[i] = postgres.Statement{What: s.what, SQL: s.sql}
		if strings.Contains(s.sql, "$1") {
			statements[i].Args = []any{b.Room()}
		}
	}
	return b.Run(ctx, statements)
}

// exec runs one statement, and returns how many rows it touched.
func (b *batch) exec(ctx context.Context, what, sql string, args ...any) (rows int64, err error) {
	tag, err := b.Exec(ctx, sql, args...)
	if err != nil {
		return 0, fmt.Errorf("%s: %w", what, err)
	}
	return tag.RowsAffected(), nil
}

// A transaction is a batch, or one that only reads.
type transaction interface {
	postgres.Querier
	postgres.Execer
}
