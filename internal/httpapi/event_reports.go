package httpapi

import (
	"encoding/json"
	"strconv"
	"strings"

	"github.com/labstack/echo/v4"

	"lethe/internal/matrix"
	"lethe/internal/store/admin"
	"lethe/internal/store/postgres"
	"lethe/internal/wire"
)

// An eventReportBody is an [admin.EventReport] with Synapse's keys.
type eventReportBody struct {
	ID             int64           `json:"id"`
	ReceivedTS     int64           `json:"received_ts"`
	RoomID         string          `json:"room_id"`
	EventID        string          `json:"event_id"`
	UserID         string          `json:"user_id"`
	Score          json.RawMessage `json:"score"`
	Reason         json.RawMessage `json:"reason"`
	Sender         *string         `json:"sender"`
	CanonicalAlias *string         `json:"canonical_alias"`
	Name           *string         `json:"name"`

	// Event is only in the answer for one report.
	Event json.RawMessage `json:"event_json,omitempty"`
}

// newEventReportBody renders a report. The score and the reason are what a user has sent.
func newEventReportBody(report admin.EventReport) eventReportBody {
	content, _ := matrix.SplitObject(nil, report.Content)
	return eventReportBody{
		ID: report.ID, ReceivedTS: report.ReceivedTS, RoomID: report.RoomID, EventID: report.EventID, UserID: report.UserID,
		Score: content.Get("score"), Reason: content.Get("reason"),
		Sender: report.Sender, CanonicalAlias: report.CanonicalAlias, Name: report.Name,
	}
}

// eventReportList is GET …/v1/event_reports.
func (s *server) eventReportList(c echo.Context, _ string) error {
	q := wire.QueryOf(c)
	list := admin.EventReportList{
		From: q.Integer("from", 0), Limit: q.Integer("limit", 100), Forwards: q.OneOf("dir", "b", "b", "f") == "f",
		User: q.ASCII("user_id"), Room: q.ASCII("room_id"), Sender: q.ASCII("event_sender_user_id"),
	}
	if err := q.Err(); err != nil {
		return err
	}
	reports, total, err := s.queries.EventReports(c.Request().Context(), list)
	if err != nil {
		return err
	}
	body := struct {
		Reports []eventReportBody `json:"event_reports"`
		Total   int64             `json:"total"`
		Next    *int64            `json:"next_token,omitempty"`
	}{Reports: make([]eventReportBody, 0, len(reports)), Total: total}
	for _, report := range reports {
		body.Reports = append(body.Reports, newEventReportBody(report))
	}
	if hasNext(list.From, list.Limit, total) {
		body.Next = new(list.From + int64(len(reports)))
	}
	return wire.AnswerOK(c, body, nil)
}

// hasNext reports whether a list goes on after a page. A sum could overflow, so it is a
// difference.
func hasNext(from, limit, total int64) bool { return from < total && limit < total-from }

// eventReport is GET …/v1/event_reports/{report_id}.
func (s *server) eventReport(c echo.Context, _ string) error {
	id, err := strconv.ParseInt(strings.TrimSpace(wire.Segment(c, "report_id")), 10, 64)
	if err != nil || id < 0 {
		return wire.InvalidParam("The report_id parameter must be a string representing a positive integer.")
	}
	report, event, err := s.queries.EventReport(c.Request().Context(), id)
	if err != nil {
		return wire.Instead(err, postgres.ErrNotFound, wire.NotFound("Event report not found"))
	}
	body := newEventReportBody(report)
	if body.Event = event; !json.Valid(event) {
		body.Event = json.RawMessage("null")
	}
	return wire.AnswerOK(c, body, nil)
}
