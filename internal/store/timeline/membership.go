package timeline

import (
	"encoding/json"

	"github.com/jackc/pgx/v5"

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

// queueStanding reads what the user is to the room. In a room that is not known it is
// nothing.
func queueStanding(batch *pgx.Batch, room, user string, standing *Standing) {
	// One row, whatever there is.
	batch.Queue(`
		SELECT coalesce(m.membership, ''),
		       EXISTS (SELECT FROM room_memberships r WHERE r.user_id = $2 AND r.room_id = $1 AND r.forgotten = 0),
		       e.topological_ordering, e.stream_ordering, j.json
		FROM (SELECT) AS one
		LEFT JOIN local_current_membership m ON m.user_id = $2 AND m.room_id = $1
		LEFT JOIN events e ON e.event_id = m.event_id AND e.room_id = $1
		LEFT JOIN current_state_events c
		       ON c.room_id = $1 AND c.type = 'm.room.history_visibility' AND c.state_key = ''
		LEFT JOIN event_json j ON j.event_id = c.event_id`, room, user).QueryRow(func(row pgx.Row) error {
		var topological, stream *int64
		if err := row.Scan(&standing.Membership, &standing.Remembered, &topological, &stream, &standing.HistoryVisibility); err != nil {
			return err
		}
		if topological != nil && stream != nil {
			standing.At = &matrix.Token{Topological: *topological, Stream: *stream}
		}
		return nil
	})
}
