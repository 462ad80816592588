package store

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"
)

// The index is unique, so of two that block a room at a time one comes first.
const blockRoom = `INSERT INTO blocked_rooms (room_id, user_id) VALUES ($1, $2) ON CONFLICT (room_id) DO NOTHING`

// BlockRoom keeps users of this server from joining a room, which need not be
// known, in the requester's name. A room that is blocked already keeps its first
// blocker.
func (s *Store) BlockRoom(ctx context.Context, room, requester string) error {
	if _, err := s.pool.Exec(ctx, blockRoom, room, requester); err != nil {
		return fmt.Errorf("block the room: %w", err)
	}
	return nil
}

// BlockRoomBatch is [Store.BlockRoom] for the batch's room, as a step of a job
// whose checkpoint becomes what the function returns.
func (s *Store) BlockRoomBatch(ctx context.Context, batch Batch, requester string, checkpoint func() any) error {
	err := s.inBatch(ctx, batch, func(tx pgx.Tx) (any, error) {
		_, err := tx.Exec(ctx, blockRoom, batch.Room, requester)
		return checkpoint(), err
	})
	if err != nil {
		return fmt.Errorf("block the room: %w", err)
	}
	return nil
}

// UnblockRoom lets users of this server join a room again. It does nothing if
// the room is not blocked.
func (s *Store) UnblockRoom(ctx context.Context, room string) error {
	if _, err := s.pool.Exec(ctx, `DELETE FROM blocked_rooms WHERE room_id = $1`, room); err != nil {
		return fmt.Errorf("unblock the room: %w", err)
	}
	return nil
}

// RoomBlock returns the id of the user who blocked a room. A room that is not
// blocked is [ErrNotFound].
func (s *Store) RoomBlock(ctx context.Context, room string) (blocker string, err error) {
	err = s.readRow(ctx, []any{&blocker}, `SELECT user_id FROM blocked_rooms WHERE room_id = $1`, room)
	if err != nil {
		return "", fmt.Errorf("read the room's block: %w", err)
	}
	return blocker, nil
}
