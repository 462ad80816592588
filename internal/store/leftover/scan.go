package leftover

import (
	"context"
	"fmt"
	"slices"

	"lethe/internal/store/postgres"
)

// maxScanned is the number of rows of a table from which a scan counts no more.
const maxScanned = 10_000

// A Scan is what a scan has found.
type Scan struct {
	// Exists says that the room exists: then its rows are not left.
	Exists bool

	// Scanned is the number of tables that were scanned.
	Scanned int

	Report

	// Failed are the errors of the tables that could not be scanned, by name: the scan
	// of such a table may have taken too long.
	Failed map[string]error
}

// Scan asks all classified tables for rows of the keys, with or without an index: it
// may read all of them. A table that cannot be scanned does not stop the others.
func (c *Checker) Scan(ctx context.Context, keys Keys) (Scan, error) {
	known, err := c.readTables(ctx)
	if err != nil {
		return Scan{}, err
	}
	scan := Scan{Failed: map[string]error{}}
	var found []Table
	for columns := range chunksByTable(known.columns) {
		table := columns[0].table
		scan.Scanned++
		some, err := c.ask(ctx, columns, keys, bounds{rows: maxScanned, time: c.options.ScanTime})
		if ctx.Err() != nil {
			return Scan{}, fmt.Errorf("scan the table %s: %w", table, err)
		}
		if err != nil {
			scan.Failed[table] = err
			continue
		}
		found = append(found, some...)
	}
	scan.Report = c.report(found)
	scan.NotChecked = slices.Concat(known.unreadable, known.unkeyed)
	slices.Sort(scan.NotChecked)
	scan.NotChecked = slices.Compact(scan.NotChecked)
	scan.Exists = slices.ContainsFunc(scan.Left, func(t Table) bool { return t.Table == "rooms" })
	return scan, nil
}

// chunksByTable returns the columns of each table. They are sorted by table.
func chunksByTable(columns []column) func(yield func([]column) bool) {
	return func(yield func([]column) bool) {
		for len(columns) > 0 {
			n := slices.IndexFunc(columns, func(c column) bool { return c.table != columns[0].table })
			if n < 0 {
				n = len(columns)
			}
			if !yield(columns[:n]) {
				return
			}
			columns = columns[n:]
		}
	}
}

// Delete returns the statement that deletes the rows of the table's keys. The keys may
// be any text.
func Delete(ctx context.Context, db *postgres.DB, t Table) (statement string, err error) {
	if err := db.ReadRow(ctx, []any{&statement}, `
		SELECT pg_catalog.format('DELETE FROM %s WHERE %I IN (%s);', coalesce(to_regclass(quote_ident($1))::text, quote_ident($1)), $2::text,
		              (SELECT string_agg(quote_literal(key), ', ') FROM pg_catalog.unnest($3::text[]) AS key))`,
		t.Table, t.Column, t.Keys); err != nil {
		return "", fmt.Errorf("quote the statement: %w", err)
	}
	return statement, nil
}
