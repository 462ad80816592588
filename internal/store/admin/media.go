package admin

import (
	"context"
	"encoding/json"
	"fmt"

	"lethe/internal/store/postgres"

	"github.com/jackc/pgx/v5"
)

// A MediaEvent is an event whose content has a URL.
type MediaEvent struct {
	// Stream is the event's place in the stream.
	Stream int64

	// JSON is the event as it was sent, even if it was redacted. It was not validated.
	JSON json.RawMessage
}

// MediaEvents returns up to limit events of a room whose content has a URL, the newest
// first, from the first that is before the place in the stream. An unknown room has none.
func (q *Queries) MediaEvents(ctx context.Context, room string, before int64, limit int) ([]MediaEvent, error) {
	if !postgres.Storable(room) {
		return nil, nil
	}
	events, err := postgres.ReadAll(ctx, q.db, pgx.RowToStructByPos[MediaEvent], `
		SELECT e.stream_ordering, j.json
		FROM events e
		JOIN event_json j ON j.event_id = e.event_id AND j.room_id = e.room_id
		WHERE e.room_id = $1 AND e.stream_ordering < $2 AND e.contains_url AND NOT e.outlier
		ORDER BY e.stream_ordering DESC LIMIT $3`, room, before, limit)
	if err != nil {
		return nil, fmt.Errorf("list the room's media: %w", err)
	}
	return events, nil
}
