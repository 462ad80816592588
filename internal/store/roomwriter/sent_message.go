package roomwriter

import (
	"context"
	"fmt"
	"slices"

	"lethe/internal/store/postgres"

	"github.com/jackc/pgx/v5"
)

// SentMessage reports whether the sender has sent a message in the room that names
// the job under [JobIDKey]. It searches all of the room's messages, so the room
// should be new.
func SentMessage(ctx context.Context, db *postgres.DB, room, sender, jobID string) (bool, error) {
	// As text, for the same reason as in createdRoomSQL.
	events, err := postgres.ReadAll(ctx, db, pgx.RowTo[string], `
		SELECT j.json FROM events e JOIN event_json j ON j.event_id = e.event_id
		WHERE e.room_id = $1 AND e.type = 'm.room.message' AND e.sender = $2 AND strpos(j.json, $3) > 0
		LIMIT 100`, room, sender, jobID)
	if err != nil {
		return false, fmt.Errorf("look for the job's message: %w", err)
	}
	return slices.ContainsFunc(events, func(event string) bool { return isForJob(event, jobID) }), nil
}
