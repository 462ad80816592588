package admin

import (
	"context"
	"fmt"

	"lethe/internal/matrix"
	"lethe/internal/store/postgres"
)

// EventPosition returns the room of an event and the page token just after the
// event. An event that is unknown, was rejected or has lost its JSON is
// [postgres.ErrNotFound].
func (q *Queries) EventPosition(ctx context.Context, eventID string) (room string, token matrix.Token, err error) {
	const operation = "find the event's position"
	if !postgres.Storable(eventID) {
		return "", matrix.Token{}, fmt.Errorf("%s: %w", operation, postgres.ErrNotFound)
	}
	err = q.db.ReadRow(ctx, []any{&room, &token.Topological, &token.Stream}, `
		SELECT e.room_id, e.topological_ordering, e.stream_ordering
		FROM events e
		JOIN event_json j USING (event_id)
		LEFT JOIN rejections r USING (event_id)
		WHERE e.event_id = $1 AND e.rejection_reason IS NULL AND r.event_id IS NULL`,
		eventID)
	if err != nil {
		return "", matrix.Token{}, fmt.Errorf("%s: %w", operation, err)
	}
	return room, token, nil
}

// TokenAtTimestamp returns the page token of a moment in a room. ts is the moment in
// Unix milliseconds of arrival here: the events before the token arrived before it.
// A room without such an event is [postgres.ErrNotFound].
//
// The moment is first located in the stream of all rooms, by a bisection that
// assumes that arrival times grow with the stream. Where they do not, the answer is
// still that of Synapse's bisection, since both check the same places. The token is
// that of the room's last event up to there, so a purge always leaves the room an
// event: if nothing arrived after ts, the newest of the older ones.
func (q *Queries) TokenAtTimestamp(ctx context.Context, room string, ts int64) (matrix.Token, error) {
	const operation = "find the token of a moment"
	if !postgres.Storable(room) {
		return matrix.Token{}, fmt.Errorf("%s: %w", operation, postgres.ErrNotFound)
	}
	var token matrix.Token
	// One statement, because each of the bisection's forty steps is far cheaper than a
	// round trip, and all of them must see one snapshot.
	//
	// The room is selected by a range that holds only this room. With a plain equality
	// the planner may walk back through the events of all rooms, which is the whole
	// table when this room has no event that old.
	err := q.db.ReadRow(ctx, []any{&token.Topological, &token.Stream}, `
		WITH RECURSIVE moments (ts) AS (SELECT $2::bigint),`+postgres.Bisection+`
		SELECT e.topological_ordering, e.stream_ordering
		FROM events e
		LEFT JOIN rejections r USING (event_id)
		WHERE (e.room_id, e.stream_ordering) <= ($1, (SELECT high FROM bisection WHERE low >= high))
		  AND e.room_id >= $1
		  AND NOT e.outlier AND e.rejection_reason IS NULL AND r.event_id IS NULL
		ORDER BY e.room_id DESC, e.stream_ordering DESC
		LIMIT 1`,
		room, ts)
	if err != nil {
		return matrix.Token{}, fmt.Errorf("%s: %w", operation, err)
	}
	return token, nil
}
