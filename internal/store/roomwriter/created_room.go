package roomwriter

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"lethe/internal/store/postgres"

	"github.com/jackc/pgx/v5"
)

// JobIDKey is the key in an event's content for the id of the job that has made the
// event: a room's m.room.create, or a message.
const JobIDKey = "org.lethe.job_id"

// creationTime is how long a room without join rules counts as one that a homeserver
// is still creating.
const creationTime = time.Minute

const (
	// createdRoomSQL searches all rooms of the creator, for lack of an index, but once
	// per job. It searches the events' JSON as text: it comes from other users, and
	// JSON that PostgreSQL cannot read must not end the search. A room gets its join
	// rules when users can join it.
	createdRoomSQL = `
		SELECT r.room_id, j.json, rules.event_id IS NOT NULL
		FROM rooms r
		JOIN current_state_events c ON c.room_id = r.room_id AND c.type = 'm.room.create' AND c.state_key = ''
		JOIN events e ON e.event_id = c.event_id
		JOIN event_json j ON j.event_id = c.event_id
		LEFT JOIN current_state_events rules
		  ON rules.room_id = r.room_id AND rules.type = 'm.room.join_rules' AND rules.state_key = ''
		WHERE r.creator = $1 AND strpos(j.json, $2) > 0
		  AND (rules.event_id IS NOT NULL OR e.received_ts::numeric > extract(epoch FROM clock_timestamp() - $3::interval)::numeric * 1000.0)
		ORDER BY e.stream_ordering LIMIT 100`
)

// FindCreatedRoom returns the id of the first room that the creator has made for the
// job, as [JobIDKey] says. ready is false while the room is still being made. A room
// that was not finished within a minute never will be, and does not count. No such
// room is [postgres.ErrNotFound].
func FindCreatedRoom(ctx context.Context, db *postgres.DB, creator, jobID string) (room string, ready bool, err error) {
	const operation = "find the room that was made for the job"
	type candidate struct {
		Room, JSON string
		Ready      bool
	}
	candidates, err := postgres.ReadAll(ctx, db, pgx.RowToStructByPos[candidate], createdRoomSQL, creator, jobID, creationTime)
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

// isForJob reports whether an event's JSON names the job.
func isForJob(event, jobID string) bool {
	var parsed struct {
		Content map[string]json.RawMessage `json:"content"`
	}
	var id string
	return json.Unmarshal([]byte(event), &parsed) == nil &&
		json.Unmarshal(parsed.Content[JobIDKey], &id) == nil && id == jobID
}
