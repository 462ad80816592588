package admin

import (
	"context"
	"fmt"

	"lethe/internal/store/postgres"
)

// EventNear returns the room's event that was sent nearest to a moment: at it or
// after it, or, backwards, at it or before it. ts is the moment in Unix milliseconds
// by the senders' clocks. Of several events of the same time it returns the first in
// the room's order, or, backwards, the last. Outliers and rejected events do not
// count. No such event is [postgres.ErrNotFound].
func (q *Queries) EventNear(ctx context.Context, room string, ts int64, backwards bool) (
	eventID string, sentTS int64, err error,
) {
	const operation = "find the event near a moment"
	if !postgres.Storable(room) {
		return "", 0, fmt.Errorf("%s: %w", operation, postgres.ErrNotFound)
	}
	bound, direction := ">=", "ASC"
	if backwards {
		bound, direction = "<=", "DESC"
	}
	err = q.db.ReadRow(ctx, []any{&eventID, &sentTS}, fmt.Sprintf(`
		SELECT e.event_id, e.origin_server_ts
		FROM events e
		LEFT JOIN rejections r USING (event_id)
		WHERE e.room_id = $1 AND e.origin_server_ts %[1]s $2
		  AND NOT e.outlier AND e.rejection_reason IS NULL AND r.event_id IS NULL
		ORDER BY e.origin_server_ts %[2]s, e.depth %[2]s, e.stream_ordering %[2]s
		LIMIT 1`, bound, direction), room, ts)
	if err != nil {
		return "", 0, fmt.Errorf("%s: %w", operation, err)
	}
	return eventID, sentTS, nil
}
