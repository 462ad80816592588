package purge

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"lethe/internal/store/postgres"

	"github.com/jackc/pgx/v5"
)

// errReferenced is returned by a set-wise check that has found a reference to a
// deleted event.
var errReferenced = errors.New("a deleted event is referenced")

// deletes are the statements of a purge apart from deleting the events themselves.
type deletes struct {
	// before and after run before and after all deletes.
	before, after []statement

	// duringSearch runs while another connection searches for rows. It changes nothing
	// that has a foreign key.
	duringSearch []statement

	// common are the tables in which most events have rows.
	common []eventRows

	// rare are columns of tables in which few events have rows. beforeRare and afterRare
	// run before and after deleting these.
	beforeRare []statement
	rare       []Reference
	afterRare  []statement
}

// ofRare returns the deletes from the tables in which few events have rows. For many
// events the planner may read such a table as a whole.
func (d deletes) ofRare(many bool) []statement {
	if many {
		return slices.Concat([]statement{planFreely}, d.beforeRare, each(d.rare, cascade), d.afterRare)
	}
	return slices.Concat(d.beforeRare, each(d.rare, Reference.deleteByKey), d.afterRare)
}

// The ids of the selected events, and of the deletable and the kept ones among them,
// as arrays. Their rows in a table are then looked up by an index, one event after
// another and in the index's order. A join with lethe_selected would return the
// same. But the planner then assumes that this room has an average room's share of
// the table, and reads all rows of a large room, or of the whole table, in every
// batch.
const (
	anySelectedID  = `ANY (ARRAY(SELECT s.event_id FROM pg_temp.lethe_selected s))`
	anyDeletableID = `ANY (ARRAY(SELECT s.event_id FROM pg_temp.lethe_selected s WHERE s.deletable))`
	anyKeptID      = `ANY (ARRAY(SELECT s.event_id FROM pg_temp.lethe_selected s WHERE NOT s.deletable))`

	anyDeletableStream = `ANY (ARRAY(SELECT s.stream_ordering FROM pg_temp.lethe_selected s WHERE s.deletable))`
)

// The same ids for IN and NOT IN, which hash them, whatever number the planner
// expects.
const (
	selectedIDs  = `(SELECT pg_catalog.unnest(ARRAY(SELECT s.event_id FROM pg_temp.lethe_selected s)))`
	keptIDs      = `(SELECT pg_catalog.unnest(ARRAY(SELECT s.event_id FROM pg_temp.lethe_selected s WHERE NOT s.deletable)))`
	deletableIDs = `(SELECT pg_catalog.unnest(ARRAY(SELECT s.event_id FROM pg_temp.lethe_selected s WHERE s.deletable)))`

	// deletableRow is the condition that a row t belongs to a deletable event.
	deletableRow = `t.event_id IN ` + deletableIDs
)

// After planIndexScans, rows are looked up one by one, even in small tables.
// Otherwise the planner expects an array to have ten elements, and would read a
// small table and compare each of its rows with thousands of elements. After
// planBitmapScans, the rows that an index has found are read in the order of the
// table. That is mostly the order in which the events arrived, so a batch's rows lie
// side by side. After planFreely the planner decides alone.
var (
	planIndexScans = statement{what: "plan index scans", sql: setLocal(`enable_indexscan=on enable_bitmapscan=on
		enable_seqscan=off enable_hashjoin=off enable_mergejoin=off`)}
	planBitmapScans = statement{what: "plan bitmap scans", sql: setLocal(`enable_bitmapscan=on enable_hashjoin=on enable_mergejoin=on
		enable_seqscan=off enable_indexscan=off`)}
	planFreely = statement{what: "plan freely", sql: setLocal(`enable_indexscan=on enable_bitmapscan=on
		enable_seqscan=on enable_hashjoin=on enable_mergejoin=on`)}

	triggersOff = statement{what: "turn triggers off", sql: `SELECT set_config('session_replication_role', 'replica', true)`}
	triggersOn  = statement{what: "turn triggers on", sql: `SELECT set_config('session_replication_role', 'origin', true)`}
)

