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

// errReferenced is returned by a set-wise check that found a reference to an
// event that was to go.
var errReferenced = errors.New("a deleted event is referenced")

// deletes are what a purge deletes beside the events themselves.
type deletes struct {
	// before and after are the steps before and after all deletes.
	before, after []step

	// own are steps of the batch's own connection, while another one searches. They
	// change nothing that has a foreign key.
	own []step

	// most are rows of tables in which most events have some.
	most []eventRows

	// few are tables in which few events have a row, known by event_id, and
	// first is what is done before these.
	first []step
	few   []string
}

// The selected events, and those of them that are deletable, as arrays: their rows
// in a table are then looked up by an index, one event after the other and in the
// index's order. To join with lethe_selected is the same to the reader, but not to
// the planner. It takes an average room's share of a table for this room's, and
// reads all rows of a large room, or of the table, in every batch.
const (
	theSelected  = `ANY (ARRAY(SELECT s.event_id FROM lethe_selected s))`
	theDeletable = `ANY (ARRAY(SELECT s.event_id FROM lethe_selected s WHERE s.deletable))`
	theKept      = `ANY (ARRAY(SELECT s.event_id FROM lethe_selected s WHERE NOT s.deletable))`

	deletableStreams = `ANY (ARRAY(SELECT s.stream_ordering FROM lethe_selected s WHERE s.deletable))`
)

// The same for NOT IN, which hashes them, however many the planner takes them for.
const (
	selectedIDs  = `(SELECT unnest(ARRAY(SELECT s.event_id FROM lethe_selected s)))`
	deletableIDs = `(SELECT unnest(ARRAY(SELECT s.event_id FROM lethe_selected s WHERE s.deletable)))`
)

// After lookUp, rows are looked up one by one, in small tables too: the planner takes an
// array for one of ten, and would read such a table and compare each of its rows with
// all of thousands. After gather, what an index has found is visited in the order of
// the table. That is mostly the one in which the events came, so that a batch's rows
// lie side by side. After planFreely the planner does as it likes.
var (
	lookUp = step{"look rows up", settings(`enable_indexscan=on enable_bitmapscan=on
		enable_seqscan=off enable_hashjoin=off enable_mergejoin=off`)}
	gather = step{"gather rows", settings(`enable_bitmapscan=on enable_hashjoin=on enable_mergejoin=on
		enable_seqscan=off enable_indexscan=off`)}
	planFreely = step{"plan freely", settings(`enable_indexscan=on enable_bitmapscan=on
		enable_seqscan=on enable_hashjoin=on enable_mergejoin=on`)}

	triggersOff = step{"turn triggers off", `SELECT set_config('session_replication_role', 'replica', true)`}
	triggersOn  = step{"turn triggers on", `SELECT set_config('session_replication_role', 'origin', true)`}
)

// settings is the statement that sets these for the transaction.
func settings(all string) string {
	var each []string
	for _, setting := range strings.Fields(all) {
		name, value, _ := strings.Cut(setting, "=")
		each = append(each, `set_config('`+name+`', '`+value+`', true)`)
	}
	return `SELECT ` + strings.Join(each, ", ")
}

// fromSelected deletes the rows of a table that belong to deletable events.
func fromSelected(table string) step {
	return step{"delete from " + table, `DELETE FROM ` + table + ` t WHERE t.event_id = ` + theDeletable}
}

// joinSelected does the same by a join. The planner then may read a small table
// instead of looking each event up in it.
func joinSelected(table string) step {
	return cascade(reference{table: table, column: "event_id", key: "event_id"})
}

// cascade deletes the rows that reference deletable events.
func cascade(r reference) step {
	return step{"delete from " + r.table, `
		DELETE FROM ` + r.table + ` t USING lethe_selected s WHERE s.deletable AND t.` + r.column + ` = s.` + r.key}
}

// eventsInPlace deletes the deletable events where they were when they were
// selected, without an index. One that somebody has moved since is left; and as
// another may be in its place by now, each is asked for its id.
var eventsInPlace = step{"delete from events", `
	DELETE FROM events e USING lethe_selected s
	WHERE s.deletable AND e.ctid = s.place AND e.event_id = s.event_id`}

// A selection says how many events lethe_selected has: those that are deletable, and
// those that are not.
type selection struct{ deletable, kept int64 }

func (s selection) events() int64 { return s.deletable + s.kept }

