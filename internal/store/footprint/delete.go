package footprint

import (
	"context"
	"fmt"
	"slices"

	"lethe/internal/schema"
)

// roomEvents counts the events of a room, by an index alone where the server knows
// that all rows are visible.
const roomEvents = `
	SELECT count(*), coalesce(sum(e.stream_ordering), 0)::text FROM events e WHERE e.room_id = $1`

// roomMedia counts the events of a room that refer to media, by an index of their own.
const roomMedia = `
	SELECT count(*) FROM events e WHERE e.room_id = $1 AND e.contains_url AND NOT e.outlier`

// RoomEvents returns the events that the delete of a room deletes: all of them.
func (s *Snapshot) RoomEvents(ctx context.Context, room string) (events Events, err error) {
	events.Newest = true
	err = s.tx.QueryRow(ctx, roomEvents, room).Scan(&events.Deleted, &events.Checksum)
	if err == nil {
		err = s.tx.QueryRow(ctx, roomMedia, room).Scan(&events.WithURL)
	}
	if err != nil {
		return Events{}, fmt.Errorf("count the events of the room: %w", err)
	}
	return events, nil
}

// What is of a room, for the counts of its delete. The parameter is the room.
const (
	ofRoom = `
	gone AS (SELECT e.event_id FROM events e WHERE e.room_id = $1)`
	roomGroups = `
	groups AS (SELECT g.id FROM state_groups g WHERE g.room_id = $1)`
	isRoomGroup = `IN (SELECT id FROM groups)`
)

// extremitiesGone counts the room's forward extremities, and those that name its events
// in another room's name.
const extremitiesGone = `
	SELECT count(*) FROM (
		SELECT t.event_id, t.room_id FROM event_forward_extremities t WHERE t.room_id = $1
		UNION
		SELECT t.event_id, t.room_id FROM event_forward_extremities t WHERE t.event_id ` + isGone + `) t`

// edgesGone counts the edges from the room's groups, and those to them that a vanished
// group has left.
const edgesGone = `
	SELECT count(*) FROM (
		SELECT t.state_group, t.prev_state_group FROM state_group_edges t WHERE t.state_group ` + isRoomGroup + `
		UNION
		SELECT t.state_group, t.prev_state_group FROM state_group_edges t
		WHERE t.prev_state_group ` + isRoomGroup + ` AND NOT EXISTS (SELECT FROM state_groups g WHERE g.id = t.state_group OFFSET 0)) t`

const chainLinksGone = `
	SELECT count(*) FROM event_auth_chain_links t
	JOIN event_auth_chains c ON t.origin_chain_id = c.chain_id AND t.origin_sequence_number = c.sequence_number
	WHERE c.event_id ` + isGone

const aliasServersGone = `
	SELECT count(*) FROM room_alias_servers t
	WHERE t.room_alias IN (SELECT a.room_alias FROM room_aliases a WHERE a.room_id = $1)`

// roomTables returns the tables that lose all rows with the room's room_id.
func (s *Snapshot) roomTables() []string {
	var names []string
	for _, t := range schema.Tables() {
		if t.Delete == schema.Deletes && schema.Known(t.Name, "room_id") && t.Cascade == "" && !s.catalog.DeletesByEvent(t.Name) &&
			t.Name != "events" && !slices.Contains(stateGroupTables, t.Name) {
			names = append(names, t.Name)
		}
	}
	// These are deleted by the room before a cascade would delete them.
	names = append(names, "msc4242_state_dag_forward_extremities", "thread_subscriptions")
	names = append(names, s.catalog.Rules().ByRoom()...)
	return slices.DeleteFunc(names, func(name string) bool { return !s.has(name) })
}