// setLocal returns the statement that changes settings until the end of the
// transaction.
func setLocal(all string) string {
	var each []string
	for _, setting := range strings.Fields(all) {
		name, value, _ := strings.Cut(setting, "=")
		each = append(each, `set_config('`+name+`', '`+value+`', true)`)
	}
	return `SELECT ` + strings.Join(each, ", ")
}

// deleteByID deletes the rows of a table that belong to deletable events, by index.
func deleteByID(table string) statement {
	return eventRows{table: table}.deleteByID()
}

// ofEvent returns the column event_id of a table.
func ofEvent(table string) Reference {
	return Reference{Table: table, Column: "event_id", Key: "event_id"}
}

// deleteByKey deletes the rows that reference deletable events, by index. The operator has
// its schema, because the table may be the operator's, with a column of any type of text.
func (r Reference) deleteByKey() statement {
	deletable := `(ARRAY(SELECT s.` + r.Key + ` FROM pg_temp.lethe_selected s WHERE s.deletable))`
	return checked("delete from "+r.Table, `
		DELETE FROM `+r.Table+` t WHERE t.`+r.Column+` OPERATOR(pg_catalog.=) ANY `+deletable, `t.`+r.Column+` OPERATOR(pg_catalog.=) ANY (SELECT pg_catalog.unnest`+deletable+`)`).of(r.Table)
}

// cascade is deleteByKey with a join. The planner then may read a small table
// instead of looking up each event.
func cascade(r Reference) statement {
	return checked("delete from "+r.Table, `
		DELETE FROM `+r.Table+` t USING pg_temp.lethe_selected s WHERE s.deletable AND t.`+r.Column+` OPERATOR(pg_catalog.=) s.`+r.Key, `t.`+r.Column+` OPERATOR(pg_catalog.=) s.`+r.Key).of(r.Table)
}

// deleteEventsInPlace deletes the deletable events at their places in the table,
// without an index. It leaves an event that has moved since it was selected. Another
// event may be in that place by now, so the id is compared too. IS TRUE keeps the
// planner from turning that into a join, in which it prefers the index.
var deleteEventsInPlace = statement{what: "delete from events", table: "events", sql: `
	DELETE FROM events e
	WHERE e.ctid = ANY (ARRAY(SELECT s.place FROM pg_temp.lethe_selected s WHERE s.deletable))
	  AND (e.event_id IN ` + deletableIDs + `) IS TRUE`}

// A selection is the numbers of deletable and of kept events in lethe_selected.
type selection struct{ deletable, kept int64 }

func (s selection) events() int64 { return s.deletable + s.kept }

// purgeSelected deletes the deletable events of lethe_selected and everything that
// belongs to them. It returns the number of rows that these statements have deleted.
func (b *batch) purgeSelected(ctx context.Context, selected selection, rows deletes) (deleted int64, err error) {
	before := append([]statement{planIndexScans}, rows.before...)
	many := selected.events() >= b.purger.searchFrom
	byID := slices.Concat(rows.duringSearch, []statement{planBitmapScans}, each(rows.common, eventRows.deleteByID), rows.ofRare(many))
	if !b.catalog.setWise || selected.events() < b.catalog.setWiseFrom {
		// The settings also apply to the server's own checks, each of which looks up
		// one row. Its cascades delete whatever their index finds, so the batch deletes
		// these rows before, if the role has the right.
		cascades := b.catalog.cascades()
		if !b.catalog.setWise {
			cascades = nil
		}
		before, after := slices.Concat(before, byID, []statement{planIndexScans}, cascades), append([]statement{planFreely}, rows.after...)
		if !many { // fewer round trips, but more lookups
			return b.run(ctx, slices.Concat(before, []statement{deleteEventsInPlace, deleteByID("events")}, after))
		}
		if deleted, err = b.run(ctx, before); err != nil {
			return 0, err
		}
		events, err := b.deleteEvents(ctx, selected, after)
		return deleted + events, err
	}

	// With triggers off, the server neither checks references nor cascades. The events
	// are deleted first: from then on no other transaction can add a row that
	// references one, since it waits for the event's lock and then fails. Rows that
	// others have committed before are seen by the following statements, because in
	// READ COMMITTED each has a snapshot of its own.
	before = append(before, triggersOff)
	if many {
		deleted, err = b.purgeMany(ctx, selected, before, rows)
	} else {
		deleted, err = b.run(ctx, slices.Concat(before, []statement{deleteByID("events")}, byID, []statement{planFreely}, b.catalog.cascades()))
	}
	if err != nil {
		return 0, err
	}
	more, err := b.run(ctx, append([]statement{triggersOn}, rows.after...))
	if err != nil {
		return 0, err
	}
	return deleted + more, b.checkReferences(ctx)
}

