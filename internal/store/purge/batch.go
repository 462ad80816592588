package purge

import (
	"context"
	"fmt"
	"strings"

	"lethe/internal/store/journal"
	"lethe/internal/store/postgres"
)

// A batch is a batch of a purge, with the catalog of the database that it deletes
// from.
type batch struct {
	*journal.Batch
	purger  *Purger
	catalog Catalog
}

// A statement is one statement of a batch. If it mentions $1, it gets the room's id.
// What describes it in errors.
type statement struct {
	what, sql string
}

// run runs the statements in order, in one round trip, and returns the number of
// deleted rows.
func (b *batch) run(ctx context.Context, statements []statement) (deleted int64, err error) {
	all := make([]postgres.Statement, len(statements))
	for i, s := range statements {
		all[i] = postgres.Statement{What: s.what, SQL: s.sql}
		if strings.Contains(s.sql, "$1") {
			all[i].Args = []any{b.Room()}
		}
	}
	return b.Run(ctx, all)
}

// exec runs one statement, and returns the number of rows that it has written.
func (b *batch) exec(ctx context.Context, what, sql string, args ...any) (rows int64, err error) {
	tag, err := b.Exec(ctx, sql, args...)
	if err != nil {
		return 0, fmt.Errorf("%s: %w", what, err)
	}
	return tag.RowsAffected(), nil
}

// A transaction is a batch, or a transaction that only reads.
type transaction interface {
	postgres.Querier
	postgres.Execer
}
