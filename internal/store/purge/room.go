package purge

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"lethe/internal/schema"
	"lethe/internal/store/expiry"
	"lethe/internal/store/journal"
	"lethe/internal/store/leftover"
	"lethe/internal/store/postgres"

	"github.com/jackc/pgx/v5"
)

// ErrUsersJoined is returned by a room's delete while a user of this server is
// joined to the room, unless the delete is forced.
var ErrUsersJoined = errors.New("Users are still joined to this room")

// A RoomRequest says which room to delete.
type RoomRequest struct {
	Room string

	// ServerName is this server's name.
	ServerName string

	// Force deletes the room even if users of this server are joined to it. Defaults to
	// false.
	Force bool

	// Abandoned, unless nil, is the rule by which the room must be abandoned. Otherwise
	// the delete fails with [expiry.ErrNotAbandoned] and deletes nothing. Set it only
	// for the first batch, which deletes the rows that the rule reads. Defaults to nil.
	Abandoned *expiry.AbandonedRule
}

// A Room deletes one room. It serves one goroutine.
type Room struct {
	RoomRequest
	purger  *Purger
	catalog Catalog

	// idle is the number of batches in a row that have deleted nothing.
	idle int
}

// maxIdle bounds the batches in a row that delete nothing. One may find that the rows
// it was to delete have gone, or that more have arrived. If it happens again and
// again, an index shows rows that the deletes do not find.
const maxIdle = 5

// Room returns the delete of a room. It fails with [ErrCatalog] as
// [Purger.RoomCatalog] does.
func (p *Purger) Room(ctx context.Context, request RoomRequest) (*Room, error) {
	catalog, err := p.room.get(ctx, p)
	if err != nil {
		return nil, err
	}
	return &Room{RoomRequest: request, purger: p, catalog: catalog}, nil
}

// A RoomPosition is the progress of a room's delete. It may be kept as JSON.
type RoomPosition struct {
	// Part is the part of the room that is being deleted, "" at the beginning.
	Part string `json:"part,omitempty"`

	// After is the stream ordering after which the next events are searched for, nil at
	// the beginning.
	After *int64 `json:"after,omitempty"`
}

// A RoomBatch is the result of one batch of a room's delete.
type RoomBatch struct {
	// Events and StateGroups are the numbers of deleted events and state groups. Rows
	// is the number of deleted rows in all other tables, without those that the
	// server's cascades have deleted.
	Events, Rows, StateGroups int64

	// Sample is some of the events and state groups, for the check after the delete.
	Sample leftover.Sample

	// At is where the next batch goes on.
	At RoomPosition

	// Gone says that the batch has deleted the room's own row, the last of the room.
	Gone bool

	// RowWise says why the server had to check references row by row. It is "" if the
	// batch checked them set-wise, or had none to check.
	RowWise string
}

// Guard fails with [ErrUsersJoined] if a user of this server is joined to the room
// and the delete is not forced. Users who are invited, banned or have knocked are
// not joined. Every batch that deletes the room's current state checks it too.
func (r *Room) Guard(ctx context.Context) error { return r.guardUsers(ctx, r.purger.db) }

func (r *Room) guardUsers(ctx context.Context, q postgres.Querier) error {
	if r.Force {
		return nil
	}
	var joined bool
	if err := q.QueryRow(ctx, `
		SELECT EXISTS (
			SELECT FROM current_state_events
			WHERE room_id = $1 AND type = 'm.room.member' AND membership = 'join'
			  AND substr(state_key, nullif(strpos(state_key, ':'), 0) + 1) = $2)`,
		r.RoomRequest.Room, r.ServerName).Scan(&joined); err != nil {
		return fmt.Errorf("look for joined users: %w", err)
	}
	if joined {
		return ErrUsersJoined
	}
	return nil
}

// RoomExists reports whether the room has its own row.
func RoomExists(ctx context.Context, q postgres.Querier, room string) (exists bool, err error) {
	err = q.QueryRow(ctx, `SELECT EXISTS (SELECT FROM rooms WHERE room_id = $1)`, room).Scan(&exists)
	return exists, err
}

// Parts are the parts of a room that are left to delete, in the order of their
// deletion.
type Parts []remainingPart

