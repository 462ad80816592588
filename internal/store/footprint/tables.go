package footprint

import (
	"context"
	"math"
	"slices"

	"github.com/jackc/pgx/v5"

	"lethe/internal/schema"
)

// candidatesTable is the table of Lethe's that has rows of rooms which are deleted with
// them.
const candidatesTable = "lethe.state_group_candidates"

// A table is what the server knows of a table.
type table struct {
	// rows is the number of its rows by the server's statistics. If these know nothing of
	// the table, it follows from the table's length.
	rows int64

	// width is the number of bytes that a row takes, with its share of the indexes.
	width float64

	// blocks is the number of the table's pages, 0 for a relation without rows of its own, such as a view.
	blocks int64

	// byRoom says that an index begins with the table's column room_id.
	byRoom bool
}

// live is the number of rows of the pg_class c, -1 if it is not known. It is that of the last VACUUM or ANALYZE,
// with the rows that were inserted and deleted since. A server that has lost its
// counters has lost the time of these too; then pg_class has the older number.
const live = `CASE
	WHEN c.reltuples > 0::real AND coalesce(pg_stat_get_last_vacuum_time(c.oid), pg_stat_get_last_autovacuum_time(c.oid),
	       pg_stat_get_last_analyze_time(c.oid), pg_stat_get_last_autoanalyze_time(c.oid)) IS NULL
	THEN c.reltuples::bigint
	WHEN c.reltuples < 0::real THEN coalesce(nullif(pg_stat_get_live_tuples(c.oid), 0), -1)
	ELSE coalesce(pg_stat_get_live_tuples(c.oid), 0) END`

// tableSizes selects the tables $1 that the database has. No right on a table is needed
// for any of it. Values out of line are kept in chunks of about 2,000 bytes and a rest;
// 1,500 is about their average.
const tableSizes = `
	SELECT n.name, l.rows, CASE WHEN l.rows > 0 THEN 1500.0 * greatest(o.rows, 0)::numeric / l.rows::numeric ELSE 0 END::float8,
	       CASE WHEN t.relkind = 'r' THEN pg_relation_size(t.oid::regclass) / $2 ELSE 0 END,
	       EXISTS (
	         SELECT FROM pg_index i JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[0]
	         WHERE i.indrelid = t.oid AND i.indisvalid AND i.indpred IS NULL AND a.attname = 'room_id')
	FROM pg_catalog.unnest($1::text[]) AS n (name)
	JOIN pg_class t ON t.oid = to_regclass(n.name)::oid
	CROSS JOIN LATERAL (SELECT ` + live + ` AS rows FROM pg_class c WHERE c.oid = t.oid) l
	LEFT JOIN LATERAL (SELECT ` + live + ` AS rows FROM pg_class c WHERE c.oid = t.reltoastrelid) o ON true`

// readTables reads the sizes of all tables from which a purge or a delete takes rows.
func (s *Snapshot) readTables(ctx context.Context) error {
	names := []string{candidatesTable, "event_auth_chain_links", "room_alias_servers", "state_groups_persisting", "scheduled_tasks"}
	for _, t := range schema.Tables() {
		if t.Purge != "" || t.Delete != "" {
			names = append(names, t.Name)
		}
	}
	for _, r := range s.catalog.References() {
		names = append(names, r.Table)
	}
	names = append(names, s.catalog.Rules().Deleting()...)
	slices.Sort(names)
	names = slices.Compact(names)
	rows, err := s.tx.Query(ctx, tableSizes, names, blockSize)
	if err != nil {
		return err
	}
	s.tables = map[string]table{}
	var name string
	var t table
	if _, err := pgx.ForEachRow(rows, []any{&name, &t.rows, &t.width, &t.blocks, &t.byRoom}, func() error {
		s.tables[name] = t
		return nil
	}); err != nil {
		return err
	}
	return s.readWidths(ctx, names)
}

// has reports whether the database has the table.
func (s *Snapshot) has(name string) bool {
	_, ok := s.tables[name]
	return ok
}

// counted returns the figure of rows of a table that were counted.
func (s *Snapshot) counted(name string, rows int64) Figure {
	return Figure{Rows: rows, EstimatedBytes: s.tables[name].size(rows), Exact: true}
}

// estimated returns the figure of about so many rows of a table.
func (s *Snapshot) estimated(name string, rows float64) Figure {
	n := int64(math.Round(min(max(rows, 0), math.MaxInt64/2)))
	return Figure{Rows: n, EstimatedBytes: s.tables[name].size(n)}
}

// size returns the bytes of so many rows.
func (t table) size(rows int64) int64 {
	return int64(t.width * float64(rows))
}

// per returns how many rows of a table there are for each row of another, by the
// statistics of all rooms. Without statistics it is 1.
func (s *Snapshot) per(of, name string) float64 {
	if s.tables[of].rows == 0 {
		return 1
	}
	return float64(s.tables[name].rows) / float64(s.tables[of].rows)
}
