package roomwriter

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"

	"lethe/internal/store/postgres"
)

// FederationPosition returns the place in the stream of events up to which the
// homeserver has handed its events to the senders for other servers. If several
// processes send, it is that of the slowest. known is false if no homeserver has ever
// stored a position here.
func FederationPosition(ctx context.Context, db *postgres.DB) (position int64, known bool, err error) {
	const operation = "read the position of the homeserver's federation"
	var exists bool
	if err := db.ReadRow(ctx, []any{&exists}, `SELECT to_regclass('federation_stream_position') IS NOT NULL`); err != nil || !exists {
		if err != nil {
			err = fmt.Errorf("%s: %w", operation, err)
		}
		return 0, false, err
	}
	// The rows of the type federation are about another stream, in which events are not.
	var lowest *int64
	if err := db.ReadRow(ctx, []any{&lowest}, `SELECT min(stream_id) FROM federation_stream_position WHERE type = 'events'`); err != nil {
		return 0, false, fmt.Errorf("%s: %w", operation, err)
	}
	if lowest == nil {
		return 0, false, nil
	}
	return *lowest, true, nil
}

// NewestUnsent returns the place in the stream of the room's newest event after the
// position that a user of the server has sent, if the room has members of other
// servers, who need it. Otherwise, and for an unknown room, it returns
// [postgres.ErrNotFound].
func NewestUnsent(ctx context.Context, db *postgres.DB, room, server string, position int64) (place int64, err error) {
	err = ReadRoom(ctx, db, room, func(r *RoomReader) error {
		err := r.q.QueryRow(ctx, `
			SELECT stream_ordering FROM events
			WHERE room_id = $1 AND stream_ordering > $2 AND NOT outlier AND right(sender, length($3) + 1) = ':' || $3
			ORDER BY stream_ordering DESC LIMIT 1`, room, position, server).Scan(&place)
		if errors.Is(err, pgx.ErrNoRows) {
			return postgres.ErrNotFound
		}
		if err != nil {
			return err
		}
		extremities, err := r.Extremities(ctx)
		if err != nil {
			return err
		}
		remote, err := r.HasRemoteMembers(ctx, extremities, server)
		if err == nil && !remote {
			err = postgres.ErrNotFound
		}
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("look for the newest event that other servers need: %w", err)
	}
	return place, nil
}