// deleteEvents deletes the deletable events, and then runs the statements after. It
// returns the number of rows that these statements have deleted.
func (b *batch) deleteEvents(ctx context.Context, selected selection, after []statement) (deleted int64, err error) {
	deleted, err = b.run(ctx, []statement{deleteEventsInPlace})
	if err != nil {
		return 0, err
	}
	if deleted < selected.deletable {
		after = append([]statement{deleteByID("events")}, after...)
	}
	more, err := b.run(ctx, after)
	return deleted + more, err
}

// purgeMany does the part of purgeSelected before the triggers are on again, for
// many events. If a connection is free, it searches for most of the rows there.
func (b *batch) purgeMany(ctx context.Context, selected selection, before []statement, rows deletes) (deleted int64, err error) {
	run := func(statements ...[]statement) (int64, error) {
		n, err := b.run(ctx, slices.Concat(statements...))
		deleted += n
		return n, err
	}
	if _, err := run(before); err != nil {
		return 0, err
	}
	if deleted, err = b.deleteEvents(ctx, selected, nil); err != nil {
		return 0, err
	}
	found, err := b.search(ctx, selected, rows.common)
	if err != nil {
		return 0, err
	}
	defer func() { _ = found.close() }()
	if _, err := run(rows.duringSearch, rows.ofRare(true), b.catalog.cascades(), []statement{planBitmapScans}); err != nil {
		return 0, err
	}
	var inPlaces bool
	for _, r := range rows.common {
		rows, ok := found.next(r.table)
		if ok = ok && !rows.wrong; ok {
			inPlaces = true
			n, err := b.deleteInPlace(ctx, r, rows.places)
			if err != nil {
				return 0, fmt.Errorf("delete from %s in place: %w", r.table, err)
			}
			b.Count(r.table, n)
			deleted += n
			ok = n == rows.places.Len()
		}
		if !ok {
			if _, err := run([]statement{r.deleteByID()}); err != nil {
				return 0, err
			}
		}
	}
	if err := found.close(); inPlaces && err != nil {
		return 0, fmt.Errorf("search for rows: %w", err)
	}
	_, err = run([]statement{planFreely})
	return deleted, err
}

// each returns the results of do for all values.
func each[T, R any](values []T, do func(T) R) []R {
	var results []R
	for _, value := range values {
		results = append(results, do(value))
	}
	return results
}

// cascades deletes the rows that the server's cascades would delete.
func (c Catalog) cascades() []statement {
	var statements []statement
	for _, r := range c.references {
		if r.Cascade {
			statements = append(statements, cascade(r))
		}
	}
	return statements
}

// checkReferences fails with [errReferenced] if a row still references a deleted
// event. It runs one semi-join for each referencing column, instead of a lookup in
// each for every deleted row. It skips columns by which the batch has deleted rows.
func (b *batch) checkReferences(ctx context.Context) error {
	var checks []string
	for _, r := range b.catalog.references {
		if r.Cascade || (r.Column == "event_id" && b.catalog.DeletesByEvent(r.Table)) {
			continue
		}
		// No EXISTS, which the planner optimizes for finding a row early: here there
		// should be no row at all.
		checks = append(checks, `
			SELECT '`+strings.ReplaceAll(r.String(), "'", "''")+`'
			FROM `+r.Table+` t JOIN pg_temp.lethe_selected s ON t.`+r.Column+` OPERATOR(pg_catalog.=) s.`+r.Key+`
			WHERE s.deletable
			HAVING count(*) > 0`)
	}
	if len(checks) == 0 {
		return nil
	}
	found, err := postgres.Collect(ctx, b, pgx.RowTo[string], strings.Join(checks, " UNION ALL"))
	if err != nil {
		return fmt.Errorf("check the references: %w", err)
	}
	if len(found) > 0 {
		return fmt.Errorf("%w: by %s", errReferenced, strings.Join(found, ", "))
	}
	return nil
}
