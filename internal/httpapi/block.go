package httpapi

import (
	"encoding/json"
	"errors"

	"github.com/labstack/echo/v4"

	"lethe/internal/store/postgres"
	"lethe/internal/wire"
)

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
		return answerOK(c, blockBody{}, nil)
	}
	return answerOK(c, blockBody{Block: true, User: blocker}, err)
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
		return wire.MissingParam("Missing params: ['block']")
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
	return answerOK(c, blockBody{Block: *block}, err)
}
