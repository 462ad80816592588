package footprint

import (
	"context"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"
)

// How a row takes space, whatever it holds.
const (
	// rowOverhead are the bytes of a row's header, and of its place in the page.
	rowOverhead = 24 + 4

	// indexOverhead are the same of an index's entry.
	indexOverhead = 8 + 4

	// blockSize is the bytes of a page, unless the server was built otherwise.
	blockSize = 8192

	// unknownWidth is taken for a column of which nothing is known.
	unknownWidth = 32

	// sampledBlocks is how many pages of a table are read whose columns the server has
	// never sampled, and sampledRows how many rows of each.
	sampledBlocks, sampledRows = 16, 32
)

// A column is what is known of a table's column.
type column struct {
	name string

	// width is the average number of bytes that it takes in a row. It is nil if the server
	// has no statistics of the column.
	width *float64

	// readable says that this role may read the column, and placed that it may read rows by
	// their places.
	readable, placed bool

	// length is that of the column's type, less than 0 if it varies.
	length float64

	// indexes is the number of the indexes that have the column.
	indexes float64
}

// columnsOf selects the columns of the tables $1, and how many indexes the table has.
// pg_stats has only columns that the role may read. The column -1 is ctid: a role that may read
// single columns of a table may not read rows by their places.
const columnsOf = `
	SELECT n.name, a.attname::text, s.avg_width::float8 * (1::float8 - s.null_frac::float8), has_column_privilege(c.oid, a.attnum, 'SELECT'),
	       has_column_privilege(c.oid, '-1'::int2, 'SELECT'),
	       a.attlen::float8, (SELECT count(*) FROM pg_index i WHERE i.indrelid = c.oid AND a.attnum = ANY (i.indkey::int2[]))::float8,
	       (SELECT count(*) FROM pg_index i WHERE i.indrelid = c.oid)::float8
	FROM pg_catalog.unnest($1::text[]) AS n (name)
	JOIN pg_class c ON c.oid = to_regclass(n.name)::oid
	JOIN pg_namespace m ON m.oid = c.relnamespace
	JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
	LEFT JOIN pg_stats s ON s.schemaname = m.nspname AND s.tablename = c.relname AND s.attname = a.attname AND NOT s.inherited
	ORDER BY n.name, a.attnum`

// readWidths sets the average bytes of a row in each of the tables. They follow from the
// columns, and not from the size of the table: after a purge much of that is empty, and
// stays so.
func (s *Snapshot) readWidths(ctx context.Context, names []string) error {
	rows, err := s.tx.Query(ctx, columnsOf, names)
	if err != nil {
		return err
	}
	columns := map[string][]column{}
	indexes := map[string]float64{}
	var name string
	var c column
	var n float64
	if _, err := pgx.ForEachRow(rows, []any{&name, &c.name, &c.width, &c.readable, &c.placed, &c.length, &c.indexes, &n}, func() error {
		columns[name], indexes[name] = append(columns[name], c), n
		return nil
	}); err != nil {
		return err
	}
	for name, of := range columns {
		t := s.tables[name]
		sampled, err := s.sample(ctx, name, t.blocks, of)
		if err != nil {
			return fmt.Errorf("read rows of %s: %w", name, err)
		}
		if sampled {
			t.width = 0 // the columns have what is out of line too
		}
		inPage, inIndexes := float64(rowOverhead), indexOverhead*indexes[name]
		for _, c := range of {
			inPage += c.bytes()
			inIndexes += c.bytes() * c.indexes
		}
		if t.rows < 0 {
			t.rows = int64(float64(t.blocks) * blockSize / inPage)
		}
		t.width += inPage + inIndexes
		s.tables[name] = t
	}
	return nil
}

// bytes returns what the column takes in a row.
func (c column) bytes() float64 {
	switch {
	case c.width != nil:
		return *c.width
	case c.length > 0:
		return c.length
	default:
		return unknownWidth
	}
}

// sample sets the widths of the columns of a table that was never analyzed, from rows
// that it reads at places spread over the table, and reports whether there was a row at
// any of them.
func (s *Snapshot) sample(ctx context.Context, name string, blocks int64, columns []column) (bool, error) {
	var averages []string
	var read []*column
	for i := range columns {
		if columns[i].width != nil {
			return false, nil
		}
		if columns[i].readable && columns[i].placed {
			averages = append(averages, `coalesce(avg(coalesce(pg_catalog.pg_column_size(`+pgx.Identifier{columns[i].name}.Sanitize()+`), 0)), -1)`)
			read = append(read, &columns[i])
		}
	}
	if blocks == 0 || len(read) == 0 {
		return false, nil
	}
	// A scan of the table, even with TABLESAMPLE, may pass any number of pages before it
	// finds a row. This reads no other page than it names.
	var widths []float64
	err := s.tx.QueryRow(ctx, `
		SELECT ARRAY[`+strings.Join(averages, ", ")+`]::float8[] FROM `+name+`
		WHERE ctid = ANY (ARRAY(
			SELECT pg_catalog.format('(%s,%s)', $1::bigint * block / $2::bigint, row)::tid
			FROM generate_series(0::bigint, $2::bigint - 1) block, generate_series(1::bigint, $3::bigint) row))`,
		blocks, min(blocks, sampledBlocks), sampledRows).Scan(&widths)
	if err != nil || widths[0] < 0 {
		return false, err
	}
	for i, c := range read {
		c.width = &widths[i]
	}
	return true, nil
}
