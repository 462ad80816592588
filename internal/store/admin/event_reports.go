package admin

import (
	"context"
	"encoding/json"
	"fmt"

	"lethe/internal/store/postgres"

	"github.com/jackc/pgx/v5"
)

// An EventReport is a user's complaint about an event.
type EventReport struct {
	ID int64

	// ReceivedTS is the time of the report, in Unix milliseconds.
	ReceivedTS int64

	RoomID, EventID string

	// UserID is the id of the user who reported.
	UserID string

	// Content is what the user has written, a JSON object with a score and a reason. It
	// was not validated.
	Content json.RawMessage

	// Sender is the sender of the event, nil if the event is gone. CanonicalAlias and
	// Name are those of the room, nil if it has none.
	Sender, CanonicalAlias, Name *string
}

// eventReportColumns are the columns of an [EventReport], and eventReportTables the
// tables that a report must have rows in. Synapse shows no report of a room that it has
// deleted, and which has no row in room_stats_state.
const (
	eventReportColumns = `er.id, er.received_ts, er.room_id, er.event_id, er.user_id,
		coalesce(er.content, ''), e.sender, s.canonical_alias, s.name`
	eventReportTables = `
		FROM event_reports er
		LEFT JOIN events e ON e.event_id = er.event_id
		JOIN room_stats_state s ON s.room_id = er.room_id`
)

func (r *EventReport) columns() []any {
	return []any{
		&r.ID, &r.ReceivedTS, &r.RoomID, &r.EventID, &r.UserID, &r.Content, &r.Sender, &r.CanonicalAlias, &r.Name,
	}
}

// An EventReportList says which reports to list.
type EventReportList struct {
	// From is the number of reports to skip, and Limit the maximum number to return.
	From, Limit int64

	// Forwards begins with the oldest report. Defaults to false, which begins with the
	// newest.
	Forwards bool

	// User, unless "", must be part of the id of the user who reported. Room, unless "",
	// must be part of the room's id. Sender, unless "", must be the event's sender.
	User, Room, Sender string
}

// EventReports lists the reports of events. total is their number without From and Limit.
// A database without the table has none.
func (q *Queries) EventReports(ctx context.Context, list EventReportList) (reports []EventReport, total int64, err error) {
	const operation = "list the reports of events"
	readable, err := q.mayRead(ctx, "event_reports")
	if err != nil {
		return nil, 0, fmt.Errorf("%s: %w", operation, err)
	}
	if !readable || !postgres.Storable(list.User+list.Room+list.Sender) {
		return nil, 0, nil
	}
	const matching = eventReportTables + `
		WHERE ($1 = '' OR er.user_id LIKE '%' || $1 || '%')
		  AND ($2 = '' OR er.room_id LIKE '%' || $2 || '%')
		  AND ($3 = '' OR e.sender = $3)`
	direction := "DESC"
	if list.Forwards {
		direction = "ASC"
	}
	filter := []any{likeLiterally.Replace(list.User), likeLiterally.Replace(list.Room), list.Sender}
	err = postgres.RetryRead(ctx, func() error {
		if err := q.db.QueryRow(ctx, `SELECT count(*) `+matching, filter...).Scan(&total); err != nil {
			return err
		}
		rows, err := q.db.Query(ctx, `SELECT `+eventReportColumns+matching+`
			ORDER BY er.received_ts `+direction+`, er.id `+direction+`
			LIMIT $4 OFFSET $5`, append(filter[:len(filter):len(filter)], list.Limit, list.From)...)
		if err != nil {
			return err
		}
		reports, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (report EventReport, err error) {
			return report, row.Scan(report.columns()...)
		})
		return err
	})
	if err != nil {
		return nil, 0, fmt.Errorf("%s: %w", operation, err)
	}
	return reports, total, nil
}

// EventReport returns a report and the JSON of its event, as the homeserver stores it. An
// unknown report, and one whose event is gone, is [postgres.ErrNotFound].
func (q *Queries) EventReport(ctx context.Context, id int64) (report EventReport, event json.RawMessage, err error) {
	const operation = "read a report of an event"
	readable, err := q.mayRead(ctx, "event_reports")
	if err == nil && !readable {
		err = postgres.ErrNotFound
	}
	if err == nil {
		err = q.db.ReadRow(ctx, append(report.columns(), &event), `
			SELECT `+eventReportColumns+`, j.json`+eventReportTables+`
			JOIN event_json j ON j.event_id = er.event_id
			WHERE er.id = $1`, id)
	}
	if err != nil {
		return EventReport{}, nil, fmt.Errorf("%s: %w", operation, err)
	}
	return report, event, nil
}
