package httpapi

import (
	"lethe/internal/wire"

	"github.com/labstack/echo/v4"
)

// maxLargest is the number of rooms in the list of the largest ones.
const maxLargest = 10

// largestRooms is GET …/v1/statistics/database/rooms.
func (s *server) largestRooms(c echo.Context, _ string) error {
	rooms, err := s.queries.LargestRooms(c.Request().Context(), maxLargest)
	if err != nil {
		return err
	}
	type size struct {
		ID    string `json:"room_id"`
		Bytes int64  `json:"estimated_size"`
	}
	sizes := make([]size, 0, len(rooms))
	for _, room := range rooms {
		sizes = append(sizes, size(room))
	}
	return wire.AnswerOK(c, map[string][]size{"rooms": sizes}, nil)
}
