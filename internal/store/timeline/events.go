package timeline

import (
	"context"
	"fmt"
	"strings"

	"lethe/internal/store/postgres"

	"github.com/jackc/pgx/v5"
)

// eventColumns are the columns of an [Event] without the state group, selected from
// eventTables.
const eventColumns = `
		e.event_id, e.type, coalesce(e.sender, ''), e.state_key, e.topological_ordering, coalesce(e.stream_ordering, 0),
		coalesce(e.origin_server_ts, 0), e.outlier, r.room_version, j.json, j.internal_metadata, d.event_id, d.json, d.internal_metadata, coalesce(d.redacted, false)`

// eventTables joins the events that were not rejected to "asked", a table of ids.
func (has bans) eventTables() string {
	return `
		JOIN events e ON e.event_id = asked.event_id AND e.rejection_reason IS NULL
		JOIN event_json j ON j.event_id = e.event_id
		LEFT JOIN rooms r ON r.room_id = e.room_id
		LEFT JOIN LATERAL ` + has.redactionOf() + ` d ON true
		WHERE NOT EXISTS (SELECT FROM rejections x WHERE x.event_id = e.event_id)`
}

// eventColumnsWithin are eventColumns without the JSON of events beyond a number of bytes,
// in the order of the column, and then whether an event is beyond it.
func eventColumnsWithin(order, bytes string) string {
	beyond := beyondBytes("ORDER BY "+order, bytes, "octet_length(j.json)")
	return strings.NewReplacer(
		"j.json", "CASE WHEN NOT ("+beyond+") THEN j.json END",
		"d.json", "CASE WHEN NOT ("+beyond+") THEN d.json END").Replace(eventColumns) + ", " + beyond
}

// eventsSQL reads events of the room $2 by their ids. The ids may come from another
// server, which could otherwise ask for an event of any room.
func (has bans) eventsSQL() string {
	return `SELECT` + eventColumns + ` FROM pg_catalog.unnest($1::text[]) AS asked (event_id)` + has.eventTables() + ` AND e.room_id = $2`
}

// columns returns where to scan a row of eventColumns.
func (e *Event) columns() []any {
	return []any{
		&e.ID, &e.Type, &e.Sender, &e.StateKey, &e.Topological, &e.Stream, &e.OriginTS, &e.Outlier, &e.RoomVersion,
		&e.JSON, &e.InternalMetadata, &e.RedactedBy, &e.Redaction, &e.RedactionMetadata, &e.RedactionRedacted,
	}
}

// eventsOf reads the rows of [bans.eventsSQL].
func eventsOf(rows pgx.Rows) (map[string]Event, error) {
	events := map[string]Event{}
	var event Event
	_, err := pgx.ForEachRow(rows, event.columns(), func() error {
		events[event.ID] = event
		event = Event{} // the map keeps the scanned slices, so scan into new ones
		return nil
	})
	return events, err
}

// eventsWithinSQL is eventsSQL with $3 as the number of bytes.
func (has bans) eventsWithinSQL() string {
	return `SELECT` + eventColumnsWithin("asked.place", "$3") + `
		FROM pg_catalog.unnest($1::text[]) WITH ORDINALITY AS asked (event_id, place)` + has.eventTables() + ` AND e.room_id = $2`
}

// EventsWithin reads events as [Snapshot.Events] does, in the order of the ids, until their
// JSON and that of their redactions has reached a number of bytes. It returns the ids of
// the events that it has not read.
func (s *Snapshot) EventsWithin(ctx context.Context, room string, ids []string, bytes int) (events map[string]Event, cut map[string]bool, err error) {
	if ids = postgres.OnlyStorable(ids); len(ids) == 0 || !postgres.Storable(room) {
		return map[string]Event{}, nil, nil
	}
	rows, err := s.tx.Query(ctx, s.bans.eventsWithinSQL(), ids, room, bytes)
	if err == nil {
		events, cut, err = eventsWithin(rows)
	}
	if err != nil {
		return nil, nil, fmt.Errorf("read events: %w", err)
	}
	return events, cut, nil
}

// eventsWithin reads the rows of [bans.eventsWithinSQL].
func eventsWithin(rows pgx.Rows) (events map[string]Event, cut map[string]bool, err error) {
	events, cut = map[string]Event{}, map[string]bool{}
	var event Event
	var beyond bool
	_, err = pgx.ForEachRow(rows, append(event.columns(), &beyond), func() error {
		if beyond {
			cut[event.ID] = true
		} else {
			events[event.ID] = event
		}
		event = Event{}
		return nil
	})
	return events, cut, err
}

// Events reads events of a room by their ids. It leaves out unknown and rejected
// events and those of other rooms, and does not read state groups. The caller must
// bound the number of ids.
func Events(ctx context.Context, db *postgres.DB, room string, ids []string) (map[string]Event, error) {
	var events map[string]Event
	has, err := hasBans(ctx, db)
	if err != nil {
		return nil, fmt.Errorf("read events: %w", err)
	}
	err = postgres.RetryRead(ctx, func() (err error) {
		events, err = has.readEvents(ctx, db, room, ids)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("read events: %w", err)
	}
	return events, nil
}

// Events is [Events] at the snapshot's moment.
func (s *Snapshot) Events(ctx context.Context, room string, ids []string) (map[string]Event, error) {
	events, err := s.bans.readEvents(ctx, s.tx, room, ids)
	if err != nil {
		return nil, fmt.Errorf("read events: %w", err)
	}
	return events, nil
}

func (has bans) readEvents(ctx context.Context, q postgres.Querier, room string, ids []string) (map[string]Event, error) {
	if ids = postgres.OnlyStorable(ids); len(ids) == 0 || !postgres.Storable(room) {
		return map[string]Event{}, nil
	}
	rows, err := q.Query(ctx, has.eventsSQL(), ids, room)
	if err != nil {
		return nil, err
	}
	return eventsOf(rows)
}
