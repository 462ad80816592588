package purge

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"

	"lethe/internal/schema"
	"lethe/internal/store/journal"
	"lethe/internal/store/postgres"

	"github.com/jackc/pgx/v5"
)

// ErrBeyondExtremities is returned by a purge that would leave the room without a
// forward extremity.
var ErrBeyondExtremities = errors.New("topological_ordering is greater than forward extremities")

// ErrPartialState is returned by a purge of a room that Synapse has joined without
// its whole state. Synapse fetches the rest, and its rows about that reference events.
var ErrPartialState = errors.New("the room's state is not complete yet: Synapse is still fetching it from another server")

// A HistoryRequest says which history of a room to purge.
type HistoryRequest struct {
	Room string

	// Before is the lowest depth that stays.
	Before int64

	// DeleteLocal also deletes events sent by users of this server. Defaults to false.
	DeleteLocal bool

	// ServerName is this server's name.
	ServerName string

	// KeepMappings leaves the rows of event_to_state_groups to the caller, which knows the
	// events by [SelectedEvents]. Defaults to false.
	KeepMappings bool
}

// SelectedEvents is a query for the ids of the events of a batch, until its end.
const SelectedEvents = `SELECT event_id FROM pg_temp.lethe_selected`

// A History purges the history of one room. It serves one goroutine.
type History struct {
	HistoryRequest
	purger  *Purger
	catalog Catalog
}

// History returns a purge of a room's history. It fails with [ErrCatalog] as
// [Purger.HistoryCatalog] does.
func (p *Purger) History(ctx context.Context, request HistoryRequest) (*History, error) {
	catalog, err := p.history.get(ctx, p)
	if err != nil {
		return nil, err
	}
	return &History{HistoryRequest: request, purger: p, catalog: catalog}, nil
}

func (h *History) batch(b *journal.Batch) *batch {
	return &batch{Batch: b, purger: h.purger, catalog: h.catalog}
}

// A HistoryBatch is the result of one batch of a history purge.
type HistoryBatch struct {
	// Cut is the depth to which the room is now purged.
	Cut int64

	// Deleted and Kept are the numbers of events that the batch has deleted, and that
	// it has made outliers.
	Deleted, Kept int64

	// RowWise says why the server had to check references row by row. It is "" if the
	// batch checked them set-wise.
	RowWise string
}

// selectable is the condition for an event e to be selected by a purge. $1 is the
// room, $2 says whether local events are deleted, and $3 is this server's name.
// deletable is the condition for a selected event to be deleted, given its row s of
// state_events, if any. An event whose sender is missing or has no domain counts as
// local, so that nothing is deleted by mistake. An event counts as a state event if
// either its own row or state_events says so, since an index of state_events may have
// lost its entry. A rejected event sets no state.
//
// A sender's domain is everything after the first colon, including a port. OFFSET
// keeps the planner from reading the whole of state_events: it is read only for
// outliers, whose number the planner does not know.
const (
	mayGo      = `($2 OR coalesce(substr(e.sender, nullif(strpos(e.sender, ':'), 0) + 1) <> $3, false))`
	noState    = `(e.state_key IS NULL OR e.rejection_reason IS NOT NULL)`
	deletable  = `s.event_id IS NULL AND ` + noState + ` AND ` + mayGo
	selectable = `e.room_id = $1 AND (NOT e.outlier
		OR ` + mayGo + ` AND ` + noState + ` AND NOT EXISTS (SELECT FROM state_events s WHERE s.event_id = e.event_id OFFSET 0))`

	// Deletable is deletable for queries that count beforehand what a purge will delete.
	Deletable = deletable
)

// NextDepth returns the lowest depth, at or above from, of an event that the purge
// selects, or [postgres.ErrNotFound]. It reads committed data without a lock, so
// that a batch need not walk over levels that were purged before.
func (h *History) NextDepth(ctx context.Context, from int64) (int64, error) {
	return h.nextDepth(ctx, from, `ASC`)
}

// LastDepth is [History.NextDepth] for the highest depth.
func (h *History) LastDepth(ctx context.Context) (int64, error) {
	return h.nextDepth(ctx, math.MinInt64, `DESC`)
}

func (h *History) nextDepth(ctx context.Context, from int64, order string) (depth int64, err error) {
	err = h.purger.db.QueryRow(ctx, `
		SELECT e.topological_ordering
		FROM events e
		WHERE e.topological_ordering >= $4 AND e.topological_ordering < $5 AND `+selectable+`
		ORDER BY e.topological_ordering `+order+` LIMIT 1`,
		h.Room, h.DeleteLocal, h.ServerName, from, h.Before).Scan(&depth)
	if errors.Is(err, pgx.ErrNoRows) {
		err = postgres.ErrNotFound
	}
	if err != nil {
		return 0, fmt.Errorf("find the next depth to purge: %w", err)
	}
	return depth, nil
}

