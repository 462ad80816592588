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

// A table is the size of a table by the server's statistics.
type table struct {
	// rows and bytes are of the whole table, with its indexes. rows is 0 if it was never
	// analyzed.
	rows, bytes int64

	// byRoom says that an index begins with the table's column room_id.
	byRoom bool
}

// tableSizes selects the tables $1 that the database has. The number of rows is that of
// the last VACUUM or ANALYZE, or else what the server has counted since its start. No
// right on a table is needed for any of it.
const tableSizes = `
	SELECT n.name, CASE WHEN c.reltuples > 0 THEN c.reltuples::bigint ELSE coalesce(pg_stat_get_live_tuples(c.oid), 0) END,
	       coalesce(pg_total_relation_size(c.oid), 0),
	       EXISTS (
	         SELECT FROM pg_index i JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[0]
	         WHERE i.indrelid = c.oid AND i.indisvalid AND i.indpred IS NULL AND a.attname = 'room_id')
	FROM unnest($1::text[]) AS n (name) JOIN pg_class c ON c.oid = to_regclass(n.name)`

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
	rows, err := s.tx.Query(ctx, tableSizes, slices.Compact(names))
	if err != nil {
		return err
	}
	s.tables = map[string]table{}
	var name string
	var t table
	_, err = pgx.ForEachRow(rows, []any{&name, &t.rows, &t.bytes, &t.byRoom}, func() error {
		s.tables[name] = t
		return nil
	})
	return err
}

// has reports whether the database has the table.
func (s *Snapshot) has(name string) bool {
	_, ok := s.tables[name]
	return ok
}

// counted returns the figure of rows of a table that were counted.
func (s *Snapshot) counted(name string, rows int64) Figure {
	return Figure{Rows: rows, Bytes: s.tables[name].size(rows), Exact: true}
}

// estimated returns the figure of about so many rows of a table.
func (s *Snapshot) estimated(name string, rows float64) Figure {
	n := int64(math.Round(min(max(rows, 0), math.MaxInt64/2)))
	return Figure{Rows: n, Bytes: s.tables[name].size(n)}
}

// size returns the bytes of so many rows, at most those of the whole table. If more
// rows were counted than the statistics know of, the statistics are old.
func (t table) size(rows int64) int64 {
	if rows == 0 {
		return 0
	}
	return int64(float64(t.bytes) * (float64(rows) / float64(max(t.rows, rows))))
}

// per returns how many rows of a table there are for each row of another, by the
// statistics of all rooms. Without statistics it is 1.
func (s *Snapshot) per(of, name string) float64 {
	if s.tables[of].rows == 0 {
		return 1
	}
	return float64(s.tables[name].rows) / float64(s.tables[of].rows)
}
