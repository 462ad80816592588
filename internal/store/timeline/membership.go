package timeline

import (
	"encoding/json"

	"github.com/jackc/pgx/v5"

	"lethe/internal/matrix"
)

// A ReaderAccess is a local user's membership in a room, and the room's setting that
// says who may read it.
type ReaderAccess struct {
	// Membership is the user's present membership, "" without one.
	Membership string

	// Remembered says that the user has not forgotten the room.
	Remembered bool

	// At is the place of the membership's event, nil if the event is gone.
	At *matrix.Token

	// HistoryVisibility is the event of the room's current state that says who may read
	// the room, nil if there is no such event. It has not been validated. A redaction
	// would not change the setting.
	HistoryVisibility json.RawMessage
}

// queueReaderAccess reads the user's access to the room. It is zero for an unknown
// room.
func queueReaderAccess(batch *pgx.Batch, room, user string, access *ReaderAccess) {
	// The query always returns one row.
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
		if err := row.Scan(&access.Membership, &access.Remembered, &topological, &stream, &access.HistoryVisibility); err != nil {
			return err
		}
		if topological != nil && stream != nil {
			access.At = &matrix.Token{Topological: *topological, Stream: *stream}
		}
		return nil
	})
}
