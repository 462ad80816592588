package httpapi

import (
	"encoding/json"
	"errors"
	"net/http"
	"strings"

	"github.com/labstack/echo/v4"

	"lethe/internal/matrix"
	"lethe/internal/store/postgres"
	"lethe/internal/wire"
)

// maxRoomID is the maximum length of a room id in bytes. An index of PostgreSQL cannot
// hold much longer ones.
const maxRoomID = 255

// readRoomID returns the room id in the path. It refuses ids that the database cannot
// hold, because they are too long or contain a zero byte.
func readRoomID(c echo.Context) (string, error) {
	room := segment(c, "room_id")
	if !matrix.ValidRoomID(room) || len(room) > maxRoomID || strings.Contains(room, "\x00") {
		return "", wire.BadRequest(room + " is not a legal room ID")
	}
	return room, nil
}

type blockBody struct {
	Block bool   `json:"block"`
	User  string `json:"user_id,omitempty"`
}

// roomBlock is GET …/v1/rooms/{room_id}/block.
func (s *server) roomBlock(c echo.Context, _ string) error {
	room, err := readRoomID(c)
	if err != nil {
		return err
	}
	blocker, err := s.queries.RoomBlock(c.Request().Context(), room)
	if errors.Is(err, postgres.ErrNotFound) {
		return answer(c, http.StatusOK, blockBody{})
	}
	if err != nil {
		return err
	}
	return answer(c, http.StatusOK, blockBody{Block: true, User: blocker})
}

// blockRoom is PUT …/v1/rooms/{room_id}/block.
func (s *server) blockRoom(c echo.Context, requester string) error {
	body, err := readSomeObject(c)
	if err != nil {
		return err
	}
	room, err := readRoomID(c)
	if err != nil {
		return err
	}
	value, ok := body["block"]
	if !ok {
		return &wire.Error{Status: http.StatusBadRequest, Code: "M_MISSING_PARAM", Text: "Missing params: ['block']"}
	}
	var block *bool
	if err := json.Unmarshal(value, &block); err != nil || block == nil {
		return wire.BadJSON("Param 'block' must be a boolean.")
	}
	if *block {
		err = s.queries.BlockRoom(c.Request().Context(), room, requester)
	} else {
		err = s.queries.UnblockRoom(c.Request().Context(), room)
	}
	if err != nil {
		return err
	}
	return answer(c, http.StatusOK, blockBody{Block: *block})
}
