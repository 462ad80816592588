package leftover

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"lethe/internal/store/postgres"
)

// grace is how much longer than its time a question may take before it is given up
// here. The server ends the statement itself, but not the preparation of the statement,
// which waits for the locks of tables too.
const grace = 500 * time.Millisecond

// Why rows are there that a delete should have deleted.
const (
	whyAgain = "the room exists again: a server or a user has come back to it since the delete"
	whyLeft  = "the delete should have deleted it: a process has written it during or after the delete, or an index is corrupt"
)

// Check asks each classified table by the keys where an index leads with one, except
// those that were asked already. It asks no table by reading all of it. If its time is over, or if anything fails, the
// report says that the check was skipped. A later check may find more, and also fewer:
// it reads committed data without a lock.
func (c *Checker) Check(ctx context.Context, keys Keys) Report {
	ctx, cancel := context.WithTimeout(ctx, c.options.Time+grace)
	defer cancel()
	report, err := c.check(ctx, keys)
	switch {
	case err == nil:
		return report
	case postgres.HasCode(err, "57014"), postgres.IsLocked(err), errors.Is(err, context.DeadlineExceeded):
		return Report{Skipped: fmt.Sprintf("the check took longer than %s", c.options.Time)}
	}
	c.forget() // a table or a right may have gone since it was read
	return Report{Skipped: postgres.Sanitize(err.Error())}
}

func (c *Checker) check(ctx context.Context, keys Keys) (Report, error) {
	known, err := c.tables(ctx)
	if err != nil {
		return Report{}, err
	}
	var asked []column
	askedTables, byRoom := map[string]bool{}, map[string]bool{}
	for _, column := range known.columns {
		if column.indexed && column.key == roomKey {
			byRoom[column.table] = true
		}
	}
	for _, column := range known.columns {
		// The rows of the room's events and state groups name the room too, if there is a
		// column for it. Asking for these as well takes as long again and finds the same.
		if column.indexed && (column.key == roomKey || !byRoom[column.table]) {
			askedTables[column.table] = true
			if column.key != roomKey || !slices.Contains(keys.Asked, column.table) {
				asked = append(asked, column)
			}
		}
	}
	b := bounds{rows: c.options.Rows, time: c.options.Time, byIndex: true}
	some, err := c.some(ctx, asked, keys, b)
	if err != nil {
		return Report{}, err
	}
	var found []Table
	if len(some) > 0 {
		if found, err = c.ask(ctx, some, keys, b); err != nil {
			return Report{}, err
		}
	}
	report := c.report(found)
	report.NotChecked = slices.Concat(known.unreadable, known.unkeyed)
	for _, column := range known.columns {
		if !askedTables[column.table] {
			report.NotChecked = append(report.NotChecked, column.table)
		}
	}
	slices.Sort(report.NotChecked)
	report.NotChecked = slices.DeleteFunc(slices.Compact(report.NotChecked), func(table string) bool { return askedTables[table] })
	return report, nil
}

// report tells the rows that are left from those that are kept. found is sorted by
// table.
func (c *Checker) report(found []Table) Report {
	report := Report{Left: []Table{}}
	why := whyLeft
	if slices.ContainsFunc(found, func(t Table) bool { return t.Table == "rooms" }) {
		why = whyAgain
	}
	for _, t := range found {
		reason, keeps := c.keeps(t.Table)
		if keeps {
			t.Why = reason
			report.Kept = append(report.Kept, t)
			continue
		}
		t.Why = why
		report.Left = append(report.Left, t)
	}
	return report
}

// bounds are the bounds of a question.
type bounds struct {
	rows int
	time time.Duration

	// byIndex makes the server use indexes only.
	byIndex bool
}

