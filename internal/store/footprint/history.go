package footprint

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"lethe/internal/schema"
	"lethe/internal/store/purge"
)

// Events are the events that a job deletes or keeps. All figures were counted.
type Events struct {
	// Deleted is the number of events that the job deletes.
	Deleted int64

	// Kept is the number of events below the depth of a purge that stay, and that the
	// purge makes outliers. It is 0 for a delete.
	Kept int64

	// WithURL is the number of deleted events that refer to media, as the homeserver has
	// noted it. It cannot see into encrypted events.
	WithURL int64

	// Checksum differs between two sets of deleted events, even of the same size, except
	// by chance. It has no other meaning.
	Checksum string

	// Newest says that only events of the highest depth stay in the timeline, or that no
	// event does.
	Newest bool
}

// historyEvents counts the events that a purge deletes and keeps. It visits each event
// below the depth $4, by the index (room_id, topological_ordering) or in the order of
// the table, with several processes if the server has any to spare.
//
// A purge's second walk deletes what has arrived below its cuts meanwhile. For a room
// in which nothing happens it deletes nothing, so it does not count.
const historyEvents = `
	SELECT count(*) FILTER (WHERE e.deletable), count(*) FILTER (WHERE NOT e.deletable AND NOT e.outlier),
	       count(*) FILTER (WHERE e.deletable AND e.contains_url),
	       coalesce(sum(hashtextextended(e.event_id, 0::bigint)) FILTER (WHERE e.deletable), 0)::text
	FROM (
		SELECT e.event_id, e.outlier, e.contains_url, ` + purge.Deletable + ` AS deletable
		FROM events e LEFT JOIN state_events s ON s.event_id = e.event_id
		WHERE e.room_id = $1 AND e.topological_ordering < $4
	) e`

// onlyNewestStay says whether no event of the room's timeline lies above the depth $2.
const onlyNewestStay = `
	SELECT NOT EXISTS (SELECT FROM events e WHERE e.room_id = $1 AND e.topological_ordering > $2 AND NOT e.outlier)`

// HistoryEvents returns the events that a purge would delete and keep.
func (s *Snapshot) HistoryEvents(ctx context.Context, request purge.HistoryRequest) (events Events, err error) {
	err = s.tx.QueryRow(ctx, historyEvents, request.Room, request.DeleteLocal, request.ServerName, request.Before).
		Scan(&events.Deleted, &events.Kept, &events.WithURL, &events.Checksum)
	if err == nil {
		err = s.tx.QueryRow(ctx, onlyNewestStay, request.Room, request.Before).Scan(&events.Newest)
	}
	if err != nil {
		return Events{}, fmt.Errorf("count the events of a purge: %w", err)
	}
	return events, nil
}

// A Loss is what a job takes from the tables.
type Loss struct {
	// Tables are the rows that the job deletes, by table. Rows that it first adds to
	// event_backward_extremities, or to state_group_edges for the groups that stay, do
	// not count: of the latter the figure is by how much the rows become fewer.
	Tables map[string]Figure

	// StateGroups are the state groups that the job deletes, with the bytes of their
	// states. Where the request keeps mappings, because Synapse runs, a Synapse that marks
	// groups for deletion deletes them itself later. Then Tables does not have their rows.
	StateGroups Figure

	// StateRowsWritten is the number of rows that state groups which stay take over from
	// deleted ones. It is 0 where StateGroups is not exact.
	StateRowsWritten int64
}

// historyByEvent are the tables that lose the rows of deleted events, and that have an
// index by event_id.
var historyByEvent = []string{
	"event_auth", "event_edges", "event_expiry", "event_forward_extremities", "event_json", "event_labels",
	"event_push_actions_staging", "event_search", "rejections",
}

// historyByRoom lose them too, and have an index by room_id.
var historyByRoom = []string{
	"event_failed_pull_attempts", "event_push_actions", "federation_inbound_events_staging", "stream_ordering_to_exterm",
}

