package httpapi

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"time"

	"github.com/labstack/echo/v4"

	"lethe/internal/messages"
	"lethe/internal/store/admin"
	"lethe/internal/store/postgres"
	"lethe/internal/store/timeline"
	"lethe/internal/wire"
)

var errNoEvent = wire.NotFound("Event not found.")

// eventContext is GET …/v1/rooms/{room_id}/context/{event_id}.
func (s *server) eventContext(c echo.Context, reader messages.Reader) error {
	request := messages.ContextRequest{Room: wire.Segment(c, "room_id"), EventID: wire.Segment(c, "event_id"), Reader: reader}
	q := wire.QueryOf(c)
	request.Limit, request.Filter = pageLimit(q), pageFilter(q)
	if err := q.Err(); err != nil {
		return err
	}
	begun := time.Now()
	found, err := s.options.Messages.Context(c.Request().Context(), request)
	s.observePage(true, begun)
	if err != nil {
		return pageError(wire.Instead(err, messages.ErrEventNotFound, errNoEvent), reader, request.Room)
	}
	defer found.Release()
	body := newObject([]json.RawMessage{found.Event}, found.Before, found.After, found.State)
	body.list("events_before", found.Before)
	body.json("event", found.Event)
	body.list("events_after", found.After)
	body.list("state", found.State)
	body.text("start", found.Start.String())
	body.text("end", found.End.String())
	return s.answerObject(c, body)
}

// anyEvent is GET …/v1/fetch_event/{event_id}.
func (s *server) anyEvent(c echo.Context, reader messages.Reader) error {
	ctx, id := c.Request().Context(), wire.Segment(c, "event_id")
	notFound := wire.NotFound("Event not found")
	room, _, err := s.queries.EventPosition(ctx, id)
	if err != nil {
		return wire.Instead(err, postgres.ErrNotFound, notFound)
	}
	event, err := s.options.Messages.Event(ctx, room, id, reader)
	if err != nil {
		return pageError(wire.Instead(err, messages.ErrEventNotFound, notFound), reader, room)
	}
	body := newObject([]json.RawMessage{event})
	body.json("event", event)
	return s.answerObject(c, body)
}

// timestampToEvent is GET …/v1/rooms/{room_id}/timestamp_to_event.
func (s *server) timestampToEvent(c echo.Context, _ string) error {
	q := wire.QueryOf(c)
	ts, backwards := q.RequiredInteger("ts"), q.Backwards()
	if err := q.Err(); err != nil {
		return err
	}
	direction := "FORWARDS"
	if backwards {
		direction = "BACKWARDS"
	}
	event, sent, err := s.queries.EventNear(c.Request().Context(), wire.Segment(c, "room_id"), ts, backwards)
	return wire.AnswerOK(c, struct {
		EventID string `json:"event_id"`
		SentTS  int64  `json:"origin_server_ts"`
	}{event, sent}, wire.Instead(err, postgres.ErrNotFound,
		wire.NotFound(fmt.Sprintf("Unable to find event from %d in direction Direction.%s", ts, direction))))
}

// statePage is the number of state events that are in memory at a time.
const statePage = 200

// roomState is GET …/v1/rooms/{room_id}/state. A room may have a hundred thousand state
// events, so they are written page by page. An error after the first page leaves the
// JSON incomplete, so that admin tools notice it.
func (s *server) roomState(c echo.Context, _ string) error {
	ctx, room := c.Request().Context(), wire.Segment(c, "room_id")
	exists, err := s.queries.RoomExists(ctx, room)
	if err != nil {
		return err
	}
	if !exists {
		return errRoomNotFound
	}
	q := wire.QueryOf(c)
	ofType := q.ASCII("type")
	if err := q.Err(); err != nil {
		return err
	}
	for page, last := 0, (admin.StateEntry{}); ; page++ {
		entries, err := s.queries.RoomState(ctx, room, ofType, last, statePage)
		if err != nil {
			return err
		}
		written, err := s.clientEvents(ctx, room, entries)
		if err != nil {
			return err
		}
		end := len(entries) < statePage
		switch {
		case page == 0:
			c.Response().Header().Set(echo.HeaderContentType, echo.MIMEApplicationJSON)
			c.Response().WriteHeader(http.StatusOK)
			written = append([]byte(`{"state":[`), written...)
		case len(written) > 0:
			written = append([]byte(`,`), written...)
		}
		if end {
			written = append(written, `]}`...)
		}
		if _, err := c.Response().Write(written); err != nil {
			return fmt.Errorf("write the state: %w", err)
		}
		if end {
			return nil
		}
		last = entries[len(entries)-1]
	}
}

// clientEvents renders the events of state entries in their order, separated by commas.
// It leaves out events that cannot be read.
//
// Fields that only the sender of an event may see, such as its transaction id, are not
// shown to an admin.
func (s *server) clientEvents(ctx context.Context, room string, entries []admin.StateEntry) ([]byte, error) {
	ids := make([]string, 0, len(entries))
	for _, entry := range entries {
		ids = append(ids, entry.EventID)
	}
	events, err := timeline.Events(ctx, s.db, room, ids)
	if err != nil {
		return nil, err
	}
	replaced := make(map[string]string, len(events))
	for id, event := range events {
		if previous := messages.ReplacedState(&event); previous != "" {
			replaced[id] = previous
		}
	}
	previous, err := timeline.Events(ctx, s.db, room, slices.Collect(maps.Values(replaced)))
	if err != nil {
		return nil, err
	}
	format := messages.Format{Room: room, Now: time.Now()}
	var written []byte
	for _, id := range ids {
		event, ok := events[id]
		if !ok {
			continue
		}
		var before *timeline.Event
		if event, ok := previous[replaced[id]]; ok {
			before = &event
		}
		begin := len(written)
		if begin > 0 {
			written = append(written, ',')
		}
		if written, ok = format.Append(written, &event, before); !ok {
			written = written[:begin]
		}
	}
	return written, nil
}
