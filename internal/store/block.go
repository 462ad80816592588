package store

import (
	"context"
	"fmt"
)

// BlockRoom keeps local users from joining a room, which need not be known, in
// the requester's name. A room that is blocked already keeps its first blocker.
func (s *Store) BlockRoom(ctx context.Context, room, requester string) error {
	// The index is unique, so of two that block at a time one comes first.
	_, err := s.pool.Exec(ctx, `
		INSERT INTO blocked_rooms (room_id, user_id) VALUES ($1, $2) ON CONFLICT (room_id) DO NOTHING`, room, requester)
	if err != nil {
		return fmt.Errorf("block the room: %w", err)
	}
	return nil
}

// UnblockRoom lets local users join a room again. It does nothing if the room
// is not blocked.
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