// Purge purges the levels from the given depth up to a cut. It chooses the cut so
// that at most maxEvents events are selected, but at least one level. After the
// commit the room is as a finished purge to the cut leaves it, except that state
// groups without an event are only noted for [History.CollectStateGroups].
//
// It fails with [ErrBeyondExtremities] or [ErrPartialState], or as [journal.Batch]
// does. Then the caller must roll the batch back.
func (h *History) Purge(ctx context.Context, b *journal.Batch, from int64, maxEvents int) (HistoryBatch, error) {
	batch := h.batch(b)
	done, err := h.purge(ctx, batch, from, maxEvents)
	if errors.Is(err, errReferenced) {
		// Let the server check, which knows for sure and names the constraint.
		b.Rollback(ctx)
		batch.catalog.setRowWise(err.Error())
		done, err = h.purge(ctx, batch, from, maxEvents)
	}
	if err != nil {
		return HistoryBatch{}, fmt.Errorf("purge a batch of history: %w", err)
	}
	return done, nil
}

func (h *History) purge(ctx context.Context, b *batch, from int64, maxEvents int) (HistoryBatch, error) {
	// One round trip, with the begin of the batch.
	var opening pgx.Batch
	opening.Queue(beyondExtremities, h.Room, h.Before).QueryRow(guard)
	size := eventsTable.Create(&opening) // with the rows of the last batch
	if err := b.Send(ctx, &opening); err != nil {
		return HistoryBatch{}, err
	}
	done, err := h.selectEvents(ctx, b, from, maxEvents, *size)
	if err != nil {
		return HistoryBatch{}, err
	}
	done.RowWise = b.catalog.RowWise()
	if done.Deleted+done.Kept == 0 {
		return done, nil
	}
	if err := censorRedacted(ctx, b); err != nil {
		return HistoryBatch{}, err
	}
	deletes := historyDeletes
	if !h.KeepMappings {
		deletes.duringSearch = slices.Concat(deletes.duringSearch, []statement{mappingsOfKept})
		deletes.common = slices.Concat(deletes.common, []eventRows{mappings})
	}
	if b.catalog.has("sliding_sync_joined_rooms") {
		deletes.before = slidingSyncStatements
	}
	if b.catalog.has("sticky_events") {
		sticky := Reference{Table: "sticky_events", Column: "event_stream_ordering", Key: "stream_ordering"}
		deletes.rare = slices.Concat(deletes.rare, []Reference{sticky})
	}
	deletes.rare = slices.Concat(deletes.rare, each(b.catalog.rules.With(schema.DeleteByEvent), ofEvent))
	if done.Cut == h.Before && done.Deleted+done.Kept <= fewEvents && !h.KeepMappings {
		deletes.after = slices.Concat(deletes.after, []statement{dismissUsed(b.catalog)})
	}
	_, err = b.purgeSelected(ctx, selection{done.Deleted, done.Kept}, deletes)
	return done, err
}

// fewEvents is the maximum number of events for which the last batch of a purge also
// dismisses state groups.
const fewEvents = 200

// dismissUsed dismisses some of the room's state group candidates that are in use,
// as [History.CollectStateGroups] does. A small purge mostly leaves no others, and
// so takes only one batch.
func dismissUsed(catalog Catalog) statement {
	return checked("dismiss the state groups in use", fmt.Sprintf(`
		DELETE FROM lethe.state_group_candidates c
		WHERE c.room_id = $1 AND c.state = 'found' AND `+stateGroupUsed(catalog)+`
		  AND c.state_group = ANY (ARRAY(
			SELECT n.state_group FROM lethe.state_group_candidates n
			WHERE n.room_id = $1 AND n.state = 'found' ORDER BY n.state_group LIMIT %d))`, fewEvents), `c.room_id = $1`)
}

// Guard fails with [ErrBeyondExtremities] if the purge goes above the highest
// forward extremity. It may delete lower ones. A room without any may be purged to
// any depth. It fails with [ErrPartialState] while Synapse fetches the room's state.
// Every batch checks both too.
func (h *History) Guard(ctx context.Context) error {
	return guard(h.purger.db.QueryRow(ctx, beyondExtremities, h.Room, h.Before))
}