// What a purge does with the events e. The parameters are those of [historyEvents].
const (
	eventsAndState = `events e LEFT JOIN state_events s ON s.event_id = e.event_id`

	// goes is the condition that a purge deletes the event.
	goes = `e.room_id = $1 AND e.topological_ordering < $4 AND ` + purge.Deletable

	// gone are all of these events, and selected those that the purge deletes or makes
	// outliers. The server reads them once for a statement that names them more often, and
	// otherwise as it likes.
	gone = `
	gone AS (SELECT e.event_id, e.stream_ordering FROM ` + eventsAndState + ` WHERE ` + goes + `)`
	selected = `
	selected AS (
		SELECT e.event_id FROM ` + eventsAndState + `
		WHERE e.room_id = $1 AND e.topological_ordering < $4 AND (NOT e.outlier OR ` + purge.Deletable + `)
	)`
	isGone = `OPERATOR(pg_catalog.=) ANY (SELECT event_id FROM gone)`
)

// A count is a query for the number of rows that a table loses.
type count struct{ table, sql string }

func countOf(table, where string) count {
	return count{table, `SELECT count(*) FROM ` + table + ` t WHERE ` + where}
}

// threadsGone counts the threads that lose their root, or all events after it. A thread
// of which an event stays is only repointed. It looks at each thread's events: a list of
// all deleted events may not fit into memory, and would then be read for each thread.
const threadsGone = `
	SELECT count(*) FROM threads t
	WHERE t.room_id = $1 AND (
		EXISTS (SELECT FROM ` + eventsAndState + ` WHERE e.event_id = t.thread_id AND ` + goes + ` OFFSET 0)
		OR EXISTS (SELECT FROM ` + eventsAndState + ` WHERE e.event_id = t.latest_event_id AND ` + goes + ` OFFSET 0)
		   AND NOT EXISTS (
			SELECT FROM event_relations r JOIN events e ON e.event_id = r.event_id LEFT JOIN state_events s ON s.event_id = e.event_id
			WHERE r.relates_to_id = t.thread_id AND r.relation_type = 'm.thread' AND e.room_id = $1 AND e.stream_ordering IS NOT NULL
			  AND NOT (` + goes + `) OFFSET 0))`

// relationsGone counts the relations of deleted events and to deleted events.
const relationsGone = `
	SELECT count(*) FROM (
		SELECT t.event_id FROM event_relations t WHERE t.event_id ` + isGone + `
		UNION
		SELECT t.event_id FROM event_relations t WHERE t.relates_to_id ` + isGone + `) t`

// slidingSyncGone counts the room's row, which goes with its event if no event stays to
// which it could refer.
const slidingSyncGone = `
	SELECT count(*) FROM sliding_sync_joined_rooms j
	WHERE j.room_id = $1
	  AND EXISTS (SELECT FROM ` + eventsAndState + ` WHERE e.stream_ordering = j.event_stream_ordering AND ` + goes + ` OFFSET 0)
	  AND NOT EXISTS (
		SELECT FROM ` + eventsAndState + ` WHERE e.room_id = $1 AND e.stream_ordering IS NOT NULL AND NOT (` + goes + `) OFFSET 0)`

// historyCounts returns the queries for the tables of a purge apart from events and
// from state groups.
func (s *Snapshot) historyCounts() []count {
	var counts []count
	add := func(table, where string) { counts = append(counts, countOf(table, where)) }
	for _, name := range slices.Concat(historyByEvent, s.catalog.Rules().With(schema.DeleteByEvent)) {
		add(name, `t.event_id `+isGone)
	}
	for _, name := range historyByRoom {
		add(name, `t.room_id = $1 AND t.event_id `+isGone)
	}
	for _, r := range s.catalog.References() {
		if r.Cascade {
			add(r.Table, `t.`+r.Column+` IN (SELECT `+r.Key+` FROM gone)`)
		}
	}
	add("event_to_state_groups", `t.event_id IN (SELECT event_id FROM selected)`)
	add("sticky_events", `t.event_stream_ordering IN (SELECT stream_ordering FROM gone)`)
	counts = append(counts, count{"event_relations", relationsGone}, count{"threads", threadsGone},
		count{"sliding_sync_joined_rooms", slidingSyncGone}, count{"redactions", redactionsGone})
	return slices.DeleteFunc(counts, func(c count) bool { return !s.has(c.table) })
}

