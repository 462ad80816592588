package purge

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"lethe/internal/store/expiry"
	"lethe/internal/store/journal"
	"lethe/internal/store/postgres"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// ErrUsersJoined is returned by the end of a room that a user of this server is
// joined to, unless it is forced.
var ErrUsersJoined = errors.New("Users are still joined to this room")

// A RoomRequest says which room to delete: all that the database has of it goes.
type RoomRequest struct {
	Room string

	// ServerName is this server's name.
	ServerName string

	// Force says that the room goes even if users of this server are joined to
	// it. Defaults to false.
	Force bool

	// Abandoned, unless nil, is the rule by which the room must be abandoned.
	// Otherwise nothing is deleted, with [expiry.ErrNotAbandoned]. It is for the first
	// batch, which deletes what the rule looks at. Defaults to nil.
	Abandoned *expiry.AbandonedRule
}

// A Room deletes one room. It serves one goroutine.
type Room struct {
	RoomRequest
	purger  *Purger
	catalog Catalog
}

// Room returns what deletes a room. It fails with [ErrCatalog] as
// [Purger.RoomCatalog] does.
func (p *Purger) Room(ctx context.Context, request RoomRequest) (*Room, error) {
	catalog, err := p.room.get(ctx, p)
	if err != nil {
		return nil, err
	}
	return &Room{RoomRequest: request, purger: p, catalog: catalog}, nil
}

// A RoomPosition says how far the end of a room is. It may be kept as JSON.
type RoomPosition struct {
	// Part is the part of the room that is being deleted, "" at the beginning.
	Part string `json:"part,omitempty"`

	// After is the stream ordering after which the next events are looked for,
	// nil at the beginning.
	After *int64 `json:"after,omitempty"`
}

// A RoomBatch is what one batch of a room's end did.
type RoomBatch struct {
	// Events and StateGroups count the events and the state groups that are gone,
	// and Rows the rows of all other tables but those that the server deleted as
	// it cascaded.
	Events, Rows, StateGroups int64

	// At is where the next batch goes on.
	At RoomPosition

	// RowWise says why the server had to check each deleted row's references;
	// empty if they were checked all at once, or if there were none to check.
	RowWise string
}

// Guard fails with [ErrUsersJoined] if a user of this server is joined to the room
// and the delete is not forced. Those who are invited, banned or have knocked are
// not joined. Every batch that touches the room's current state checks it too.
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

// Parts are the parts of a room that are left to delete, in the order in which they
// go.
type Parts []roomPiece

// Next returns the parts of the room that a batch has to do with next, of which none
// is left if the database has nothing of the room. At is where the batch before
// ended, as its [RoomBatch] says; only speed depends on it. Next reads what is
// committed, without a lock. The database alone says what is left: a run may begin at
// any point, and what arrives while the room is being deleted brings its part back.
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
// long. It may be repeated at will: a batch that finds nothing changes nothing.
//
// It fails with [ErrUsersJoined] or [expiry.ErrNotAbandoned], or as [journal.Batch]
// does. Then the batch is to be rolled back.
func (r *Room) Delete(ctx context.Context, b *journal.Batch, parts Parts, at RoomPosition, size int) (RoomBatch, error) {
	size = max(size, 1)
	d := &roomDeletion{batch: batch{Batch: b, purger: r.purger, catalog: r.catalog}, room: r, at: at}
	done, err := d.deleteParts(ctx, parts, size)
	if isReferenced(err) && slices.ContainsFunc(parts, func(p roomPiece) bool { return p.part == roomEvents }) {
		// Something came to reference the events after what did was deleted. If it is
		// of the room it goes first. If not, the server is asked, which knows for sure,
		// and names the constraint.
		b.Rollback(ctx)
		d.catalog.leave(err.Error())
		done, err = d.deleteLateRows(ctx, size)
	}
	if err != nil {
		return RoomBatch{}, fmt.Errorf("delete a batch of the room: %w", err)
	}
	return done, nil
}

// A roomDeletion is one batch of a room's delete.
type roomDeletion struct {
	batch
	room *Room
	at   RoomPosition
}

// begin locks the room's row, if there is one. A process that persists an event of
// the room holds a share lock on it, so no event is persisted while the batch looks
// and deletes, and none at all when the row is gone.
func (d *roomDeletion) begin(ctx context.Context) error {
	if _, err := d.exec(ctx, "lock the room", `SELECT FROM rooms WHERE room_id = $1 FOR UPDATE`, d.Room()); err != nil {
		return err
	}
	if d.room.Abandoned != nil {
		return expiry.GuardAbandoned(ctx, d, d.Room(), *d.room.Abandoned)
	}
	return nil
}

