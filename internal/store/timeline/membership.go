package timeline

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/jackc/pgx/v5"

	"lethe/internal/matrix"
	"lethe/internal/store/postgres"
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

// readerAccessSQL always returns one row.
const readerAccessSQL = `
		SELECT coalesce(m.membership, ''),
		       EXISTS (SELECT FROM room_memberships r WHERE r.user_id = $2 AND r.room_id = $1 AND r.forgotten = 0),
		       e.topological_ordering, e.stream_ordering, j.json
		FROM (SELECT) AS one
		LEFT JOIN local_current_membership m ON m.user_id = $2 AND m.room_id = $1
		LEFT JOIN events e ON e.event_id = m.event_id AND e.room_id = $1
		LEFT JOIN current_state_events c
		       ON c.room_id = $1 AND c.type = 'm.room.history_visibility' AND c.state_key = ''
		LEFT JOIN event_json j ON j.event_id = c.event_id`

// queueReaderAccess reads the user's access to the room. It is zero for an unknown
// room.
func queueReaderAccess(batch *pgx.Batch, room, user string, access *ReaderAccess) {
	batch.Queue(readerAccessSQL, room, user).QueryRow(access.scan)
}

// AccessOf reads a user's access to a room, as [Snapshot.Pages] does.
func AccessOf(ctx context.Context, db *postgres.DB, room, user string) (access ReaderAccess, err error) {
	if !postgres.Storable(room) || !postgres.Storable(user) {
		return ReaderAccess{}, nil
	}
	err = postgres.RetryRead(ctx, func() error { return access.scan(db.QueryRow(ctx, readerAccessSQL, room, user)) })
	if err != nil {
		return ReaderAccess{}, fmt.Errorf("read who may read the room: %w", err)
	}
	return access, nil
}

// scan reads the row of readerAccessSQL.
func (a *ReaderAccess) scan(row pgx.Row) error {
	var topological, stream *int64
	if err := row.Scan(&a.Membership, &a.Remembered, &topological, &stream, &a.HistoryVisibility); err != nil {
		return err
	}
	if topological != nil && stream != nil {
		a.At = &matrix.Token{Topological: *topological, Stream: *stream}
	}
	return nil
}