// purgeSelected deletes the deletable events of lethe_selected, and what belongs to
// them. It returns how many rows our statements deleted.
func (b *batch) purgeSelected(ctx context.Context, selected selection, rows deletes) (deleted int64, err error) {
	before := append([]step{lookUp}, rows.before...)
	byID := slices.Concat(rows.own, []step{gather}, each(rows.most, eventRows.byID), rows.first, each(rows.few, fromSelected))
	if !b.catalog.setWise || selected.events() < b.catalog.setWiseFrom {
		// The server's own checks are planned as ours are, and look up one row each.
		return b.run(ctx, slices.Concat(before, byID, []step{lookUp, fromSelected("events"), planFreely}, rows.after))
	}

	// With its triggers off the server neither checks references nor cascades.
	// The events go first: from then on a row that references one can no longer be
	// added, since that waits for the lock on it, and then fails. What others have
	// added and committed before, the statements that follow see, for in READ
	// COMMITTED each has a snapshot of its own.
	before = append(before, triggersOff)
	if selected.events() >= b.purger.searchFrom {
		deleted, err = b.purgeMany(ctx, selected, before, rows)
	} else {
		deleted, err = b.run(ctx, slices.Concat(before, []step{fromSelected("events")}, byID, []step{planFreely}, b.catalog.cascades()))
	}
	if err != nil {
		return 0, err
	}
	more, err := b.run(ctx, append([]step{triggersOn}, rows.after...))
	if err != nil {
		return 0, err
	}
	return deleted + more, b.checkReferences(ctx)
}

// purgeMany does what purgeSelected does until the triggers are on again, for many
// events: another connection searches for most of the rows, if there is one to
// spare.
func (b *batch) purgeMany(ctx context.Context, selected selection, before []step, rows deletes) (deleted int64, err error) {
	run := func(steps ...[]step) (int64, error) {
		n, err := b.run(ctx, slices.Concat(steps...))
		deleted += n
		return n, err
	}
	if _, err := run(before); err != nil {
		return 0, err
	}
	switch inPlace, err := run([]step{eventsInPlace}); {
	case err != nil:
		return 0, err
	case inPlace < selected.deletable:
		if _, err := run([]step{fromSelected("events")}); err != nil {
			return 0, err
		}
	}
	found, err := b.search(ctx, selected, rows.most)
	if err != nil {
		return 0, err
	}
	defer func() { _ = found.close() }()
	if _, err := run(rows.own, []step{planFreely}, rows.first, each(rows.few, joinSelected), b.catalog.cascades(), []step{gather}); err != nil {
		return 0, err
	}
	var inPlaces bool
	for _, r := range rows.most {
		places, ok := found.next(r.table)
		if ok {
			inPlaces = true
			n, err := b.deleteInPlace(ctx, r, places)
			if err != nil {
				return 0, fmt.Errorf("delete from %s in place: %w", r.table, err)
			}
			deleted += n
			ok = n == places.len()
		}
		if !ok {
			if _, err := run([]step{r.byID()}); err != nil {
				return 0, err
			}
		}
	}
	if err := found.close(); inPlaces && err != nil {
		return 0, fmt.Errorf("search for rows: %w", err)
	}
	_, err = run([]step{planFreely})
	return deleted, err
}

// each returns what do makes of each of these.
func each[T, R any](these []T, do func(T) R) []R {
	var all []R
	for _, this := range these {
		all = append(all, do(this))
	}
	return all
}

// cascades delete what the server would delete as it cascades.
func (c Catalog) cascades() []step {
	var steps []step
	for _, r := range c.references {
		if r.cascade {
			steps = append(steps, cascade(r))
		}
	}
	return steps
}

// checkReferences fails with [errReferenced] if a row is left that references a
// deleted event: one semi-join for each referencing column, instead of a probe
// of each for each deleted row. Columns that rows were deleted by need none.
func (b *batch) checkReferences(ctx context.Context) error {
	var checks []string
	for _, r := range b.catalog.references {
		if r.cascade || (r.column == "event_id" && b.catalog.deletesByEvent(r.table)) {
			continue
		}
		// Not EXISTS: that is planned for the first of many, and here is none.
		checks = append(checks, `
			SELECT '`+strings.ReplaceAll(r.String(), "'", "''")+`'
			FROM `+r.table+` t JOIN lethe_selected s ON t.`+r.column+` = s.`+r.key+`
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
