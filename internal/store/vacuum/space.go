package vacuum

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"

	"lethe/internal/store/postgres"
)

// chunkWidth is about how many bytes a row of a TOAST table takes: a full one takes 2,000,
// and the last one of each value is shorter.
const chunkWidth = 1500

// maxTail is the most pages at the end of a table that are read for an estimate: 32 MiB.
const maxTail = 4096

// Space returns an estimate of what can be had of the table's space. It reads up to 4,096
// pages at the table's end. The estimate is nil if the server has no statistics of the
// table that the role may read.
func (q *Queries) Space(ctx context.Context, f Facts) (*Space, error) {
	if f.width == 0 {
		return nil, nil
	}
	used := min(int64(f.width*float64(f.Live)), f.size)
	dead := min(int64(f.width*float64(f.Dead)), f.size-used)
	s := &Space{Bytes: f.size + f.indexes + f.toast, Dead: dead, Reusable: f.size - used - dead}
	s.Rewrite = f.size - used
	if f.size > 0 { // the entries of an index are as sparse as the rows of its table, or denser
		s.Rewrite += int64(float64(f.indexes) * float64(f.size-used) / float64(f.size))
	}
	if f.chunks > 0 {
		free := max(f.toast-f.chunks*chunkWidth, 0)
		s.Reusable, s.Rewrite = s.Reusable+free, s.Rewrite+free
	}
	tail, err := q.emptyTail(ctx, f)
	s.Returnable = min(tail*blockSize, f.size)
	return s, err
}

// emptyTail returns about how many pages at the end of the table have no row: the largest
// power of two for which that is so. It is 0 if the role may not read the table.
func (q *Queries) emptyTail(ctx context.Context, f Facts) (pages int64, err error) {
	for n := int64(1); n <= min(f.Pages, maxTail); n *= 2 {
		var found bool
		err := q.db.ReadRow(ctx, []any{&found},
			`SELECT EXISTS (SELECT FROM `+f.Qualified+` WHERE ctid >= $1::text::tid)`, fmt.Sprintf("(%d,0)", f.Pages-n))
		switch {
		case postgres.HasCode(err, "42501"): // no privilege
			return 0, nil
		case err != nil:
			return 0, fmt.Errorf("read the end of the table %s: %w", f.Name, err)
		case found:
			return pages, nil
		}
		pages = n
	}
	return pages, nil
}

// Emptied are the tables from which the jobs of the last 30 days have deleted most, by the
// rows of lethe.jobs.
const emptied = `
	SELECT d.key FROM lethe.jobs j CROSS JOIN LATERAL jsonb_each_text(j.deleted) AS d
	WHERE j.ended_at > clock_timestamp() - interval '30 days'
	GROUP BY d.key ORDER BY sum(d.value::bigint) DESC, d.key LIMIT 10`

// Emptied returns the estimates of up to 10 tables from which jobs have deleted rows in the
// last 30 days, those with the most deleted rows first. Tables without an estimate are left
// out.
func (q *Queries) Emptied(ctx context.Context) (tables []EmptiedTable, err error) {
	names, err := postgres.ReadAll(ctx, q.db, pgx.RowTo[string], emptied)
	if err != nil {
		return nil, fmt.Errorf("look for tables that jobs have emptied: %w", err)
	}
	found, err := q.Facts(ctx, names, 0)
	if err != nil {
		return nil, err
	}
	for _, name := range names {
		for _, f := range found {
			if f.Name != name {
				continue
			}
			space, failed := q.Space(ctx, f)
			err = errors.Join(err, failed)
			if space != nil {
				tables = append(tables, EmptiedTable{Name: name, Pages: f.Pages, Space: space})
			}
		}
	}
	return tables, err
}