// roomEventCounts returns the queries for the tables that lose the rows of the room's
// events.
func (s *Snapshot) roomEventCounts() []count {
	counts := []count{
		{"event_auth_chain_links", chainLinksGone},
		{"event_forward_extremities", extremitiesGone},
		{"redactions", redactionsGone},
		{"room_alias_servers", aliasServersGone},
	}
	for _, t := range schema.Tables() {
		special := slices.ContainsFunc(counts, func(c count) bool { return c.table == t.Name })
		if s.catalog.DeletesByEvent(t.Name) && t.Name != "events" && !special {
			counts = append(counts, countOf(t.Name, `t.event_id `+isGone))
		}
	}
	for _, name := range s.catalog.Rules().With(schema.DeleteByEvent) {
		if schema.Named(name) == nil { // others are deleted by the room too
			counts = append(counts, countOf(name, `t.event_id `+isGone))
		}
	}
	byRoom := s.roomTables()
	for _, r := range s.catalog.References() {
		if r.Cascade && r.Key == "event_id" && !slices.Contains(byRoom, r.Table) {
			counts = append(counts, countOf(r.Table, `t.`+r.Column+` `+isGone))
		}
	}
	return slices.DeleteFunc(counts, func(c count) bool { return !s.has(c.table) })
}

// roomGroupCounts returns the queries for the tables of state groups.
func (s *Snapshot) roomGroupCounts() []count {
	counts := []count{
		{"state_group_edges", edgesGone},
		countOf("state_groups_pending_deletion", `t.state_group `+isRoomGroup),
		countOf("state_groups_state", `t.state_group `+isRoomGroup),
	}
	return slices.DeleteFunc(counts, func(c count) bool { return !s.has(c.table) })
}

// RoomLoss returns what the delete of a room takes from the tables. events are its
// events, from the same snapshot. Unless the snapshot is exact, figures of more than
// [Options].Few rows are estimates, and so are those of tables without an index by
// room.
func (s *Snapshot) RoomLoss(ctx context.Context, room string, events Events) (Loss, error) {
	loss := Loss{Tables: map[string]Figure{"events": s.counted("events", events.Deleted)}}
	if !s.exact {
		if err := s.setLocal(ctx, byIndex); err != nil {
			return Loss{}, err
		}
	}
	err := s.countRoom(ctx, room, events, &loss)
	if err == nil {
		err = s.setLocal(ctx, freely)
	}
	if err != nil {
		return Loss{}, fmt.Errorf("count the rows of the room: %w", err)
	}
	return loss, nil
}

func (s *Snapshot) countRoom(ctx context.Context, room string, events Events, loss *Loss) (err error) {
	for _, name := range append(s.roomTables(), "state_groups") {
		if loss.Tables[name], err = s.ofAnyRoom(ctx, name, room); err != nil {
			return err
		}
	}
	few := events.Deleted <= int64(s.options.Few)
	if counts := s.roomEventCounts(); s.exact || few {
		if err := s.count(ctx, loss, counted{`WITH ` + ofRoom, counts, []any{room}, few}); err != nil {
			return err
		}
	} else {
		for _, c := range counts {
			loss.Tables[c.table] = s.estimated(c.table, s.per("events", c.table)*float64(events.Deleted))
		}
	}
	groups := loss.Tables["state_groups"]
	if !groups.Exact {
		s.estimateStateGroups(loss, float64(groups.Rows), false)
		return nil
	}
	few = groups.Rows <= int64(s.options.Few)
	if err := s.count(ctx, loss, counted{`WITH ` + roomGroups, s.roomGroupCounts(), []any{room}, few}); err != nil {
		return err
	}
	loss.StateGroups = groups
	loss.StateGroups.EstimatedBytes += loss.Tables["state_groups_state"].EstimatedBytes
	return nil
}

// ofAnyRoom is ofRoom for a table that may be without an index by room. Then only an
// exact snapshot reads the table.
func (s *Snapshot) ofAnyRoom(ctx context.Context, name, room string) (Figure, error) {
	if s.exact || s.tables[name].byRoom || s.tables[name].rows <= int64(s.options.Few) {
		return s.ofRoom(ctx, name, room)
	}
	expected, err := s.expected(ctx, `SELECT FROM `+name+` WHERE room_id OPERATOR(pg_catalog.=) $1::text`, room)
	if err != nil {
		return Figure{}, fmt.Errorf("estimate the rows of the room in %s: %w", name, err)
	}
	return s.estimated(name, expected), nil
}
