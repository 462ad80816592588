package operator

import (
	"github.com/labstack/echo/v4"

	"lethe/internal/store/footprint"
	"lethe/internal/store/postgres"
	"lethe/internal/wire"
)

// rooms is GET /_lethe/v1/rooms.
func (o *Operator) rooms(c echo.Context, _ string) error {
	q := wire.QueryOf(c)
	page := pageOf(q)
	if err := q.Err(); err != nil {
		return err
	}
	rooms, next, err := o.footprints.Largest(c.Request().Context(), footprint.Page{Limit: page.Limit, After: page.After})
	if err != nil {
		return unknownTables(wire.Instead(err, footprint.ErrPage, errPage))
	}
	return wire.AnswerOK(c, Rooms{Rooms: rooms, Next: nextOf(next)}, nil)
}

// room is GET /_lethe/v1/rooms/{room_id}.
func (o *Operator) room(c echo.Context, _ string) error {
	room, err := wire.ReadRoomID(c)
	if err != nil {
		return err
	}
	print, err := o.footprints.Room(c.Request().Context(), room)
	return wire.AnswerOK(c, print, unknownTables(wire.Instead(err, postgres.ErrNotFound, noRoom(room))))
}