// Show reports whether the parts include what shows the room to users.
func (p Parts) Show() bool { return len(p) > 0 && p[0].part == roomShown }

// Next returns the parts of the room for the next batch. There are no parts if the
// database has nothing of the room any more. at is the position after the previous
// batch, from its [RoomBatch]; it affects only speed. Next reads committed data
// without a lock. What is left depends only on the database: a run may begin at any
// point, and rows that arrive during the delete bring their part back.
func (r *Room) Next(ctx context.Context, at RoomPosition) (Parts, error) {
	var parts Parts
	err := r.purger.db.InTransaction(ctx, func(tx pgx.Tx) (err error) {
		parts, err = nextParts(ctx, tx, r.catalog, r.RoomRequest.Room, at)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("look for what is left of the room: %w", err)
	}
	return parts, nil
}

// Delete deletes up to size events of these parts, or as many rows as take about as
// long. It may be repeated: a batch that finds nothing changes nothing.
//
// It fails with [ErrUsersJoined] or [expiry.ErrNotAbandoned], or as [journal.Batch]
// does. Then the caller must roll the batch back.
func (r *Room) Delete(ctx context.Context, b *journal.Batch, parts Parts, at RoomPosition, size int) (RoomBatch, error) {
	size = max(size, 1)
	d := &roomDeletion{batch: batch{Batch: b, purger: r.purger, catalog: r.catalog}, room: r, at: at}
	done, err := d.deleteParts(ctx, parts, size)
	if isReferenced(err) && slices.ContainsFunc(parts, func(p remainingPart) bool { return p.part == roomEvents }) {
		// Rows that reference the events were added after the referring parts were
		// deleted. Delete those of the room first. If there are others, the server's
		// own check finds them, and names the constraint.
		b.Rollback(ctx)
		d.catalog.setRowWise(err.Error())
		done, err = d.deleteLateRows(ctx, size)
	}
	if err == nil {
		err = r.checkProgress(ctx, parts, done)
	}
	if err != nil {
		return RoomBatch{}, fmt.Errorf("delete a batch of the room: %w", err)
	}
	return done, nil
}

// checkProgress fails with [ErrCorrupt] after [maxIdle] batches that have deleted
// nothing of the parts that were found.
func (r *Room) checkProgress(ctx context.Context, parts Parts, done RoomBatch) error {
	if done.Events+done.Rows+done.StateGroups > 0 {
		r.idle = 0
		return nil
	}
	if r.idle++; r.idle < maxIdle {
		return nil
	}
	var tables []string
	for _, part := range parts {
		tables = append(tables, part.tables...)
	}
	indexes, err := indexesOfTables(ctx, r.purger.db, tables)
	return errors.Join(corruptIndexes("find what is left", indexes), err)
}

// A roomDeletion is one batch of a room's delete.
type roomDeletion struct {
	batch
	room *Room
	at   RoomPosition
}

// begin locks the room's row, if it exists. A process that persists an event of the
// room holds a share lock on the row. So no event is persisted while the batch
// deletes, and none after the row is gone.
func (d *roomDeletion) begin(ctx context.Context) error {
	if _, err := d.exec(ctx, "lock the room", `SELECT FROM rooms WHERE room_id = $1 FOR UPDATE`, d.Room()); err != nil {
		return err
	}
	if d.room.Abandoned != nil {
		return expiry.GuardAbandoned(ctx, d, d.Room(), *d.room.Abandoned)
	}
	return nil
}

// deleteParts deletes part after part until about size events are deleted, or as
// much as takes as long. So a small room takes only one batch.
func (d *roomDeletion) deleteParts(ctx context.Context, parts Parts, size int) (RoomBatch, error) {
	if err := d.begin(ctx); err != nil {
		return RoomBatch{}, err
	}
	do := map[roomPart]func(context.Context, roomChunk) (RoomBatch, error){
		roomShown: d.hideRoom, roomReferring: d.deleteRows, roomRows: d.deleteRows, roomStates: d.deleteStates,
		roomItself: d.deleteItself, roomEvents: d.deleteEvents,
	}
	var done RoomBatch
	for _, piece := range parts {
		deleted, err := do[piece.part](ctx, roomChunk{remainingPart: piece, size: size})
		if err != nil {
			return RoomBatch{}, err
		}
		done.Events += deleted.Events
		done.Rows += deleted.Rows
		done.StateGroups += deleted.StateGroups
		done.Sample = done.Sample.With(deleted.Sample)
		done.At, done.Gone = deleted.At, deleted.Gone
		done.RowWise = cmp.Or(done.RowWise, deleted.RowWise)
		cost := max(deleted.StateGroups, deleted.Rows/RowsPerEvent)
		if piece.part == roomEvents {
			cost = deleted.Events // and their rows with them
		}
		if size -= int(cost); size <= 0 {
			break // the part may have more rows
		}
	}
	return done, nil
}

// isReferenced reports whether a batch has failed because a row references what it
// was to delete.
func isReferenced(err error) bool {
	return errors.Is(err, errReferenced) || postgres.HasCode(err, "23503")
}

// RowsPerEvent is how many rows of one table take at least as long as an event with
// its rows in a dozen tables. Smaller chunks would take longer, for each chunk walks
// over the rows that the previous ones have deleted.
const RowsPerEvent = 10

// A remainingPart is a part of a room that is left, and its tables that have rows of
// the room.
type remainingPart struct {
	part   roomPart
	tables []string
}

// A roomChunk is the share of a part that one batch deletes.
type roomChunk struct {
	remainingPart
	size int // in events
}

// maxRows returns the maximum number of rows to delete.
func (c roomChunk) maxRows() int64 { return int64(c.size) * RowsPerEvent }

// position returns a position in the chunk's part.
func (c roomChunk) position(after *int64) RoomPosition {
	return RoomPosition{Part: string(c.part), After: after}
}

// nextParts returns the parts that have rows of the room, in the order of their
// deletion. If the part of the previous batch has more rows, it returns only that
// part. It returns nothing if the database has nothing of the room.
func nextParts(ctx context.Context, tx transaction, catalog Catalog, room string, at RoomPosition) (Parts, error) {
	if err := forceIndexScans(ctx, tx); err != nil {
		return nil, err
	}
	indexed := catalog.rooms(true)
	// Check the part of the previous batch first. If it has more rows, the other parts
	// are not checked until it is finished: each check would walk over their deleted
	// rows again.
	var here []roomTable
	for _, t := range indexed {
		if string(t.part) == at.Part {
			here = append(here, t)
		}
	}
	for _, check := range []struct {
		tables []roomTable
		after  *int64
	}{{here, at.After}, {indexed, nil}} {
		left, err := tablesWithRows(ctx, tx, room, check.tables, check.after)
		if err != nil {
			return nil, err
		}
		if len(left) > 0 {
			return partsOf(indexed, left), nil
		}
	}
	// These tables are read from end to end, so only when nothing else is left.
	left, err := tablesWithRows(ctx, tx, room, catalog.rooms(false), nil)
	if err != nil || len(left) == 0 {
		return nil, err
	}
	return Parts{{part: roomItself}}, nil
}

// partsOf returns the parts of the tables that have rows, and last the room itself.
// indexed are all tables that are searched by an index.
func partsOf(indexed, left []roomTable) Parts {
	var parts Parts
	for _, t := range left {
		if len(parts) > 0 && parts[len(parts)-1].part == t.part {
			continue
		}
		// All referring tables, in order, since they reference each other too.
		from := left
		if t.part == roomReferring {
			from = indexed
		}
		part := remainingPart{part: t.part}
		for _, t := range from {
			if t.part == part.part {
				part.tables = append(part.tables, t.name)
			}
		}
		parts = append(parts, part)
	}
	return append(parts, remainingPart{part: roomItself})
}

// forceIndexScans makes the transaction find rows one by one with plain index scans.
// Where a room is most of a table, or is expected to have few rows, the planner
// prefers to read the whole table, or all of the room's rows, and to stop early. But
// the first rows that it would meet are those that the previous batches have
// deleted.
func forceIndexScans(ctx context.Context, tx postgres.Execer) error {
	if _, err := tx.Exec(ctx, setLocal(`enable_seqscan=off enable_bitmapscan=off enable_indexscan=on jit=off`)); err != nil {
		return fmt.Errorf("set up the transaction: %w", err)
	}
	return nil
}

// tablesWithRows returns the tables that have rows of the room, in the same order.
// If after is given, only later events in the stream count.
func tablesWithRows(ctx context.Context, tx postgres.Querier, room string, tables []roomTable, after *int64) ([]roomTable, error) {
	if len(tables) == 0 {
		return nil, nil
	}
	args := []any{room}
	questions := make([]string, len(tables))
	for i, t := range tables {
		more := ""
		if t.part == roomEvents && after != nil {
			more = ` AND stream_ordering > $2`
			args = append(args, *after)
		}
		questions[i] = `EXISTS (SELECT FROM ` + t.name + ` WHERE room_id OPERATOR(pg_catalog.=) $1::text` + more + `)`
	}
	var has []bool
	if err := tx.QueryRow(ctx, `SELECT ARRAY[`+strings.Join(questions, ", ")+`]`, args...).Scan(&has); err != nil {
		return nil, err
	}
	var left []roomTable
	for i, t := range tables {
		if has[i] {
			left = append(left, t)
		}
	}
	return left, nil
}

// hideRoom deletes at once everything that shows the room to users.
func (d *roomDeletion) hideRoom(ctx context.Context, chunk roomChunk) (RoomBatch, error) {
	if err := d.room.guardUsers(ctx, d); err != nil {
		return RoomBatch{}, err
	}
	rows, err := d.run(ctx, hideStatements(d.catalog))
	return RoomBatch{Rows: rows, At: chunk.position(nil)}, err
}

func hideStatements(catalog Catalog) []statement {
	// Aliases that lead to another room by now keep their servers.
	statements := []statement{checked("delete from room_alias_servers", `
		DELETE FROM room_alias_servers s USING room_aliases a WHERE a.room_id = $1 AND s.room_alias = a.room_alias`,
		`a.room_id = $1 AND s.room_alias = a.room_alias`).of("room_alias_servers")}
	for _, t := range catalog.rooms(true) {
		if t.part == roomShown {
			statements = append(statements, ofRoom(t.name))
		}
	}
	return statements
}

// ofRoom deletes all rows of the room from a table.
func ofRoom(table string) statement {
	return checked("delete from "+table, `DELETE FROM `+table+` WHERE room_id OPERATOR(pg_catalog.=) $1::text`, `room_id OPERATOR(pg_catalog.=) $1::text`).of(table)
}

// deleteRows deletes rows of the chunk's tables, one table after another.
func (d *roomDeletion) deleteRows(ctx context.Context, chunk roomChunk) (RoomBatch, error) {
	if err := forceIndexScans(ctx, d); err != nil {
		return RoomBatch{}, err
	}
	done := RoomBatch{At: chunk.position(nil)}
	for _, table := range chunk.tables {
		left := chunk.maxRows() - done.Rows
		if left <= 0 {
			break
		}
		// Rows are deleted by place: that is the only way to name some of the rows in
		// any table, whatever its keys. A row that moves meanwhile is found in the next
		// batch.
		rows, err := d.execChecked(ctx, checked("delete from "+table, `
			DELETE FROM `+table+`
			WHERE ctid = ANY (ARRAY(SELECT ctid FROM `+table+` WHERE room_id OPERATOR(pg_catalog.=) $1::text LIMIT $2))`, `room_id OPERATOR(pg_catalog.=) $1::text`).of(table), d.Room(), left)
		if err != nil {
			return RoomBatch{}, err
		}
		done.Rows += rows
	}
	return done, nil
}

// deleteEvents deletes events, the oldest in the stream first, with everything that
// belongs to each.
func (d *roomDeletion) deleteEvents(ctx context.Context, chunk roomChunk) (RoomBatch, error) {
	if err := d.batch.empty(ctx, eventsTable); err != nil {
		return RoomBatch{}, err
	}
	done := RoomBatch{RowWise: d.catalog.RowWise()}
	var newest *int64
	fill := func(after string, args ...any) error {
		// A row is wrong that an index should not have found.
		s := statement{what: "select events", sql: `
			WITH found AS MATERIALIZED (
				SELECT e.event_id, e.room_id, e.topological_ordering, e.stream_ordering, e.ctid AS place
				FROM events e
				WHERE e.room_id = $1` + after + `
				ORDER BY e.stream_ordering LIMIT $2
			), filled AS (
				INSERT INTO pg_temp.lethe_selected
				SELECT f.event_id, f.topological_ordering, f.stream_ordering, true, f.place FROM found f
			)
			SELECT count(*), max(stream_ordering), count(*) FILTER (WHERE room_id <> $1),
			       ARRAY(SELECT event_id FROM found LIMIT ` + strconv.Itoa(leftover.PerBatch) + `) FROM found`}
		var wrong int64
		err := d.QueryRow(ctx, s.sql, args...).Scan(&done.Events, &newest, &wrong, &done.Sample.Events)
		if err == nil && wrong > 0 {
			err = d.corrupt(ctx, nil, s, args)
		}
		return err
	}
	var err error
	if after := d.at.After; after != nil {
		err = fill(` AND e.stream_ordering > $3`, d.Room(), chunk.size, *after)
	}
	if err == nil && done.Events == 0 { // the rest arrived late, or has no place in the stream
		err = fill(``, d.Room(), chunk.size)
	}
	if err != nil {
		return RoomBatch{}, fmt.Errorf("select events: %w", err)
	}
	done.At = chunk.position(newest)
	if done.Events == 0 {
		return done, nil
	}
	rows, err := d.purgeSelected(ctx, selection{deletable: done.Events}, roomDeletes(d.catalog))
	done.Rows = rows - done.Events
	return done, err
}

// roomDeletes returns the deletes of the rows that belong to the selected events.
func roomDeletes(catalog Catalog) deletes {
	rows := deletes{
		duringSearch: []statement{deleteByID("event_to_state_groups")},
		// Links are found by their positions in the chains, which only
		// event_auth_chains has. Links to a position come from events of the same room,
		// and are deleted with those.
		beforeRare: []statement{
			checked("delete from event_auth_chain_links", `
			DELETE FROM event_auth_chain_links t
			USING pg_temp.lethe_selected s JOIN event_auth_chains c ON c.event_id = s.event_id
			WHERE t.origin_chain_id = c.chain_id AND t.origin_sequence_number = c.sequence_number`,
				`c.event_id = s.event_id AND t.origin_chain_id = c.chain_id AND t.origin_sequence_number = c.sequence_number`).of("event_auth_chain_links"),
			forgetCensored,
		},
	}
	for _, table := range roomByEvent {
		switch {
		case !catalog.has(table):
		case table == "events" || table == "event_to_state_groups":
		case slices.Contains(commonTables, table):
			rows.common = append(rows.common, eventRows{table: table})
		default:
			rows.rare = append(rows.rare, ofEvent(table))
		}
	}
	rows.rare = append(rows.rare, each(catalog.rules.With(schema.DeleteByEvent), ofEvent)...)
	return rows
}

// deleteLateRows deletes the rows that were added to the first two parts since these
// were deleted, and then events.
func (d *roomDeletion) deleteLateRows(ctx context.Context, size int) (RoomBatch, error) {
	chunk := roomChunk{remainingPart: remainingPart{part: roomEvents}, size: size}
	if err := d.begin(ctx); err != nil {
		return RoomBatch{}, err
	}
	hidden, err := d.hideRoom(ctx, chunk)
	if err != nil {
		return RoomBatch{}, err
	}
	var statements []statement
	for _, t := range d.catalog.rooms(true) {
		if t.part == roomReferring {
			statements = append(statements, ofRoom(t.name))
		}
	}
	referring, err := d.run(ctx, statements)
	if err != nil {
		return RoomBatch{}, err
	}
	done, err := d.deleteEvents(ctx, chunk)
	done.Rows += hidden.Rows + referring
	return done, err
}

// deleteStates deletes rows of the room's states, and then the state groups that
// have no rows left. No reader needs these states any more: their events are
// deleted.
func (d *roomDeletion) deleteStates(ctx context.Context, chunk roomChunk) (RoomBatch, error) {
	if err := forceIndexScans(ctx, d); err != nil {
		return RoomBatch{}, err
	}
	if err := d.batch.empty(ctx, groupsTable); err != nil {
		return RoomBatch{}, err
	}
	s := statement{what: "select state groups", sql: `
		WITH found AS MATERIALIZED (SELECT id, room_id FROM state_groups WHERE room_id = $1 LIMIT $2),
		filled AS (INSERT INTO pg_temp.lethe_groups SELECT id FROM found)
		SELECT count(*), count(*) FILTER (WHERE room_id <> $1),
		       ARRAY(SELECT id FROM found LIMIT ` + strconv.Itoa(leftover.PerBatch) + `) FROM found`}
	var selected, wrong int64
	var sample leftover.Sample
	err := d.QueryRow(ctx, s.sql, d.Room(), chunk.size).Scan(&selected, &wrong, &sample.StateGroups)
	if err == nil && wrong > 0 {
		err = d.corrupt(ctx, nil, s, []any{d.Room(), chunk.size})
	}
	if err != nil {
		return RoomBatch{}, fmt.Errorf("select state groups: %w", err)
	}
	rows, err := d.execChecked(ctx, checked("delete from state_groups_state", `
		DELETE FROM state_groups_state s WHERE ctid = ANY (ARRAY(
			SELECT t.ctid FROM pg_temp.lethe_groups g CROSS JOIN LATERAL (
				SELECT ctid FROM state_groups_state WHERE state_group = g.state_group OFFSET 0
			) AS t LIMIT $1))`, `s.room_id = $2 AND s.state_group IN `+groupsToDelete).of("state_groups_state"), chunk.maxRows(), d.Room())
	if err != nil {
		return RoomBatch{}, err
	}
	if rows >= chunk.maxRows() { // some groups may have rows left
		left, err := d.exec(ctx, "leave groups for later", `
			DELETE FROM pg_temp.lethe_groups g
			WHERE EXISTS (SELECT FROM state_groups_state t WHERE t.state_group = g.state_group)`)
		if err != nil {
			return RoomBatch{}, err
		}
		selected -= left
	}
	more, err := d.run(ctx, roomStateStatements(d.catalog))
	return RoomBatch{Rows: rows + more - selected, StateGroups: selected, Sample: sample, At: chunk.position(nil)}, err
}

// roomStateStatements delete the groups in lethe_groups. An edge that leads to such
// a group comes from another group of the room, and is deleted with that one. Or it
// comes from a group that is gone and whose edge was left behind.
func roomStateStatements(catalog Catalog) []statement {
	statements := []statement{
		checked("delete from state_group_edges", `
			DELETE FROM state_group_edges e USING pg_temp.lethe_groups d WHERE e.state_group = d.state_group`, `e.state_group = d.state_group`).of("state_group_edges"),
		checked("delete forgotten edges", `
			DELETE FROM state_group_edges e USING pg_temp.lethe_groups d
			WHERE e.prev_state_group = d.state_group AND NOT EXISTS (SELECT FROM state_groups g WHERE g.id = e.state_group)`,
			`e.prev_state_group = d.state_group`).of("state_group_edges"),
		checked("delete from state_groups", `
			DELETE FROM state_groups t USING pg_temp.lethe_groups d WHERE t.id = d.state_group`, `t.room_id = $1 AND t.id = d.state_group`).of("state_groups"),
	}
	if catalog.has("state_groups_pending_deletion") {
		statements = append(statements, checked("delete from state_groups_pending_deletion", `
			DELETE FROM state_groups_pending_deletion t USING pg_temp.lethe_groups d WHERE t.state_group = d.state_group`,
			`t.state_group = d.state_group`).of("state_groups_pending_deletion"))
	}
	return statements
}

// deleteItself deletes the room's own row, and the rows in tables without an index
// by room. If new rows have arrived meanwhile, it deletes nothing.
func (d *roomDeletion) deleteItself(ctx context.Context, _ roomChunk) (RoomBatch, error) {
	// The room's row is locked. So a row that references it is already visible here, or
	// can never be added.
	switch parts, err := nextParts(ctx, d, d.catalog, d.Room(), RoomPosition{}); {
	case err != nil:
		return RoomBatch{}, err
	case len(parts) == 0 || parts[0].part != roomItself:
		return RoomBatch{}, nil
	}
	var statements []statement
	for _, t := range d.catalog.rooms(false) {
		statements = append(statements, ofRoom(t.name))
	}
	rows, err := d.run(ctx, statements)
	return RoomBatch{Rows: rows, Gone: true}, err
}
