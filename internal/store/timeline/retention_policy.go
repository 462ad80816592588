package timeline

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"

	"lethe/internal/store/postgres"
)

// IsRetentionPolicy is the condition that a row c of current_state_events is its
// room's retention policy.
//
// A room's policy is the event of type m.room.retention with the state key "" in its
// current state, together with the row of room_retention for that event. Without
// such a row the event has no effect. Rows of events that are no longer current, or
// have another state key, are no policies.
const IsRetentionPolicy = `c.type = 'm.room.retention' AND c.state_key = ''`

// RetentionPolicy reads the retention policy of a room's current state. Lifetimes
// are in ms. They are nil if the policy does not have them, and may be any number. A
// room without a policy is [postgres.ErrNotFound].
func (s *Snapshot) RetentionPolicy(ctx context.Context, room string) (minLifetime, maxLifetime *int64, err error) {
	const operation = "read the room's retention policy"
	if !postgres.Storable(room) {
		return nil, nil, fmt.Errorf("%s: %w", operation, postgres.ErrNotFound)
	}
	err = s.tx.QueryRow(ctx, `
		SELECT r.min_lifetime, r.max_lifetime
		FROM current_state_events c
		JOIN room_retention r USING (room_id, event_id)
		WHERE c.room_id = $1 AND `+IsRetentionPolicy, room).Scan(&minLifetime, &maxLifetime)
	if errors.Is(err, pgx.ErrNoRows) {
		err = postgres.ErrNotFound
	}
	if err != nil {
		return nil, nil, fmt.Errorf("%s: %w", operation, err)
	}
	return minLifetime, maxLifetime, nil
}
