package admin

import (
	"context"
	"errors"
	"fmt"

	"lethe/internal/store/journal"
	"lethe/internal/store/postgres"

	"github.com/jackc/pgx/v5"
)

// An Extremity is one of a room's newest events: no other event follows it.
type Extremity struct {
	EventID    string
	StateGroup int64
	Depth      int64

	// ReceivedTS is the event's time of arrival here, in Unix milliseconds, nil if it
	// is unknown.
	ReceivedTS *int64
}

// ForwardExtremities returns a room's forward extremities in the order of their ids.
// An unknown room has none.
func (q *Queries) ForwardExtremities(ctx context.Context, room string) ([]Extremity, error) {
	if !postgres.Storable(room) {
		return nil, nil
	}
	extremities, err := postgres.ReadAll(ctx, q.db, pgx.RowToStructByPos[Extremity], `
		SELECT x.event_id, g.state_group, e.depth, e.received_ts
		FROM event_forward_extremities x
		JOIN events e USING (event_id)
		JOIN event_to_state_groups g USING (event_id)
		WHERE x.room_id = $1
		ORDER BY x.event_id`, room)
	if err != nil {
		return nil, fmt.Errorf("list the forward extremities: %w", err)
	}
	return extremities, nil
}

// DeleteForwardExtremities deletes all of a room's forward extremities but the
// newest in the stream, and returns the number of deleted ones. A room without any
// is [postgres.ErrNotFound], and a held room is [journal.ErrHeld]. The statements of last
// end the transaction.
func (q *Queries) DeleteForwardExtremities(ctx context.Context, room string, last ...postgres.Statement) (deleted int64, err error) {
	const operation = "delete the forward extremities"
	if !postgres.Storable(room) {
		return 0, fmt.Errorf("%s: %w", operation, postgres.ErrNotFound)
	}
	err = q.db.InTransaction(ctx, func(tx pgx.Tx) error {
		// A purge must not delete the extremity that stays because it saw a higher one
		// beside it. Its batches lock the room's fence, which is locked against them
		// here. A process that adds an event locks the room.
		if _, err := tx.Exec(ctx, `
			INSERT INTO lethe.room_fences AS f (room_id, fence) SELECT room_id, 0 FROM rooms WHERE room_id = $1
			ON CONFLICT (room_id) DO UPDATE SET fence = f.fence`, room); err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, `SELECT FROM rooms WHERE room_id = $1 FOR NO KEY UPDATE`, room); err != nil {
			return err
		}
		// A hold locks the same fence: it was placed before, or it waits.
		if err := journal.CheckHold(ctx, tx, room); err != nil {
			return err
		}
		var newest string
		err := tx.QueryRow(ctx, `
			SELECT x.event_id FROM event_forward_extremities x JOIN events e USING (event_id, room_id)
			WHERE x.room_id = $1
			ORDER BY e.stream_ordering DESC NULLS LAST LIMIT 1`, room).Scan(&newest)
		if errors.Is(err, pgx.ErrNoRows) {
			return postgres.ErrNotFound
		}
		if err != nil {
			return err
		}
		tag, err := tx.Exec(ctx, `DELETE FROM event_forward_extremities WHERE room_id = $1 AND event_id <> $2`, room, newest)
		deleted = tag.RowsAffected()
		if err != nil {
			return err
		}
		return postgres.RunIn(ctx, tx, last...)
	})
	if err != nil {
		return 0, fmt.Errorf("%s: %w", operation, err)
	}
	return deleted, nil
}
