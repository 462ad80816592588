package checkup

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"lethe/internal/store/postgres"
	"lethe/internal/store/purge"
)

// ErrNoAmcheck is returned when indexes cannot be checked because the extension
// amcheck is not installed.
var ErrNoAmcheck = errors.New("the extension amcheck is not installed in this database")

// indexCheckTime bounds the check of one index. It reads the index and its table.
const indexCheckTime = 6 * time.Hour

// A CorruptIndex is an index that does not match its table.
type CorruptIndex struct {
	// Name is the index's name, quoted and qualified for SQL as the search path needs.
	Name string

	// Reason is the server's description.
	Reason string
}

// CheckIndexes compares every B-tree index that purges and deletes use with its
// table, and returns how many it has compared and which are corrupt. It reads all of
// these tables and indexes, and blocks nothing but a change of their definitions. It
// fails with [ErrNoAmcheck], or if the role may not call amcheck.
func CheckIndexes(ctx context.Context, db *postgres.DB) (checked int, corrupt []CorruptIndex, err error) {
	var schema *string
	if err := db.QueryRow(ctx, `
		SELECT (SELECT quote_ident(n.nspname::text) FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace
		        WHERE e.extname = 'amcheck')`).Scan(&schema); err != nil {
		return 0, nil, fmt.Errorf("look for amcheck: %w", err)
	}
	if schema == nil {
		return 0, nil, ErrNoAmcheck
	}
	indexes, err := postgres.Collect(ctx, db, pgx.RowTo[string], `
		SELECT i.indexrelid::regclass::text
		FROM pg_index i
		JOIN pg_class c ON c.oid = i.indexrelid
		JOIN pg_am m ON m.oid = c.relam AND m.amname = 'btree'
		JOIN pg_class t ON t.oid = i.indrelid
		WHERE i.indisvalid AND i.indisready AND c.relpersistence = 'p' AND c.relkind = 'i'
		  AND (i.indrelid = ANY (SELECT to_regclass(quote_ident(name))::oid FROM pg_catalog.unnest($1::text[]) AS name)
		       OR t.relnamespace = (SELECT oid FROM pg_namespace WHERE nspname = 'lethe'))
		ORDER BY 1`, purge.UsedTables())
	if err != nil {
		return 0, nil, fmt.Errorf("look for indexes: %w", err)
	}
	for _, name := range indexes {
		err := checkIndex(ctx, db, *schema, name)
		if postgres.IsCorruption(err) {
			corrupt = append(corrupt, CorruptIndex{name, err.Error()})
			err = nil
		}
		if err != nil {
			return checked, corrupt, fmt.Errorf("check the index %s: %w", name, err)
		}
		checked++
	}
	return checked, corrupt, nil
}

func checkIndex(ctx context.Context, db *postgres.DB, schema, name string) error {
	ctx, cancel := context.WithTimeout(ctx, indexCheckTime)
	defer cancel()
	// The second argument also looks in the index for each row of the table.
	_, err := db.Exec(ctx, `SELECT `+schema+`.bt_index_check($1::text::regclass, true)`, name)
	return err
}
