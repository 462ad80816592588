package httpapi

import (
	"strings"

	"github.com/labstack/echo/v4"

	"lethe/internal/matrix"
	"lethe/internal/store/postgres"
	"lethe/internal/wire"
)

// forwardExtremities is GET …/v1/rooms/{room_id}/forward_extremities.
func (s *server) forwardExtremities(c echo.Context, _ string) error {
	room, err := s.resolveRoom(c)
	if err != nil {
		return err
	}
	extremities, err := s.queries.ForwardExtremities(c.Request().Context(), room)
	if err != nil {
		return err
	}
	type result struct {
		EventID    string `json:"event_id"`
		StateGroup int64  `json:"state_group"`
		Depth      int64  `json:"depth"`
		ReceivedTS *int64 `json:"received_ts"`
	}
	body := struct {
		Count   int      `json:"count"`
		Results []result `json:"results"`
	}{len(extremities), make([]result, 0, len(extremities))}
	for _, extremity := range extremities {
		body.Results = append(body.Results, result(extremity))
	}
	return answerOK(c, body, nil)
}

// deleteForwardExtremities is DELETE …/v1/rooms/{room_id}/forward_extremities.
func (s *server) deleteForwardExtremities(c echo.Context, _ string) error {
	room, err := s.resolveRoom(c)
	if err != nil {
		return err
	}
	if err := s.refuseHeld(c.Request().Context(), room); err != nil {
		return err
	}
	deleted, err := s.queries.DeleteForwardExtremities(c.Request().Context(), room)
	return answerOK(c, map[string]int64{"deleted": deleted},
		instead(err, postgres.ErrNotFound, wire.BadRequest("No forward extremity event found for room "+room)))
}

// resolveRoom returns the room id in the path. If the path has an alias instead, it
// returns the id of the alias's room. Only local aliases are known.
func (s *server) resolveRoom(c echo.Context) (string, error) {
	given := segment(c, "room_id")
	if matrix.ValidRoomID(given) {
		return given, nil
	}
	if _, server, ok := strings.Cut(given, ":"); !ok || !strings.HasPrefix(given, "#") || !matrix.ValidServerName(server) {
		return "", wire.BadRequest(given + " was not legal room ID or room alias")
	}
	room, err := s.queries.RoomOfAlias(c.Request().Context(), given)
	return room, instead(err, postgres.ErrNotFound, wire.NotFound("Room alias "+given+" not found"))
}
