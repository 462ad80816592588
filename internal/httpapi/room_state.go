package httpapi

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"time"

	"github.com/labstack/echo/v4"

	"lethe/internal/store"
)

// statePage is how many state events are in memory at a time.
const statePage = 200

// roomState is GET …/v1/rooms/{room_id}/state. A room may have a hundred
// thousand state events, so they are written page by page. An error after the
// first leaves JSON that has no end, which no tool takes for an answer.
func (s *server) roomState(c echo.Context, _ string) error {
	ctx, room := c.Request().Context(), segment(c, "room_id")
	exists, err := s.store.RoomExists(ctx, room)
	if err != nil {
		return err
	}
	if !exists {
		return errRoomNotFound
	}
	ofType, err := queryOf(c).ascii("type")
	if err != nil {
		return err
	}
	for page, last := 0, (store.StateEntry{}); ; page++ {
		entries, err := s.store.RoomState(ctx, room, ofType, last, statePage)
		if err != nil {
			return err
		}
		events, err := s.clientEvents(ctx, entries)
		if err != nil {
			return err
		}
		written, err := json.Marshal(events)
		if err != nil {
			return fmt.Errorf("render the state: %w", err)
		}
		// Without the brackets: the pages make one list.
		written = written[1 : len(written)-1]
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

// clientEvents renders the events of state entries, in their order. One that
// cannot be read is left out.
func (s *server) clientEvents(ctx context.Context, entries []store.StateEntry) ([]eventBody, error) {
	ids := make([]string, 0, len(entries))
	for _, entry := range entries {
		ids = append(ids, entry.EventID)
	}
	events, err := s.store.Events(ctx, ids)
	if err != nil {
		return nil, err
	}
	var previousIDs []string
	for _, id := range ids {
		if previous := replacedState(events[id]); previous != "" {
			previousIDs = append(previousIDs, previous)
		}
	}
	previous, err := s.store.Events(ctx, previousIDs)
	if err != nil {
		return nil, err
	}
	now := time.Now()
	bodies := make([]eventBody, 0, len(ids))
	for _, id := range ids {
		if body, ok := clientEvent(events[id], previous, now); ok {
			bodies = append(bodies, body)
		}
	}
	return bodies, nil
}
