package roomwriter

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"lethe/internal/store/postgres"

	"github.com/jackc/pgx/v5"
)

// JobIDKey is the key in the content of an event that tells for which job it was
// made: a room's m.room.create, or a message.
const JobIDKey = "org.lethe.job_id"

// beingMade is for how long a room without join rules is taken for one that a
// homeserver is still making.
const beingMade = time.Minute

const (
	// createdRoomSQL looks through all rooms of the creator, for want of an
	// index, but once for a job. The events' JSON is searched as text: it is
	// somebody else's, and one that PostgreSQL cannot read must not end the
	// search. A room has its join rules when it can be joined.
	createdRoomSQL = `
		SELECT r.room_id, j.json, rules.event_id IS NOT NULL
		FROM rooms r
		JOIN current_state_events c ON c.room_id = r.room_id AND c.type = 'm.room.create' AND c.state_key = ''
		JOIN events e ON e.event_id = c.event_id
		JOIN event_json j ON j.event_id = c.event_id
		LEFT JOIN current_state_events rules
		  ON rules.room_id = r.room_id AND rules.type = 'm.room.join_rules' AND rules.state_key = ''
		WHERE r.creator = $1 AND strpos(j.json, $2) > 0
		  AND (rules.event_id IS NOT NULL OR e.received_ts > extract(epoch FROM clock_timestamp() - $3::interval) * 1000)
		ORDER BY e.stream_ordering LIMIT 100`
)

// FindCreatedRoom returns the id of the first room that the creator made for the
// job, as [JobIDKey] says, and whether it is ready: one that is not is still
// being made. One that was not finished within a minute never will be, and does
// not count. No room is [postgres.ErrNotFound].
func FindCreatedRoom(ctx context.Context, db *postgres.DB, creator, jobID string) (room string, ready bool, err error) {
	const operation = "find the room that was made for the job"
	type candidate struct {
		Room, JSON string
		Ready      bool
	}
	candidates, err := postgres.ReadAll(ctx, db, pgx.RowToStructByPos[candidate], createdRoomSQL, creator, jobID, beingMade)
	if err != nil {
		return "", false, fmt.Errorf("%s: %w", operation, err)
	}
	for _, c := range candidates {
		if isForJob(c.JSON, jobID) {
			return c.Room, c.Ready, nil
		}
	}
	return "", false, fmt.Errorf("%s: %w", operation, postgres.ErrNotFound)
}

// isForJob reports whether an event's JSON says that it was made for the job.
func isForJob(event, jobID string) bool {
	var said struct {
		Content map[string]json.RawMessage `json:"content"`
	}
	var id string
	return json.Unmarshal([]byte(event), &said) == nil &&
		json.Unmarshal(said.Content[JobIDKey], &id) == nil && id == jobID
}