// HistoryLoss returns what a purge takes from the tables. events are its events, from
// the same snapshot. If they are more than [Options].Few, and the snapshot is not exact,
// most figures are estimates.
func (s *Snapshot) HistoryLoss(ctx context.Context, request purge.HistoryRequest, events Events) (Loss, error) {
	loss := Loss{Tables: map[string]Figure{"events": s.counted("events", events.Deleted)}}
	few := events.Deleted+events.Kept <= int64(s.options.Few)
	if !few && !s.exact {
		err := s.estimateHistory(ctx, request, events, &loss)
		s.leaveStateGroups(request, &loss)
		return loss, err
	}
	if few {
		if err := s.setLocal(ctx, byIndex); err != nil {
			return Loss{}, err
		}
	}
	args := []any{request.Room, request.DeleteLocal, request.ServerName, request.Before}
	if err := s.count(ctx, &loss, counted{`WITH ` + gone + `,` + selected, s.historyCounts(), args, few}); err != nil {
		return Loss{}, fmt.Errorf("count the rows of a purge: %w", err)
	}
	if err := s.subtractCensored(ctx, args, loss.Tables); err != nil {
		return Loss{}, fmt.Errorf("count the redactions of a purge: %w", err)
	}
	err := s.historyStateGroups(ctx, request.Room, args, few, &loss)
	if err == nil {
		err = s.setLocal(ctx, freely)
	}
	if err != nil {
		return Loss{}, fmt.Errorf("find the state groups of a purge: %w", err)
	}
	s.leaveStateGroups(request, &loss)
	return loss, nil
}

// leaveStateGroups takes the tables of state groups out of the loss if Synapse deletes
// the groups: a purge beside it only marks them.
func (s *Snapshot) leaveStateGroups(request purge.HistoryRequest, loss *Loss) {
	if !request.KeepMappings || !s.has("state_groups_pending_deletion") {
		return
	}
	for _, name := range stateGroupTables {
		delete(loss.Tables, name)
	}
	loss.StateRowsWritten = 0
}

// count runs the queries and sets the figures of their tables. If several count rows of
// one table, these are added up. With few, it runs all as one statement. Otherwise each
// is one of its own: the server keeps the events of a statement in memory.
func (s *Snapshot) count(ctx context.Context, loss *Loss, from counted) error {
	together := 1
	if from.few {
		together = max(len(from.counts), 1)
	} else if err := s.setLocal(ctx, inMemory); err != nil {
		return err
	}
	for counts := range slices.Chunk(from.counts, together) {
		questions := make([]string, len(counts))
		for i, c := range counts {
			questions[i] = `(` + c.sql + `)`
		}
		var rows []int64
		sql := from.with + ` SELECT ARRAY[` + strings.Join(questions, ", ") + `]::bigint[]`
		if err := s.tx.QueryRow(ctx, sql, from.args...).Scan(&rows); err != nil {
			return err
		}
		for i, c := range counts {
			loss.Tables[c.table] = s.counted(c.table, loss.Tables[c.table].Rows+rows[i])
		}
	}
	return nil
}

// counted are queries that have the same WITH clause and the same parameters.
type counted struct {
	with   string
	counts []count
	args   []any
	few    bool
}

