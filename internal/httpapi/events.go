package httpapi

import (
	"encoding/json"
	"fmt"
	"time"

	"github.com/labstack/echo/v4"

	"lethe/internal/messages"
	"lethe/internal/store/postgres"
	"lethe/internal/wire"
)

var errNoEvent = wire.NotFound("Event not found.")

// eventContext is GET …/v1/rooms/{room_id}/context/{event_id}.
func (s *server) eventContext(c echo.Context, reader messages.Reader) error {
	request := messages.ContextRequest{Room: segment(c, "room_id"), EventID: segment(c, "event_id"), Reader: reader}
	q := queryOf(c)
	request.Limit, request.Filter = pageLimit(q), pageFilter(q)
	if err := q.Err(); err != nil {
		return err
	}
	begun := time.Now()
	found, err := s.options.Messages.Context(c.Request().Context(), request)
	s.observePage(true, begun)
	if err != nil {
		return pageError(instead(err, messages.ErrEventNotFound, errNoEvent), reader, request.Room)
	}
	body := newObject([]json.RawMessage{found.Event}, found.Before, found.After, found.State)
	body.list("events_before", found.Before)
	body.json("event", found.Event)
	body.list("events_after", found.After)
	body.list("state", found.State)
	body.text("start", found.Start.String())
	body.text("end", found.End.String())
	return body.answer(c)
}

// timestampToEvent is GET …/v1/rooms/{room_id}/timestamp_to_event.
func (s *server) timestampToEvent(c echo.Context, _ string) error {
	q := queryOf(c)
	ts, backwards := q.RequiredInteger("ts"), q.Backwards()
	if err := q.Err(); err != nil {
		return err
	}
	direction := "FORWARDS"
	if backwards {
		direction = "BACKWARDS"
	}
	event, sent, err := s.queries.EventNear(c.Request().Context(), segment(c, "room_id"), ts, backwards)
	return answerOK(c, struct {
		EventID string `json:"event_id"`
		SentTS  int64  `json:"origin_server_ts"`
	}{event, sent}, instead(err, postgres.ErrNotFound,
		wire.NotFound(fmt.Sprintf("Unable to find event from %d in direction Direction.%s", ts, direction))))
}