const beyondExtremities = `
	SELECT coalesce(max(e.depth) < $2, false), EXISTS (SELECT FROM partial_state_rooms WHERE room_id = $1)
	FROM event_forward_extremities x JOIN events e ON e.event_id = x.event_id
	WHERE x.room_id = $1`

// guard reads the row of [beyondExtremities].
func guard(row pgx.Row) error {
	var beyond, partial bool
	switch err := row.Scan(&beyond, &partial); {
	case err != nil:
		return fmt.Errorf("read the forward extremities: %w", err)
	case partial:
		return ErrPartialState
	case beyond:
		return ErrBeyondExtremities
	}
	return nil
}

// selectEvents fills the temporary table lethe_selected with the events that the
// batch purges: whole levels only. size is the table's size in bytes before.
func (h *History) selectEvents(ctx context.Context, b *batch, from int64, maxEvents int, size int64) (HistoryBatch, error) {
	type filled struct {
		deleted, kept, wrong int64
		low, high            *int64
	}
	fill := func(size, from, to int64, limit *int) (f filled, err error) {
		var pipeline pgx.Batch
		if size > 0 {
			pipeline.Queue(eventsTable.Clear(size))
		}
		args := []any{h.Room, h.DeleteLocal, h.ServerName, from, to, limit}
		pipeline.Queue(selectHistory.sql, args...).QueryRow(func(row pgx.Row) error {
			return row.Scan(&f.deleted, &f.kept, &f.low, &f.high, &f.wrong)
		})
		err = b.Send(ctx, &pipeline)
		if err == nil && f.wrong > 0 {
			err = b.corrupt(ctx, nil, selectHistory, args)
		}
		return f, err
	}

	// One event more than fits tells whether more follow, and from which depth.
	limit := maxEvents + 1
	f, err := fill(size, from, h.Before, &limit)
	if err != nil {
		return HistoryBatch{}, fmt.Errorf("select events: %w", err)
	}
	n := f.deleted + f.kept
	done := HistoryBatch{Cut: h.Before, Deleted: f.deleted, Kept: f.kept}
	switch {
	case n <= int64(maxEvents): // all that was left
	case *f.low < *f.high:
		done.Cut = *f.high
		var deleted, kept int64
		if err := b.QueryRow(ctx, `
			WITH cut AS (DELETE FROM pg_temp.lethe_selected WHERE topological_ordering >= $1 RETURNING deletable)
			SELECT count(*) FILTER (WHERE deletable), count(*) FILTER (WHERE NOT deletable) FROM cut`, done.Cut).
			Scan(&deleted, &kept); err != nil {
			return HistoryBatch{}, fmt.Errorf("cut the selection: %w", err)
		}
		done.Deleted, done.Kept = f.deleted-deleted, f.kept-kept
	default: // one level holds more than fits, and a level is never split
		done.Cut = *f.low + 1
		if f, err = fill(postgres.FewBytes, *f.low, done.Cut, nil); err != nil {
			return HistoryBatch{}, fmt.Errorf("select a whole level: %w", err)
		}
		done.Deleted, done.Kept = f.deleted, f.kept
	}
	return done, nil
}

// selectHistory fills lethe_selected with events from depth $4 up to $5, the lowest
// $6 of them, and returns their numbers and depths. A row that an index should not have
// found becomes neither deletable nor kept. Its columns are read from the table, so they
// show it.
var selectHistory = statement{what: "select events", sql: `
	WITH filled AS (
		INSERT INTO pg_temp.lethe_selected
		SELECT e.event_id, e.topological_ordering, e.stream_ordering,
		       CASE WHEN e.room_id = $1 AND e.topological_ordering >= $4 AND e.topological_ordering < $5
		             AND (s.event_id IS NULL OR s.event_id = e.event_id) THEN ` + deletable + ` END, e.place
		FROM (
			SELECT e.event_id, e.room_id, e.topological_ordering, e.stream_ordering, e.sender, e.state_key, e.rejection_reason, e.ctid AS place
			FROM events e
			WHERE e.topological_ordering >= $4 AND e.topological_ordering < $5 AND ` + selectable + `
			ORDER BY e.topological_ordering LIMIT $6
		) AS e LEFT JOIN state_events s ON s.event_id = e.event_id
		RETURNING deletable, topological_ordering
	)
	SELECT count(*) FILTER (WHERE deletable), count(*) FILTER (WHERE NOT deletable),
	       min(topological_ordering), max(topological_ordering), count(*) FILTER (WHERE deletable IS NULL) FROM filled`}

