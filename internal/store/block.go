package store

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"
)

// BlockRoom keeps users of this server from joining the batch's room, whether it
// is known or not. A room that is blocked already keeps its first blocker.
func (s *Store) BlockRoom(ctx context.Context, batch Batch, blocker string, checkpoint func() any) error {
	err := s.inBatch(ctx, batch, func(tx pgx.Tx) (any, error) {
		if _, err := tx.Exec(ctx, `
			INSERT INTO blocked_rooms (room_id, user_id) VALUES ($1, $2) ON CONFLICT DO NOTHING`,
			batch.Room, blocker); err != nil {
			return nil, err
		}
		return checkpoint(), nil
	})
	if err != nil {
		return fmt.Errorf("block the room: %w", err)
	}
	return nil
}