// deleteParts deletes part after part, until about size events are gone, or what
// takes as long: a small room goes in one batch.
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
		deleted, err := do[piece.part](ctx, roomChunk{roomPiece: piece, size: size})
		if err != nil {
			return RoomBatch{}, err
		}
		done.Events += deleted.Events
		done.Rows += deleted.Rows
		done.StateGroups += deleted.StateGroups
		done.At = deleted.At
		done.RowWise = cmp.Or(done.RowWise, deleted.RowWise)
		cost := max(deleted.StateGroups, deleted.Rows/rowsPerEvent)
		if piece.part == roomEvents {
			cost = deleted.Events // and their rows with them
		}
		if size -= int(cost); size <= 0 {
			break // or the part was not at its end
		}
	}
	return done, nil
}

// isReferenced reports whether a batch failed because somebody references what it
// was to delete.
func isReferenced(err error) bool {
	var pg *pgconn.PgError
	return errors.Is(err, errReferenced) || errors.As(err, &pg) && pg.Code == "23503"
}

// rowsPerEvent is how many rows of one table take at least as long as an event with
// its rows in a dozen. In small chunks they would take longer, for each chunk walks
// over what the ones before have deleted.
const rowsPerEvent = 10

// A roomPiece is a part of a room, or what is left of it, and the tables that have
// rows of it.
type roomPiece struct {
	part   roomPart
	tables []string
}

// A roomChunk is how much of a part a batch is to delete.
type roomChunk struct {
	roomPiece
	size int // in events
}

// maxRows is how many rows the chunk may take.
func (c roomChunk) maxRows() int64 { return int64(c.size) * rowsPerEvent }

// position is the position in the chunk's part.
func (c roomChunk) position(after *int64) RoomPosition {
	return RoomPosition{Part: string(c.part), After: after}
}

// nextParts returns the parts that the room has rows of, in the order in which
// they go, but no more than the one in which the batch before was, if there is more
// of that; nothing if the database has nothing of the room.
func nextParts(ctx context.Context, tx transaction, catalog Catalog, room string, at RoomPosition) (Parts, error) {
	if err := byIndex(ctx, tx); err != nil {
		return nil, err
	}
	indexed := catalog.rooms(true)
	// Where the batch before was, if there is more: then nobody walks over what is
	// deleted of the other parts, again and again. Everything is looked at when
	// that one is done.
	var here []roomTable
	for _, t := range indexed {
		if string(t.part) == at.Part {
			here = append(here, t)
		}
	}
	for _, look := range []struct {
		tables []roomTable
		after  *int64
	}{{here, at.After}, {indexed, nil}} {
		left, err := withRows(ctx, tx, room, look.tables, look.after)
		if err != nil {
			return nil, err
		}
		if len(left) > 0 {
			return partsOf(indexed, left), nil
		}
	}
	// These are read from end to end, so only when nothing else is left.
	left, err := withRows(ctx, tx, room, catalog.rooms(false), nil)
	if err != nil || len(left) == 0 {
		return nil, err
	}
	return Parts{{part: roomItself}}, nil
}

// partsOf returns the parts that the tables which have rows belong to, and the
// room itself, of all that are found by an index.
func partsOf(indexed, left []roomTable) Parts {
	var pieces Parts
	for _, t := range left {
		if len(pieces) > 0 && pieces[len(pieces)-1].part == t.part {
			continue
		}
		// All of what may reference events, in its order: it references itself too.
		from := left
		if t.part == roomReferring {
			from = indexed
		}
		piece := roomPiece{part: t.part}
		for _, t := range from {
			if t.part == piece.part {
				piece.tables = append(piece.tables, t.name)
			}
		}
		pieces = append(pieces, piece)
	}
	return append(pieces, roomPiece{part: roomItself})
}

// byIndex makes the transaction find rows by an index alone, one by one. Where a
// room is most of a table, or its rows are thought to be few, the planner takes it
// for cheaper to read the table, or all of the room's rows, and stop early; but
// what it meets first is what the batches before have deleted.
func byIndex(ctx context.Context, tx postgres.Execer) error {
	if _, err := tx.Exec(ctx, settings(`enable_seqscan=off enable_bitmapscan=off enable_indexscan=on jit=off`)); err != nil {
		return fmt.Errorf("set up the transaction: %w", err)
	}
	return nil
}

