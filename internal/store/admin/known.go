package admin

import (
	"context"
	"fmt"

	"lethe/internal/store/postgres"
)

// RoomNames returns the name and the canonical alias of a room, "" for none. A room of which
// the homeserver has no statistics is [postgres.ErrNotFound].
func (q *Queries) RoomNames(ctx context.Context, room string) (names [2]string, err error) {
	if !postgres.Storable(room) {
		return names, postgres.ErrNotFound
	}
	err = q.db.ReadRow(ctx, []any{&names[0], &names[1]}, `
		SELECT coalesce(name, ''), coalesce(canonical_alias, '') FROM room_stats_state WHERE room_id = $1`, room)
	if err != nil {
		return names, fmt.Errorf("read the room's names: %w", err)
	}
	return names, nil
}

// KnowsRoom reports whether the homeserver has stored anything of the room: its row, an
// event, or the membership of a local user.
func (q *Queries) KnowsRoom(ctx context.Context, room string) (known bool, err error) {
	if !postgres.Storable(room) {
		return false, nil
	}
	err = q.db.ReadRow(ctx, []any{&known}, `
		SELECT EXISTS (SELECT FROM rooms WHERE room_id = $1)
		    OR EXISTS (SELECT FROM events WHERE room_id = $1)
		    OR EXISTS (SELECT FROM local_current_membership WHERE room_id = $1)`, room)
	if err != nil {
		return false, fmt.Errorf("look for the room: %w", err)
	}
	return known, nil
}
