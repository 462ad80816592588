package purge

import (
	"context"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"

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
	table     string // whose rows it deletes, for the counts of the job, "" for none

	// counts says that the statement is [checked]: it returns the number of rows that
	// it has written, and how many of these it should not have found.
	counts bool
}

// run runs the statements in order, in one round trip, and returns the number of
// deleted rows. It fails with [ErrCorrupt] if a checked statement has written a row
// that it should not have found. Then all have run, and the caller must roll the
// batch back.
func (b *batch) run(ctx context.Context, statements []statement) (deleted int64, err error) {
	var checked int64
	all := make([]postgres.Statement, len(statements))
	wrong := make([]int64, len(statements))
	for i, s := range statements {
		all[i] = postgres.Statement{What: s.what, SQL: s.sql, Args: b.args(s), Deleted: func(rows int64) { b.Count(s.table, rows) }}
		if s.counts {
			all[i].Row = func(row pgx.Row) error {
				var rows int64
				err := row.Scan(&rows, &wrong[i])
				checked += rows
				b.Count(s.table, rows)
				return err
			}
		}
	}
	deleted, err = b.Run(ctx, all)
	if err != nil {
		return 0, b.corruptAt(ctx, statements, err)
	}
	for i, s := range statements {
		if wrong[i] > 0 {
			return 0, b.corrupt(ctx, statements[:i], s, b.args(s))
		}
	}
	return deleted + checked, nil
}

func (b *batch) args(s statement) []any {
	if strings.Contains(s.sql, "$1") {
		return []any{b.Room()}
	}
	return nil
}

// exec runs one statement, and returns the number of rows that it has written.
func (b *batch) exec(ctx context.Context, what, sql string, args ...any) (rows int64, err error) {
	tag, err := b.Exec(ctx, sql, args...)
	if err != nil {
		return 0, fmt.Errorf("%s: %w", what, err)
	}
	return tag.RowsAffected(), nil
}

// execChecked runs one [checked] statement, and returns the number of rows that it
// has written. It fails with [ErrCorrupt] as run does.
func (b *batch) execChecked(ctx context.Context, s statement, args ...any) (rows int64, err error) {
	var wrong int64
	if err := b.QueryRow(ctx, s.sql, args...).Scan(&rows, &wrong); err != nil {
		return 0, fmt.Errorf("%s: %w", s.what, err)
	}
	if wrong > 0 {
		return 0, b.corrupt(ctx, nil, s, args)
	}
	b.Count(s.table, rows)
	return rows, nil
}

// A transaction is a batch, or a transaction that only reads.
type transaction interface {
	postgres.Querier
	postgres.Execer
}