// withRows returns those of the tables that have rows of the room, in the same
// order; of the events, only those after the stream ordering count if it is given.
func withRows(ctx context.Context, tx postgres.Querier, room string, tables []roomTable, after *int64) ([]roomTable, error) {
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
		questions[i] = `EXISTS (SELECT FROM ` + t.name + ` WHERE room_id = $1` + more + `)`
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

// hideRoom deletes, all at once, what tells that the room is there.
func (d *roomDeletion) hideRoom(ctx context.Context, chunk roomChunk) (RoomBatch, error) {
	if err := d.room.guardUsers(ctx, d); err != nil {
		return RoomBatch{}, err
	}
	rows, err := d.run(ctx, hideSteps(d.catalog))
	return RoomBatch{Rows: rows, At: chunk.position(nil)}, err
}

func hideSteps(catalog Catalog) []step {
	// Not those of aliases that lead to another room by now.
	steps := []step{{"delete from room_alias_servers", `
		DELETE FROM room_alias_servers s USING room_aliases a WHERE a.room_id = $1 AND s.room_alias = a.room_alias`}}
	for _, t := range catalog.rooms(true) {
		if t.part == roomShown {
			steps = append(steps, ofRoom(t.name))
		}
	}
	return steps
}

// ofRoom deletes all rows of a table that belong to the room.
func ofRoom(table string) step {
	return step{"delete from " + table, `DELETE FROM ` + table + ` WHERE room_id = $1`}
}

// deleteRows deletes rows of the chunk's tables, of each after those of the one
// before.
func (d *roomDeletion) deleteRows(ctx context.Context, chunk roomChunk) (RoomBatch, error) {
	if err := byIndex(ctx, d); err != nil {
		return RoomBatch{}, err
	}
	done := RoomBatch{At: chunk.position(nil)}
	for _, table := range chunk.tables {
		left := chunk.maxRows() - done.Rows
		if left <= 0 {
			break
		}
		// By their place: only so can some of the rows be named, whatever the keys.
		// A row that somebody moves meanwhile is found in the next batch.
		rows, err := d.exec(ctx, "delete from "+table, `
			DELETE FROM `+table+`
			WHERE ctid = ANY (ARRAY(SELECT ctid FROM `+table+` WHERE room_id = $1 LIMIT $2))`, d.Room(), left)
		if err != nil {
			return RoomBatch{}, err
		}
		done.Rows += rows
	}
	return done, nil
}

// deleteEvents deletes events, the oldest of the stream first, with what
// belongs to each.
func (d *roomDeletion) deleteEvents(ctx context.Context, chunk roomChunk) (RoomBatch, error) {
	if err := theEvents.empty(ctx, &d.batch); err != nil {
		return RoomBatch{}, err
	}
	done := RoomBatch{RowWise: d.catalog.RowWise()}
	var newest *int64
	fill := func(after string, args ...any) error {
		return d.QueryRow(ctx, `
			WITH filled AS (
				INSERT INTO lethe_selected
				SELECT e.event_id, e.topological_ordering, e.stream_ordering, true, e.ctid
				FROM events e
				WHERE e.room_id = $1`+after+`
				ORDER BY e.stream_ordering LIMIT $2
				RETURNING stream_ordering
			)
			SELECT count(*), max(stream_ordering) FROM filled`, args...).Scan(&done.Events, &newest)
	}
	var err error
	if after := d.at.After; after != nil {
		err = fill(` AND e.stream_ordering > $3`, d.Room(), chunk.size, *after)
	}
	if err == nil && done.Events == 0 { // or they came late, or never were in the stream
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

// roomDeletes delete the rows that belong to the selected events.
func roomDeletes(catalog Catalog) deletes {
	rows := deletes{
		own: []step{fromSelected("event_to_state_groups")},
		// The links are found by the positions of the chains, which only the chains
		// know. Links to a position come from others of the same room, and go with them.
		first: []step{{"delete from event_auth_chain_links", `
			DELETE FROM event_auth_chain_links t
			USING lethe_selected s JOIN event_auth_chains c ON c.event_id = s.event_id
			WHERE t.origin_chain_id = c.chain_id AND t.origin_sequence_number = c.sequence_number`}},
	}
	for _, table := range roomByEvent {
		switch {
		case !catalog.has(table):
		case table == "events" || table == "event_to_state_groups":
		case slices.Contains(ofMostEvents, table):
			rows.most = append(rows.most, ofDeletable(table))
		default:
			rows.few = append(rows.few, table)
		}
	}
	return rows
}

// deleteLateRows deletes what may reference the room's events and arrived after
// that was deleted, and then events.
func (d *roomDeletion) deleteLateRows(ctx context.Context, size int) (RoomBatch, error) {
	chunk := roomChunk{roomPiece: roomPiece{part: roomEvents}, size: size}
	if err := d.begin(ctx); err != nil {
		return RoomBatch{}, err
	}
	hidden, err := d.hideRoom(ctx, chunk)
	if err != nil {
		return RoomBatch{}, err
	}
	var steps []step
	for _, t := range d.catalog.rooms(true) {
		if t.part == roomReferring {
			steps = append(steps, ofRoom(t.name))
		}
	}
	referring, err := d.run(ctx, steps)
	if err != nil {
		return RoomBatch{}, err
	}
	done, err := d.deleteEvents(ctx, chunk)
	done.Rows += hidden.Rows + referring
	return done, err
}

// deleteStates deletes rows of the states of the room's state groups, and then
// those of the groups that have none left. Nobody asks for these states any more:
// the events that they belong to are gone.
func (d *roomDeletion) deleteStates(ctx context.Context, chunk roomChunk) (RoomBatch, error) {
	if err := byIndex(ctx, d); err != nil {
		return RoomBatch{}, err
	}
	if err := theGroups.empty(ctx, &d.batch); err != nil {
		return RoomBatch{}, err
	}
	selected, err := d.exec(ctx, "select state groups", `
		INSERT INTO lethe_groups SELECT id FROM state_groups WHERE room_id = $1 LIMIT $2`, d.Room(), chunk.size)
	if err != nil {
		return RoomBatch{}, err
	}
	rows, err := d.exec(ctx, "delete from state_groups_state", `
		DELETE FROM state_groups_state WHERE ctid = ANY (ARRAY(
			SELECT t.ctid FROM lethe_groups g CROSS JOIN LATERAL (
				SELECT ctid FROM state_groups_state WHERE state_group = g.state_group OFFSET 0
			) AS t LIMIT $1))`, chunk.maxRows())
	if err != nil {
		return RoomBatch{}, err
	}
	if rows >= chunk.maxRows() { // or some of the last group's rows are left
		left, err := d.exec(ctx, "leave groups for later", `
			DELETE FROM lethe_groups g
			WHERE EXISTS (SELECT FROM state_groups_state t WHERE t.state_group = g.state_group)`)
		if err != nil {
			return RoomBatch{}, err
		}
		selected -= left
	}
	more, err := d.run(ctx, roomStateSteps(d.catalog))
	return RoomBatch{Rows: rows + more - selected, StateGroups: selected, At: chunk.position(nil)}, err
}

// roomStateSteps delete the groups in lethe_groups. An edge that leads to one comes
// from another group of the room, and goes with it; or from one that is gone, where
// somebody forgot the edge.
func roomStateSteps(catalog Catalog) []step {
	steps := []step{
		{"delete from state_group_edges", `
			DELETE FROM state_group_edges e USING lethe_groups d WHERE e.state_group = d.state_group`},
		{"delete forgotten edges", `
			DELETE FROM state_group_edges e USING lethe_groups d
			WHERE e.prev_state_group = d.state_group AND NOT EXISTS (SELECT FROM state_groups g WHERE g.id = e.state_group)`},
		{"delete from state_groups", `
			DELETE FROM state_groups t USING lethe_groups d WHERE t.id = d.state_group`},
	}
	if catalog.has("state_groups_pending_deletion") {
		steps = append(steps, step{"delete from state_groups_pending_deletion", `
			DELETE FROM state_groups_pending_deletion t USING lethe_groups d WHERE t.state_group = d.state_group`})
	}
	return steps
}

// deleteItself deletes the room's own row, and what is found by reading whole
// tables, unless something has arrived meanwhile: then it is not the end.
func (d *roomDeletion) deleteItself(ctx context.Context, _ roomChunk) (RoomBatch, error) {
	// The row is locked, so what references it is there and seen, or never will be.
	switch parts, err := nextParts(ctx, d, d.catalog, d.Room(), RoomPosition{}); {
	case err != nil:
		return RoomBatch{}, err
	case len(parts) == 0 || parts[0].part != roomItself:
		return RoomBatch{}, nil
	}
	var steps []step
	for _, t := range d.catalog.rooms(false) {
		steps = append(steps, ofRoom(t.name))
	}
	rows, err := d.run(ctx, steps)
	return RoomBatch{Rows: rows}, err
}