// referenced is the condition to keep a backward extremity x: an event that stays in
// the timeline follows it. OFFSET keeps the planner from evaluating that for all
// events at once.
const referenced = `EXISTS (
	SELECT FROM event_edges g JOIN events e ON e.event_id = g.event_id
	WHERE g.prev_event_id = x.event_id AND NOT g.is_state AND NOT e.outlier
	  AND e.event_id NOT IN ` + selectedIDs + ` OFFSET 0)`

// remaining selects from the events that are not deleted, and newestOfRest the
// newest of them in the stream.
const (
	remaining    = `FROM events e WHERE e.room_id = $1 AND e.stream_ordering IS NOT NULL AND e.event_id NOT IN ` + deletableIDs
	newestOfRest = `(SELECT e.stream_ordering ` + remaining + ` ORDER BY e.stream_ordering DESC LIMIT 1)`
)

// slidingSyncStatements make a room's sliding sync row refer to events that stay.
// Otherwise a batch could never delete the room's newest event when it arrived late
// and lies deep, because the row references it.
var slidingSyncStatements = []statement{
	checked("drop the sliding sync row of an empty room", `
		DELETE FROM sliding_sync_joined_rooms j
		WHERE j.room_id = $1 AND j.event_stream_ordering = `+anyDeletableStream+` AND NOT EXISTS (SELECT `+remaining+`)`, `j.room_id = $1`).of("sliding_sync_joined_rooms"),
	checked("repoint the sliding sync row", `
		UPDATE sliding_sync_joined_rooms j SET event_stream_ordering = `+newestOfRest+`
		WHERE j.room_id = $1 AND j.event_stream_ordering = `+anyDeletableStream, `j.room_id = $1`),
}

// ofRoomsEvents deletes the rows of the deletable events from a table that has no
// index by event, but has few rows of a room.
func ofRoomsEvents(table string) statement {
	return checked("delete from "+table, `DELETE FROM `+table+` t WHERE t.room_id = $1 AND `+deletableRow, `t.room_id = $1`).of(table)
}

// latestDeleted is the condition that a thread's latest event is deletable. The
// thread has the depth of its latest event, and is found by it.
const latestDeleted = `
	t.room_id = $1 AND t.latest_event_id IN ` + deletableIDs + `
	AND t.topological_ordering >= (SELECT min(s.topological_ordering) FROM pg_temp.lethe_selected s)
	AND t.topological_ordering <= (SELECT max(s.topological_ordering) FROM pg_temp.lethe_selected s)`

// newestInThread selects from the events in a thread t, without its root, that stay.
const newestInThread = `
	FROM event_relations r JOIN events e ON e.event_id = r.event_id
	WHERE r.relates_to_id = t.thread_id AND r.relation_type = 'm.thread' AND e.room_id = $1 AND e.stream_ordering IS NOT NULL`

// threadStatements run when the events' relations are deleted.
var threadStatements = []statement{
	checked("delete from threads", `
		DELETE FROM threads t USING pg_temp.lethe_selected s
		WHERE s.deletable AND t.room_id = $1 AND t.thread_id = s.event_id`, `t.room_id = $1 AND t.thread_id = s.event_id`).of("threads"),
	checked("delete the threads that are left without events", `
		DELETE FROM threads t
		WHERE `+latestDeleted+` AND NOT EXISTS (SELECT `+newestInThread+` OFFSET 0)`, `t.room_id = $1`).of("threads"),
	checked("repoint the threads", `
		UPDATE threads t SET (latest_event_id, topological_ordering, stream_ordering) = (
			SELECT e.event_id, e.topological_ordering, e.stream_ordering `+newestInThread+`
			ORDER BY e.topological_ordering DESC, e.stream_ordering DESC LIMIT 1)
		WHERE `+latestDeleted, `t.room_id = $1`),
}

// afterDeletes run at the end of a batch.
var afterDeletes = []statement{
	checked("make outliers of the events that stay", `
		UPDATE events e SET outlier = true WHERE e.event_id = `+anyKeptID, `e.event_id IN `+keptIDs),
	// This is the last statement, because a process that persists an event of the room
	// waits for this row.
	checked("set the room's depth", `
		UPDATE room_depth SET min_depth = coalesce((
			SELECT min(e.depth)
			FROM event_backward_extremities x
			JOIN event_edges g ON g.prev_event_id = x.event_id
			JOIN events e ON e.event_id = g.event_id
			WHERE x.room_id = $1), 0)
		WHERE room_id = $1`, `room_id = $1`),
}

