package footprint

import (
	"context"
	"fmt"

	"lethe/internal/store/postgres"
)

// A Room is the space that a room takes.
type Room struct {
	ID string `json:"room_id"`

	// Events is the number of the room's events. It was counted.
	Events int64 `json:"events"`

	// EstimatedBytes is the sum of those of Tables.
	EstimatedBytes int64 `json:"estimated_bytes"`

	// Tables are the room's rows by table.
	Tables map[string]Figure `json:"tables"`

	// StateGroups are the room's state groups, with the bytes of their states. These
	// bytes are in Tables too.
	StateGroups Figure `json:"state_groups"`
}

// Room returns the footprint of a room: the rows that its delete would delete. Figures
// of more than [Options].Few rows are estimates. A room without events and without a
// row of its own is [postgres.ErrNotFound].
func (q *Queries) Room(ctx context.Context, room string) (Room, error) {
	if err := storable(room); err != nil {
		return Room{}, err
	}
	r := Room{ID: room}
	err := q.Delete(ctx, false, func(ctx context.Context, s *Snapshot) error {
		events, err := s.RoomEvents(ctx, room)
		if err != nil {
			return err
		}
		var exists bool
		if err := s.tx.QueryRow(ctx, `SELECT EXISTS (SELECT FROM rooms WHERE room_id = $1)`, room).Scan(&exists); err != nil {
			return err
		}
		if !exists && events.Deleted == 0 {
			return postgres.ErrNotFound
		}
		loss, err := s.RoomLoss(ctx, room, events)
		r.Events, r.Tables, r.StateGroups = events.Deleted, loss.Tables, loss.StateGroups
		return err
	})
	if err != nil {
		return Room{}, fmt.Errorf("read the room's footprint: %w", err)
	}
	for _, figure := range r.Tables {
		r.EstimatedBytes += figure.EstimatedBytes
	}
	return r, nil
}
