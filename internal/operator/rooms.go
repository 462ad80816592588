package operator

import (
	"context"
	"errors"
	"time"
	"unicode/utf8"

	"github.com/labstack/echo/v4"

	"lethe/internal/store/admin"
	"lethe/internal/store/beside"
	"lethe/internal/store/footprint"
	"lethe/internal/store/postgres"
	"lethe/internal/synapse"
	"lethe/internal/wire"
)

const (
	// maxSearch is the longest text that rooms are searched for, in characters.
	maxSearch = 255

	// listedMembers is how many joined local users of a room are listed.
	listedMembers = 50

	// shownMonths is for how many months the events of a room are counted, with the current
	// one.
	shownMonths = 60
)

// rooms is GET /_lethe/v1/rooms.
func (o *Operator) rooms(c echo.Context, _ string) error {
	q := wire.QueryOf(c)
	page := pageOf(q)
	search, _ := q.Text("search")
	if utf8.RuneCountInString(search) > maxSearch || !postgres.Storable(search) {
		q.Refuse(wire.InvalidParam("Query parameter search must be a text of up to 255 characters, without a zero byte"))
	}
	if err := q.Err(); err != nil {
		return err
	}
	list := func(ctx context.Context, page footprint.Page) ([]footprint.Size, string, error) {
		return o.footprints.Search(ctx, search, page)
	}
	if search == "" {
		list = o.footprints.Largest
	}
	rooms, next, err := list(c.Request().Context(), footprint.Page{Limit: page.Limit, After: page.After})
	if err != nil {
		return unknownTables(wire.Instead(err, footprint.ErrPage, errPage))
	}
	return wire.AnswerOK(c, Rooms{Rooms: append([]footprint.Size{}, rooms...), Next: nextOf(next)}, nil)
}

// room is GET /_lethe/v1/rooms/{room_id}.
func (o *Operator) room(c echo.Context, _ string) error {
	room, err := wire.ReadRoomID(c)
	if err != nil {
		return err
	}
	ctx := c.Request().Context()
	print, err := o.footprints.Room(ctx, room)
	if err != nil {
		return unknownTables(wire.Instead(err, postgres.ErrNotFound, noRoom(room)))
	}
	answer := Room{Room: print}
	blocker, err := o.queries.RoomBlock(ctx, room)
	if err != nil && !errors.Is(err, postgres.ErrNotFound) {
		return err
	}
	answer.BlockedBy = blocker
	if details, err := o.queries.RoomNames(ctx, room); err == nil {
		answer.Name, answer.Alias = details[0], details[1]
	} else if !errors.Is(err, postgres.ErrNotFound) {
		return err
	}
	people, err := o.queries.RoomPeople(ctx, room, o.options.ServerName, listedMembers)
	if err != nil {
		return err
	}
	if people != nil {
		answer.Members = &RoomMembers{Memberships: []Membership{}, Joined: people.Joined}
		for _, m := range people.Memberships {
			answer.Members.Memberships = append(answer.Members.Memberships, Membership(m))
		}
	}
	now := time.Now().UTC()
	first := time.Date(now.Year(), now.Month()-shownMonths+1, 1, 0, 0, 0, 0, time.UTC)
	months, err := o.queries.RoomMonths(ctx, room, first, now)
	if months != nil {
		answer.Months = &[]Month{}
		for _, month := range months {
			*answer.Months = append(*answer.Months, Month{Begin: milliseconds(month.Begin), Events: month.Events})
		}
	}
	return wire.AnswerOK(c, answer, err)
}

// setBlock is PUT /_lethe/v1/blocks/{room_id}.
func (o *Operator) setBlock(c echo.Context, who string) error {
	var body BlockRequest
	if err := wire.ReadBody(c, &body); err != nil {
		return err
	}
	room, err := wire.ReadRoomID(c)
	if err != nil {
		return err
	}
	if body.Block == nil {
		return wire.MissingParam("Missing params: ['block']")
	}
	ctx := c.Request().Context()
	// A room can be blocked before this server has met it. One that is unknown by mistake
	// is found by the answer to a request for the room.
	if err := SetBlock(ctx, o.queries, o.options.Synapse, Block{room, who, *body.Block}); err != nil {
		return err
	}
	return wire.AnswerOK(c, RoomBlock{Room: room, Block: *body.Block}, nil)
}

// A Block says that local users may not join a room, or may again.
type Block struct {
	Room, Who string
	Block     bool
}

// SetBlock blocks a room or ends its block, and tells a Synapse that runs beside Lethe. A
// second call changes nothing.
func SetBlock(ctx context.Context, queries *admin.Queries, homeserver *synapse.Synapse, block Block) error {
	stale, err := homeserver.Invalidation(ctx, beside.BlockedRoom, block.Room)
	if err != nil {
		return err
	}
	set := queries.UnblockRoom
	if block.Block {
		set = queries.BlockRoom
	}
	err = set(ctx, block.Room, block.Who, stale.Statements()...)
	stale.Tell(ctx)
	return err
}