// mappings are the mappings of events to state groups. Their groups are noted: one that
// was dismissed as used may have lost its last event now, so it must be checked again.
var mappings = eventRows{table: "event_to_state_groups", sql: `
	WITH gone AS (
		DELETE FROM event_to_state_groups t WHERE %s RETURNING t.state_group, %s AS meant
	), noted AS (
		INSERT INTO lethe.state_group_candidates (room_id, state_group) SELECT DISTINCT $1, state_group FROM gone
		ON CONFLICT DO NOTHING
	)
	SELECT count(*), count(*) FILTER (WHERE meant IS NOT TRUE) FROM gone`}

// mappingsOfKept deletes the mappings of the events that become outliers.
var mappingsOfKept = statement{
	"delete the mappings of events that stay",
	fmt.Sprintf(mappings.sql, `t.event_id = `+anyKeptID, `t.event_id IN `+keptIDs), mappings.table, true,
}

// historyDeletes are the deletes of a history purge.
var historyDeletes = deletes{
	duringSearch: []statement{
		// With sequential scans of lethe_selected forbidden, the planner considers a
		// plan that reads it for each of several extremities worse than any other.
		planFreely,
		checked("prune the backward extremities", `
			DELETE FROM event_backward_extremities x WHERE x.room_id = $1 AND NOT `+referenced, `x.room_id = $1`).of("event_backward_extremities"),
		planIndexScans,
		// In this order few rows are looked up: the followers of nearly all events are
		// selected too, and that is known without reading events.
		{what: "add backward extremities", sql: `
			WITH followed AS MATERIALIZED (
				SELECT g.prev_event_id AS event_id, g.event_id AS by
				FROM event_edges g
				WHERE g.prev_event_id = ` + anySelectedID + ` AND NOT g.is_state
				  AND g.event_id NOT IN ` + selectedIDs + `
			)
			INSERT INTO event_backward_extremities (event_id, room_id)
			SELECT DISTINCT f.event_id, $1 FROM followed f JOIN events e ON e.event_id = f.by WHERE NOT e.outlier
			ON CONFLICT DO NOTHING`},
	},
	common: []eventRows{
		{table: "event_auth"},
		{table: "event_json"},
		{table: "event_edges"},
		{table: "event_search"},
		// The counts of a summary include only actions that were rotated into it and
		// not read since.
		{table: "event_push_actions", byRoom: true, sql: `
			WITH gone AS (
				DELETE FROM event_push_actions t WHERE %s
				RETURNING t.user_id, t.thread_id, t.stream_ordering, t.notif, t.unread,
				          %s AS meant
			), counted AS (
				SELECT y.user_id, y.thread_id,
				       count(*) FILTER (WHERE a.notif = 1) AS notif, count(*) FILTER (WHERE a.unread = 1) AS unread
				FROM gone a
				JOIN event_push_summary y ON y.room_id = $1 AND y.user_id = a.user_id AND y.thread_id = a.thread_id
				WHERE a.stream_ordering <= (SELECT stream_ordering FROM event_push_summary_stream_ordering)
				  AND (y.last_receipt_stream_ordering IS NULL OR a.stream_ordering > y.last_receipt_stream_ordering)
				GROUP BY y.user_id, y.thread_id
			), lowered AS (
				UPDATE event_push_summary y
				SET notif_count = greatest(y.notif_count - c.notif, 0),
				    unread_count = greatest(coalesce(y.unread_count, 0) - c.unread, 0)
				FROM counted c WHERE y.room_id = $1 AND y.user_id = c.user_id AND y.thread_id = c.thread_id
				RETURNING y.room_id = $1 AND y.user_id = c.user_id AND y.thread_id = c.thread_id AS meant
			)
			SELECT count(*), count(*) FILTER (WHERE meant IS NOT TRUE) + (SELECT count(*) FROM lowered WHERE meant IS NOT TRUE)
			FROM gone`},
	},
	rare: []Reference{
		ofEvent("event_expiry"),
		ofEvent("event_forward_extremities"),
		ofEvent("event_labels"),
		ofEvent("event_push_actions_staging"),
		ofEvent("event_relations"),
		// A relation to an event that is gone says nothing any more, except that the
		// event existed.
		{Table: "event_relations", Column: "relates_to_id", Key: "event_id"},
		ofEvent("rejections"),
	},
	afterRare: slices.Concat(redactionStatements, threadStatements, []statement{
		ofRoomsEvents("event_failed_pull_attempts"),
		ofRoomsEvents("federation_inbound_events_staging"),
		ofRoomsEvents("stream_ordering_to_exterm"),
	}),
	after: afterDeletes,
}
