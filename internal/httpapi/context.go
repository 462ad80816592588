package httpapi

import (
	"encoding/json"
	"errors"
	"time"

	"github.com/labstack/echo/v4"

	"lethe/internal/messages"
	"lethe/internal/wire"
)

var errNoEvent = wire.NotFound("Event not found.")

// eventContext is GET …/v1/rooms/{room_id}/context/{event_id}.
func (s *server) eventContext(c echo.Context, reader messages.Reader) error {
	request := messages.ContextRequest{Room: segment(c, "room_id"), EventID: segment(c, "event_id"), Reader: reader}
	q := queryOf(c)
	var err error
	if request.Limit, err = pageLimit(q); err != nil {
		return err
	}
	if request.Filter, err = pageFilter(q); err != nil {
		return err
	}
	begun := time.Now()
	found, err := s.options.Messages.Context(c.Request().Context(), request)
	s.observePage(true, begun)
	switch {
	case errors.Is(err, messages.ErrEventNotFound):
		return errNoEvent
	case err != nil:
		return pageError(err, reader, request.Room)
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
