package httpapi

import (
	"errors"
	"fmt"
	"net/http"

	"github.com/labstack/echo/v4"

	"lethe/internal/store/postgres"
	"lethe/internal/wire"
)

// timestampToEvent is GET …/v1/rooms/{room_id}/timestamp_to_event.
func (s *server) timestampToEvent(c echo.Context, _ string) error {
	ts, err := queryOf(c).RequiredInteger("ts")
	if err != nil {
		return err
	}
	backwards, err := queryOf(c).Backwards()
	if err != nil {
		return err
	}
	event, sent, err := s.queries.EventNear(c.Request().Context(), segment(c, "room_id"), ts, backwards)
	if errors.Is(err, postgres.ErrNotFound) {
		direction := "FORWARDS"
		if backwards {
			direction = "BACKWARDS"
		}
		return wire.NotFound(fmt.Sprintf("Unable to find event from %d in direction Direction.%s", ts, direction))
	}
	if err != nil {
		return err
	}
	return answer(c, http.StatusOK, struct {
		EventID string `json:"event_id"`
		SentTS  int64  `json:"origin_server_ts"`
	}{event, sent})
}
