package store

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/jackc/pgx/v5"
)

// An Event is an event as it is kept.
type Event struct {
	ID string

	// Room is the id of its room.
	Room string

	// RoomVersion is the version of its room, nil if nobody knows.
	RoomVersion *string

	// Outlier says that it is outside the timeline.
	Outlier bool

	// JSON is the event as other servers get it.
	JSON json.RawMessage

	// RedactedBy is the id of the event that redacts it, nil if none does.
	// Redaction is that event as other servers get it, nil if it is gone.
	RedactedBy *string
	Redaction  json.RawMessage
}

// Events reads events that were not rejected, by their ids. Those that are
// unknown are left out. The caller bounds how many it asks for.
func (s *Store) Events(ctx context.Context, ids []string) (map[string]Event, error) {
	var found []Event
	err := patiently(ctx, func() error {
		// A redaction that is to be checked again came before its target. It counts
		// if it is there, was not rejected, is of the same room, and its sender is
		// of the server whose event it redacts. What made a room is never redacted.
		rows, err := s.pool.Query(ctx, `
			SELECT e.event_id, e.room_id, r.room_version, e.outlier, j.json, d.event_id, d.json
			FROM unnest($1::text[]) AS asked (event_id)
			JOIN events e USING (event_id)
			JOIN event_json j USING (event_id)
			LEFT JOIN rejections x USING (event_id)
			LEFT JOIN rooms r ON r.room_id = e.room_id
			LEFT JOIN LATERAL (
				SELECT d.event_id, dj.json
				FROM redactions d
				-- Older schemas do not have the column; then all are checked.
				CROSS JOIN LATERAL (SELECT coalesce((to_jsonb(d) ->> 'recheck')::boolean, true)) AS f (recheck)
				LEFT JOIN events de ON de.event_id = d.event_id
				LEFT JOIN event_json dj ON dj.event_id = d.event_id
				LEFT JOIN rejections dx ON dx.event_id = d.event_id
				WHERE d.redacts = e.event_id AND e.type <> 'm.room.create'
				  AND (NOT f.recheck
				       OR de.room_id = e.room_id AND de.rejection_reason IS NULL AND dx.event_id IS NULL
				          AND substr(de.sender, strpos(de.sender, ':')) = substr(e.sender, strpos(e.sender, ':')))
				ORDER BY f.recheck, de.stream_ordering, d.event_id
				LIMIT 1
			) d ON true
			WHERE e.rejection_reason IS NULL AND x.event_id IS NULL`, ids)
		if err != nil {
			return err
		}
		found, err = pgx.CollectRows(rows, pgx.RowToStructByPos[Event])
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("read events: %w", err)
	}
	events := make(map[string]Event, len(found))
	for _, event := range found {
		events[event.ID] = event
	}
	return events, nil
}
