package store

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// ErrUsersJoined is returned by the end of a room that a user of this server is
// joined to, unless it is forced.
var ErrUsersJoined = errors.New("Users are still joined to this room")

// A RoomPurge says which room is to end: all that the database has of it goes.
type RoomPurge struct {
	Room string

	// ServerName is this server's name.
	ServerName string

	// Force says that the room goes even if users of this server are joined to
	// it. Defaults to false.
	Force bool

	// Abandoned, unless nil, is the rule by which the room must be abandoned: else
	// nothing is deleted, with [ErrNotAbandoned]. It is for the first batch, which
	// deletes what it is judged by. Defaults to nil.
	Abandoned *AbandonedRule

	// At is where the batch before ended, as its [RoomBatch] says. Only speed
	// depends on it: a batch need not walk over what earlier ones deleted.
	// Defaults to the beginning.
	At RoomPosition
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

// A RoomStep does one batch of the end of a room, and makes the job's checkpoint
// what the function makes of the batch. It deletes up to size events, or as many
// rows as take about as long. It fails with [ErrUsersJoined], [ErrNotAbandoned],
// [ErrFenced], [ErrHeld] or [ErrSuperseded], having changed nothing, and may be repeated at will: one that
// finds nothing changes nothing.
type RoomStep func(ctx context.Context, batch Batch, catalog Catalog, size int,
	checkpoint func(RoomBatch) any) (RoomBatch, error)

// GuardRoom fails with [ErrUsersJoined] if a user of this server is joined to the
// room and the purge is not forced. Those who are invited, banned or ask to be let
// in are not joined. Every batch that touches the room's current state checks it
// too.
func (s *Store) GuardRoom(ctx context.Context, purge RoomPurge) error {
	return guardUsers(ctx, s.pool, purge)
}

func guardUsers(ctx context.Context, db querier, purge RoomPurge) error {
	if purge.Force {
		return nil
	}
	var joined bool
	if err := db.QueryRow(ctx, `
		SELECT EXISTS (
			SELECT FROM current_state_events
			WHERE room_id = $1 AND type = 'm.room.member' AND membership = 'join'
			  AND substr(state_key, nullif(strpos(state_key, ':'), 0) + 1) = $2)`,
		purge.Room, purge.ServerName).Scan(&joined); err != nil {
		return fmt.Errorf("look for joined users: %w", err)
	}
	if joined {
		return ErrUsersJoined
	}
	return nil
}

// NextRoomStep returns the step that the room needs next, or nil if the database
// has nothing of it. It reads what is committed, without a lock. The database alone
// says what is left: a run may begin at any point, and what arrives while the room
// is being deleted calls for the same steps again. The catalog is that of
// [Store.RoomCatalog].
func (s *Store) NextRoomStep(ctx context.Context, catalog Catalog, purge RoomPurge) (RoomStep, error) {
	// One of another scope knows fewer tables, and the room would seem to be gone.
	if catalog.of != &roomScope {
		return nil, errors.New("look for what is left of the room: the catalog is not that of rooms")
	}
	var pieces []roomPiece
	err := s.inTransaction(ctx, func(tx pgx.Tx) (err error) {
		pieces, err = nextRoomPieces(ctx, tx, catalog, purge)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("look for what is left of the room: %w", err)
	}
	if len(pieces) == 0 {
		return nil, nil
	}
	return func(ctx context.Context, batch Batch, catalog Catalog, size int,
		checkpoint func(RoomBatch) any,
	) (RoomBatch, error) {
		if catalog.of != &roomScope {
			return RoomBatch{}, errors.New("delete a batch of the room: the catalog is not that of rooms")
		}
		size = max(size, 1)
		done, err := s.roomBatch(ctx, batch, purge, checkpoint, func(tx pgx.Tx) (RoomBatch, error) {
			return s.deletePieces(ctx, tx, catalog, purge, pieces, size)
		})
		if isReferenced(err) && slices.ContainsFunc(pieces, func(p roomPiece) bool { return p.part == roomEvents }) {
			// Something came to reference the events after what did was deleted. If
			// it is of the room it goes first, and if not, the server is asked, which
			// knows for sure, and names the constraint.
			catalog.leave(err.Error())
			done, err = s.roomBatch(ctx, batch, purge, checkpoint, func(tx pgx.Tx) (RoomBatch, error) {
				return s.deleteLateRows(ctx, tx, catalog, roomChunk{RoomPurge: purge, part: roomEvents, size: size})
			})
		}
		if err != nil {
			return RoomBatch{}, fmt.Errorf("delete a batch of the room: %w", err)
		}
		return done, nil
	}, nil
}

// deletePieces deletes piece after piece, until about size events are gone, or what
// takes as long: a small room goes in one batch.
func (s *Store) deletePieces(ctx context.Context, tx pgx.Tx, catalog Catalog, purge RoomPurge, pieces []roomPiece, size int) (RoomBatch, error) {
	do := map[roomPart]func(context.Context, pgx.Tx, Catalog, roomChunk) (RoomBatch, error){
		roomShown: hideRoom, roomReferring: deleteRoomRows, roomRows: deleteRoomRows, roomStates: deleteRoomStates,
		roomItself: deleteRoomItself, roomEvents: s.deleteRoomEvents,
	}
	var done RoomBatch
	for _, piece := range pieces {
		deleted, err := do[piece.part](ctx, tx, catalog, roomChunk{RoomPurge: purge, part: piece.part, tables: piece.tables, size: size})
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
			break // or the piece was not at its end
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

// A roomChunk is what one batch is to delete, from these tables.
type roomChunk struct {
	RoomPurge
	part   roomPart
	tables []string
	size   int // in events
}

// rows is how many rows the chunk may take.
func (c roomChunk) rows() int64 { return int64(c.size) * rowsPerEvent }

// at is the position in the chunk's part.
func (c roomChunk) at(after *int64) RoomPosition {
	return RoomPosition{Part: string(c.part), After: after}
}

// roomBatch does one batch. It locks the room's row, if there is one: whoever
// persists an event of the room holds a share lock on it, so none is persisted
// while the batch looks and deletes, and none at all when the row is gone.
func (s *Store) roomBatch(ctx context.Context, batch Batch, purge RoomPurge,
	checkpoint func(RoomBatch) any, do func(pgx.Tx) (RoomBatch, error),
) (RoomBatch, error) {
	var done RoomBatch
	err := s.inBatch(ctx, batch, func(tx pgx.Tx) (any, error) {
		if _, err := tx.Exec(ctx, `SELECT FROM rooms WHERE room_id = $1 FOR UPDATE`, purge.Room); err != nil {
			return nil, fmt.Errorf("lock the room: %w", err)
		}
		if purge.Abandoned != nil {
			if err := guardAbandoned(ctx, tx, purge.Room, *purge.Abandoned); err != nil {
				return nil, err
			}
		}
		var err error
		if done, err = do(tx); err != nil {
			return nil, err
		}
		return checkpoint(done), nil
	})
	return done, err
}

// A roomPiece is a part of a room, or what is left of it, and the tables that have
// rows of it.
type roomPiece struct {
	part   roomPart
	tables []string
}

// nextRoomPieces returns the parts that the room has rows of, in the order in which
// they go, but no more than the one in which the batch before was, if there is more
// of that; nothing if the database has nothing of the room.
func nextRoomPieces(ctx context.Context, tx pgx.Tx, catalog Catalog, purge RoomPurge) ([]roomPiece, error) {
	if err := byIndex(ctx, tx); err != nil {
		return nil, err
	}
	indexed := catalog.rooms(true)
	// Where the batch before was, if there is more: then nobody walks over what is
	// deleted of the other parts, again and again. Everything is looked at when
	// that one is done.
	var here []roomTable
	for _, t := range indexed {
		if string(t.part) == purge.At.Part {
			here = append(here, t)
		}
	}
	for _, look := range []struct {
		tables []roomTable
		after  *int64
	}{{here, purge.At.After}, {indexed, nil}} {
		left, err := withRows(ctx, tx, purge.Room, look.tables, look.after)
		if err != nil {
			return nil, err
		}
		if len(left) > 0 {
			return piecesOf(indexed, left), nil
		}
	}
	// These are read from end to end, so only when nothing else is left.
	left, err := withRows(ctx, tx, purge.Room, catalog.rooms(false), nil)
	if err != nil || len(left) == 0 {
		return nil, err
	}
	return []roomPiece{{part: roomItself}}, nil
}

// piecesOf returns the pieces that the tables which have rows belong to, and the
// room itself, of all that are found by an index.
func piecesOf(indexed, left []roomTable) []roomPiece {
	var pieces []roomPiece
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
func byIndex(ctx context.Context, tx pgx.Tx) error {
	if _, err := tx.Exec(ctx, settings(`enable_seqscan=off enable_bitmapscan=off enable_indexscan=on jit=off`)); err != nil {
		return fmt.Errorf("set up the transaction: %w", err)
	}
	return nil
}

// withRows returns those of the tables that have rows of the room, in the same
// order; of the events, only those after the stream ordering count if it is given.
func withRows(ctx context.Context, tx pgx.Tx, room string, tables []roomTable, after *int64) ([]roomTable, error) {
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
func hideRoom(ctx context.Context, tx pgx.Tx, catalog Catalog, chunk roomChunk) (RoomBatch, error) {
	if err := guardUsers(ctx, tx, chunk.RoomPurge); err != nil {
		return RoomBatch{}, err
	}
	rows, err := runSteps(ctx, tx, hideSteps(catalog), chunk.Room)
	return RoomBatch{Rows: rows, At: chunk.at(nil)}, err
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

// deleteRoomRows deletes rows of the chunk's tables, of each after those of the one
// before.
func deleteRoomRows(ctx context.Context, tx pgx.Tx, _ Catalog, chunk roomChunk) (RoomBatch, error) {
	if err := byIndex(ctx, tx); err != nil {
		return RoomBatch{}, err
	}
	done := RoomBatch{At: chunk.at(nil)}
	for _, table := range chunk.tables {
		left := chunk.rows() - done.Rows
		if left <= 0 {
			break
		}
		// By their place: only so can some of the rows be named, whatever the keys.
		// A row that somebody moves meanwhile is found in the next batch.
		tag, err := tx.Exec(ctx, `
			DELETE FROM `+table+`
			WHERE ctid = ANY (ARRAY(SELECT ctid FROM `+table+` WHERE room_id = $1 LIMIT $2))`, chunk.Room, left)
		if err != nil {
			return RoomBatch{}, fmt.Errorf("delete from %s: %w", table, err)
		}
		done.Rows += tag.RowsAffected()
	}
	return done, nil
}

// deleteRoomEvents deletes events, the oldest of the stream first, with what
// belongs to each.
func (s *Store) deleteRoomEvents(ctx context.Context, tx pgx.Tx, catalog Catalog, chunk roomChunk) (RoomBatch, error) {
	if err := theEvents.empty(ctx, tx); err != nil {
		return RoomBatch{}, err
	}
	done := RoomBatch{RowWise: catalog.RowWise()}
	var newest *int64
	fill := func(after string, args ...any) error {
		return tx.QueryRow(ctx, `
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
	if after := chunk.At.After; after != nil {
		err = fill(` AND e.stream_ordering > $3`, chunk.Room, chunk.size, *after)
	}
	if err == nil && done.Events == 0 { // or they came late, or never were in the stream
		err = fill(``, chunk.Room, chunk.size)
	}
	if err != nil {
		return RoomBatch{}, fmt.Errorf("select events: %w", err)
	}
	done.At = chunk.at(newest)
	if done.Events == 0 {
		return done, nil
	}
	rows, err := s.purgeSelected(ctx, tx, catalog, chunk.Room, selection{deletable: done.Events}, nil, roomDeletes(catalog), nil)
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
func (s *Store) deleteLateRows(ctx context.Context, tx pgx.Tx, catalog Catalog, chunk roomChunk) (RoomBatch, error) {
	hidden, err := hideRoom(ctx, tx, catalog, chunk)
	if err != nil {
		return RoomBatch{}, err
	}
	var steps []step
	for _, t := range catalog.rooms(true) {
		if t.part == roomReferring {
			steps = append(steps, ofRoom(t.name))
		}
	}
	referring, err := runSteps(ctx, tx, steps, chunk.Room)
	if err != nil {
		return RoomBatch{}, err
	}
	done, err := s.deleteRoomEvents(ctx, tx, catalog, chunk)
	done.Rows += hidden.Rows + referring
	return done, err
}

// deleteRoomStates deletes rows of the states of the room's state groups, and then
// those of the groups that have none left. Nobody asks for these states any more:
// the events that they belong to are gone.
func deleteRoomStates(ctx context.Context, tx pgx.Tx, catalog Catalog, chunk roomChunk) (RoomBatch, error) {
	if err := byIndex(ctx, tx); err != nil {
		return RoomBatch{}, err
	}
	if err := theGroups.empty(ctx, tx); err != nil {
		return RoomBatch{}, err
	}
	tag, err := tx.Exec(ctx, `
		INSERT INTO lethe_groups SELECT id FROM state_groups WHERE room_id = $1 LIMIT $2`, chunk.Room, chunk.size)
	if err != nil {
		return RoomBatch{}, fmt.Errorf("select state groups: %w", err)
	}
	selected := tag.RowsAffected()
	tag, err = tx.Exec(ctx, `
		DELETE FROM state_groups_state WHERE ctid = ANY (ARRAY(
			SELECT t.ctid FROM lethe_groups g CROSS JOIN LATERAL (
				SELECT ctid FROM state_groups_state WHERE state_group = g.state_group OFFSET 0
			) AS t LIMIT $1))`, chunk.rows())
	if err != nil {
		return RoomBatch{}, fmt.Errorf("delete from state_groups_state: %w", err)
	}
	rows := tag.RowsAffected()
	if rows >= chunk.rows() { // or some of the last group's rows are left
		tag, err := tx.Exec(ctx, `
			DELETE FROM lethe_groups g
			WHERE EXISTS (SELECT FROM state_groups_state t WHERE t.state_group = g.state_group)`)
		if err != nil {
			return RoomBatch{}, fmt.Errorf("leave groups for later: %w", err)
		}
		selected -= tag.RowsAffected()
	}
	more, err := runSteps(ctx, tx, roomStateSteps(catalog))
	return RoomBatch{Rows: rows + more - selected, StateGroups: selected, At: chunk.at(nil)}, err
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

// deleteRoomItself deletes the room's own row, and what is found by reading whole
// tables, unless something has arrived meanwhile: then it is not the end.
func deleteRoomItself(ctx context.Context, tx pgx.Tx, catalog Catalog, chunk roomChunk) (RoomBatch, error) {
	// The row is locked, so what references it is there and seen, or never will be.
	chunk.At = RoomPosition{}
	switch pieces, err := nextRoomPieces(ctx, tx, catalog, chunk.RoomPurge); {
	case err != nil:
		return RoomBatch{}, err
	case len(pieces) == 0 || pieces[0].part != roomItself:
		return RoomBatch{}, nil
	}
	var steps []step
	for _, t := range catalog.rooms(false) {
		steps = append(steps, ofRoom(t.name))
	}
	rows, err := runSteps(ctx, tx, steps, chunk.Room)
	return RoomBatch{Rows: rows}, err
}
