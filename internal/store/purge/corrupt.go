package purge

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"

	"lethe/internal/store/postgres"
)

// ErrCorrupt is returned when an index has led a purge to a row that the index's own
// columns contradict. The batch must be rolled back: it has written rows that the
// purge did not select.
var ErrCorrupt = errors.New("an index is corrupt")

// checked returns a statement that counts the rows it writes, and those for which
// the condition does not hold. change is a DELETE or UPDATE. The condition repeats
// what change has searched for.
//
// The repetition is not redundant. An index scan never compares the row that it
// finds with the key that it searched for, so a corrupt index leads a DELETE to the
// rows of another room. RETURNING evaluates the condition on the row itself.
func checked(what, change, condition string) statement {
	return statement{what: what, sql: `
		WITH written AS (` + change + ` RETURNING (` + condition + `) AS meant)
		SELECT count(*), count(*) FILTER (WHERE meant IS NOT TRUE) FROM written`, counts: true}
}

// of returns the statement as one that deletes rows of the table.
func (s statement) of(table string) statement {
	s.table = table
	return s
}

// corrupt returns an [ErrCorrupt] that names the indexes by which the server runs a
// statement after those before it.
func (b *batch) corrupt(ctx context.Context, before []statement, s statement, args []any) error {
	plan, err := b.explain(ctx, before, s, args)
	if err != nil {
		return errors.Join(fmt.Errorf("%s: %w", s.what, ErrCorrupt), err)
	}
	return corruptIndexes(s.what, plan.Values("Index Name"))
}

// corruptAt returns the error of one of the statements. If the server itself has
// noticed that data is corrupt, the error is an [ErrCorrupt] that names all indexes
// of the tables in the statement, and the batch is rolled back.
func (b *batch) corruptAt(ctx context.Context, statements []statement, err error) error {
	var failed *postgres.StatementError
	if !postgres.IsCorruption(err) || !errors.As(err, &failed) {
		return err
	}
	i := slices.IndexFunc(statements, func(s statement) bool { return s.sql == failed.Statement.SQL })
	// The transaction has failed, so explain the statement in another.
	b.Rollback(ctx)
	for _, table := range []postgres.TempTable{eventsTable, groupsTable, chainsTable} {
		if err := b.empty(ctx, table); err != nil {
			return errors.Join(ErrCorrupt, failed, err)
		}
	}
	plan, explainErr := b.explain(ctx, statements[:i], statements[i], failed.Statement.Args)
	if explainErr != nil {
		return errors.Join(ErrCorrupt, failed, explainErr)
	}
	indexes, queryErr := indexesOfTables(ctx, b, plan.Values("Relation Name"))
	return errors.Join(corruptIndexes(failed.Statement.What, indexes), failed.Err, queryErr)
}

func indexesOfTables(ctx context.Context, q postgres.Querier, tables []string) ([]string, error) {
	return postgres.Collect(ctx, q, pgx.RowTo[string], `
		SELECT indexrelid::regclass::text FROM pg_index
		WHERE indrelid = ANY (SELECT to_regclass(quote_ident(name))::oid FROM pg_catalog.unnest($1::text[]) AS name) ORDER BY 1`, tables)
}

func corruptIndexes(what string, indexes []string) error {
	// Those of the batch's own tables are made anew in each session.
	indexes = slices.DeleteFunc(indexes, func(name string) bool { return strings.HasPrefix(name, "lethe_") })
	return fmt.Errorf("%s: %w: a search by %s disagrees with the table; run lethe doctor --deep, and REINDEX it",
		what, ErrCorrupt, strings.Join(indexes, " or "))
}

// explain returns the server's plan for a statement, with the settings that the
// statements before it have made.
func (b *batch) explain(ctx context.Context, before []statement, s statement, args []any) (postgres.Plan, error) {
	for _, set := range before {
		if strings.HasPrefix(strings.TrimSpace(set.sql), "SELECT set_config") {
			if _, err := b.Exec(ctx, set.sql); err != nil {
				return postgres.Plan{}, fmt.Errorf("%s: %w", set.what, err)
			}
		}
	}
	return postgres.Explain(ctx, b, s.sql, args...)
}