// some returns the columns that have rows of the keys. Usually there are none, and this
// question costs much less than that for the rows themselves.
func (c *Checker) some(ctx context.Context, columns []column, keys Keys, b bounds) ([]column, error) {
	ctx, cancel := context.WithTimeout(ctx, b.time+grace)
	defer cancel()
	questions := make([]string, len(columns))
	for i, column := range columns {
		questions[i] = fmt.Sprintf(`EXISTS (SELECT FROM %s WHERE %s OPERATOR(pg_catalog.=) ANY (%s))`,
			column.shown, pgx.Identifier{column.name}.Sanitize(), parameters[column.key])
	}
	var has []bool
	err := c.db.InOneTrip(ctx, func(pipeline *pgx.Batch) {
		limit(pipeline, b)
		// The last element gives each parameter its type, even if no other has it.
		pipeline.Queue(`SELECT ARRAY[`+strings.Join(append(questions, `coalesce($1::text[], $2::text[], $3::bigint[]::text[]) IS NULL`), ", ")+`]`,
			postgres.OnlyStorable(keys.Rooms), postgres.OnlyStorable(keys.Events), keys.StateGroups).
			QueryRow(func(row pgx.Row) error { return row.Scan(&has) })
	})
	if err != nil {
		return nil, fmt.Errorf("look for tables with rows that are left: %w", err)
	}
	var found []column
	for i, column := range columns {
		if has[i] {
			found = append(found, column)
		}
	}
	return found, nil
}

// ask returns the tables with rows of the keys, in the order of the columns. If
// several columns of a table find rows, the one with the most counts.
func (c *Checker) ask(ctx context.Context, columns []column, keys Keys, b bounds) ([]Table, error) {
	ctx, cancel := context.WithTimeout(ctx, b.time+grace)
	defer cancel()
	// The first branch gives each parameter its type, even if no other has it.
	questions := []string{`SELECT 0, 0::bigint, NULL::text[] WHERE $1::text[] IS NULL AND $2::text[] IS NULL AND $3::bigint[] IS NULL AND $4::int IS NULL`}
	for i, column := range columns {
		name := pgx.Identifier{column.name}.Sanitize()
		questions = append(questions, fmt.Sprintf(`
			SELECT %[1]d, count(*), (pg_catalog.array_agg(DISTINCT key))[1:%[2]d]
			FROM (SELECT %[3]s::text AS key FROM %[4]s WHERE %[3]s OPERATOR(pg_catalog.=) ANY (%[5]s) LIMIT $4) AS found HAVING count(*) > 0`,
			i, maxNamed, name, column.shown, parameters[column.key]))
	}
	found := map[string]Table{}
	err := c.db.InOneTrip(ctx, func(pipeline *pgx.Batch) {
		limit(pipeline, b)
		// One row more than is counted shows that there are more.
		pipeline.Queue(strings.Join(questions, ` UNION ALL `),
			postgres.OnlyStorable(keys.Rooms), postgres.OnlyStorable(keys.Events), keys.StateGroups, b.rows+1).
			Query(func(rows pgx.Rows) error {
				var i int
				var n int64
				var named []string
				_, err := pgx.ForEachRow(rows, []any{&i, &n, &named}, func() error {
					t := Table{Table: columns[i].table, Rows: min(n, int64(b.rows)), More: n > int64(b.rows), Column: columns[i].name, Keys: named}
					if t.Rows > found[t.Table].Rows {
						found[t.Table] = t
					}
					return nil
				})
				return err
			})
	})
	if err != nil {
		return nil, fmt.Errorf("look for rows that are left: %w", err)
	}
	var tables []Table
	for _, t := range found {
		tables = append(tables, t)
	}
	slices.SortFunc(tables, func(a, b Table) int { return cmp.Compare(a.Table, b.Table) })
	return tables, nil
}

// limit sets up the transaction of a question.
//
// The statement has a branch for each table, so planning it takes longer than running
// it: a connection plans it once for all keys. That plan must not depend on how many
// rows a key is expected to have, nor read a table from end to end.
func limit(pipeline *pgx.Batch, b bounds) {
	scans := "on"
	if b.byIndex {
		scans = "off"
	}
	pipeline.Queue(`
		SELECT set_config('statement_timeout', $1, true), set_config('lock_timeout', $1, true),
		       set_config('enable_seqscan', $2, true), set_config('enable_bitmapscan', $2, true),
		       set_config('plan_cache_mode', 'force_generic_plan', true), set_config('jit', 'off', true),
		       set_config('transaction_read_only', 'on', true)`, postgres.Milliseconds(b.time), scans)
}
