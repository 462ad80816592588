package admin

import (
	"context"
	"fmt"

	"lethe/internal/store/postgres"
)

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