// estimateHistory sets the figures of a purge of many events.
func (s *Snapshot) estimateHistory(ctx context.Context, request purge.HistoryRequest, events Events, loss *Loss) error {
	var roomsGroups Figure
	var err error
	for _, c := range s.historyCounts() {
		of := events.Deleted
		if c.table == "event_to_state_groups" {
			of += events.Kept
		}
		if loss.Tables[c.table], err = s.atMost(ctx, c.table, request.Room, s.per("events", c.table)*float64(of)); err != nil {
			return err
		}
	}
	if roomsGroups, err = s.ofRoom(ctx, "state_groups", request.Room); err != nil {
		return err
	}
	// As many of the room's state groups as of its events.
	var all Figure
	if all, err = s.ofRoom(ctx, "events", request.Room); err != nil {
		return err
	}
	share := float64(events.Deleted+events.Kept) / float64(max(all.Rows, events.Deleted+events.Kept, 1))
	s.estimateStateGroups(loss, float64(roomsGroups.Rows)*share, roomsGroups.Exact && roomsGroups.Rows == 0)
	return nil
}

// estimateStateGroups sets the figures of about so many state groups. none says that
// the job deletes no group for sure.
func (s *Snapshot) estimateStateGroups(loss *Loss, groups float64, none bool) {
	for _, name := range stateGroupTables {
		if s.has(name) {
			figure := s.estimated(name, groups*s.per("state_groups", name))
			figure.Exact = none
			loss.Tables[name] = figure
		}
	}
	loss.StateGroups = loss.Tables["state_groups"]
	loss.StateGroups.EstimatedBytes += loss.Tables["state_groups_state"].EstimatedBytes
}

// atMost returns an estimate of the rows that a table loses. Where an index shows that
// the room has fewer rows, or no row, it says so.
func (s *Snapshot) atMost(ctx context.Context, name, room string, rows float64) (Figure, error) {
	if !s.tables[name].byRoom {
		return s.estimated(name, rows), nil
	}
	all, err := s.ofRoom(ctx, name, room)
	if err != nil || !all.Exact {
		return s.estimated(name, rows), err
	}
	figure := s.estimated(name, min(rows, float64(all.Rows)))
	figure.Exact = all.Rows == 0
	return figure, nil
}

// ofRoom returns how many rows with the room's room_id a table has that has an index by
// it. It counts up to [Options].Few, or all if the snapshot is exact, and estimates more.
func (s *Snapshot) ofRoom(ctx context.Context, name, room string) (Figure, error) {
	limit := int64(s.options.Few)
	var rows int64
	if s.exact {
		err := s.tx.QueryRow(ctx, `SELECT count(*) FROM `+name+` WHERE room_id OPERATOR(pg_catalog.=) $1::text`, room).Scan(&rows)
		if err != nil {
			return Figure{}, fmt.Errorf("count the rows of the room in %s: %w", name, err)
		}
		return s.counted(name, rows), nil
	}
	err := s.tx.QueryRow(ctx, `
		SELECT count(*) FROM (SELECT FROM `+name+` WHERE room_id OPERATOR(pg_catalog.=) $1::text LIMIT $2) t`, room, limit+1).Scan(&rows)
	if err != nil {
		return Figure{}, fmt.Errorf("count the rows of the room in %s: %w", name, err)
	}
	if rows <= limit {
		return s.counted(name, rows), nil
	}
	expected, err := s.expected(ctx, `SELECT FROM `+name+` WHERE room_id OPERATOR(pg_catalog.=) $1::text`, room)
	if err != nil {
		return Figure{}, fmt.Errorf("estimate the rows of the room in %s: %w", name, err)
	}
	return s.estimated(name, max(expected, float64(rows))), nil
}

// expected returns the number of rows that the planner expects from a query.
func (s *Snapshot) expected(ctx context.Context, sql string, args ...any) (float64, error) {
	var plans []struct {
		Plan struct {
			Rows float64 `json:"Plan Rows"`
		}
	}
	err := s.tx.QueryRow(ctx, `EXPLAIN (FORMAT JSON) `+sql, args...).Scan(&plans)
	if err != nil || len(plans) == 0 {
		return 0, err
	}
	return plans[0].Plan.Rows, nil
}
