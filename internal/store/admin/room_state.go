package admin

import (
	"context"
	"fmt"

	"lethe/internal/store/postgres"

	"github.com/jackc/pgx/v5"
)

// A StateEntry is one entry of a room's state: the event that is set for a type and
// a key.
type StateEntry struct {
	Type    string
	Key     string
	EventID string
}

// RoomExists reports whether a room is known.
func (q *Queries) RoomExists(ctx context.Context, room string) (exists bool, err error) {
	if !postgres.Storable(room) {
		return false, nil
	}
	err = q.db.ReadRow(ctx, []any{&exists}, `SELECT EXISTS (SELECT FROM rooms WHERE room_id = $1)`, room)
	if err != nil {
		return false, fmt.Errorf("look for the room: %w", err)
	}
	return exists, nil
}

// RoomState returns up to limit entries of a room's current state in the order of
// their types and keys, from the first after the given one. Unless ofType is "", it
// returns only entries of that type.
func (q *Queries) RoomState(ctx context.Context, room, ofType string, after StateEntry, limit int) ([]StateEntry, error) {
	if !postgres.Storable(room) || !postgres.Storable(ofType) {
		return nil, nil
	}
	// A type and a key have at most one event. The event's id is compared so that the
	// zero entry comes before all others, even before one with an empty type and key.
	entries, err := postgres.ReadAll(ctx, q.db, pgx.RowToStructByPos[StateEntry], `
		SELECT type, state_key, event_id FROM current_state_events
		WHERE room_id = $1 AND ($2 = '' OR type = $2) AND (type, state_key, event_id) > ($3, $4, $5)
		ORDER BY type, state_key LIMIT $6`, room, ofType, after.Type, after.Key, after.EventID, limit)
	if err != nil {
		return nil, fmt.Errorf("list the room's state: %w", err)
	}
	return entries, nil
}
