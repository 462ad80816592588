package store

import (
	"context"
	"encoding/json"
	"fmt"

	"lethe/internal/matrix"
)

// A Standing is what a local user is to a room, and what the room says of who may
// read it.
type Standing struct {
	// Membership is what the user is now, "" if it is and was nothing to the room.
	Membership string

	// Remembered says that the user has not forgotten the room.
	Remembered bool

	// At is the place of the event that made the membership, nil if that is gone.
	At *matrix.Token

	// HistoryVisibility is the event of the room's current state that says who may
	// read it, nil if there is none. It has not been checked. A redaction would
	// leave what it says.
	HistoryVisibility json.RawMessage
}

// Standing reads what the user is to the room. In a room that is not known it is
// nothing.
func (s *Snapshot) Standing(ctx context.Context, room, user string) (Standing, error) {
	if !storable(room) || !storable(user) {
		return Standing{}, nil
	}
	var standing Standing
	var topological, stream *int64
	var visibility *string
	// One row, whatever there is.
	if err := s.tx.QueryRow(ctx, `
		SELECT coalesce(m.membership, ''),
		       EXISTS (SELECT FROM room_memberships r WHERE r.user_id = $2 AND r.room_id = $1 AND r.forgotten = 0),
		       e.topological_ordering, e.stream_ordering, j.json
		FROM (SELECT) AS one
		LEFT JOIN local_current_membership m ON m.user_id = $2 AND m.room_id = $1
		LEFT JOIN events e ON e.event_id = m.event_id AND e.room_id = $1
		LEFT JOIN current_state_events c
		       ON c.room_id = $1 AND c.type = 'm.room.history_visibility' AND c.state_key = ''
		LEFT JOIN event_json j ON j.event_id = c.event_id`, room, user).
		Scan(&standing.Membership, &standing.Remembered, &topological, &stream, &visibility); err != nil {
		return Standing{}, fmt.Errorf("read what the user is to the room: %w", err)
	}
	if topological != nil && stream != nil {
		standing.At = &matrix.Token{Topological: *topological, Stream: *stream}
	}
	if visibility != nil {
		standing.HistoryVisibility = json.RawMessage(*visibility)
	}
	return standing, nil
}
