package httpapi

import (
	"errors"
	"net/http"

	"github.com/labstack/echo/v4"

	"lethe/internal/matrix"
	"lethe/internal/messages"
	"lethe/internal/store/admin"
	"lethe/internal/store/postgres"
	"lethe/internal/store/timeline"
	"lethe/internal/wire"
)

var errRoomNotFound = wire.NotFound("Room not found")

// roomOrders are the values of order_by, in Synapse's order. The first two are old names.
var roomOrders = []string{
	"alphabetical", "size", "name", "canonical_alias", "joined_members", "joined_local_members", "version", "creator",
	"encryption", "federatable", "public", "join_rules", "guest_access", "history_visibility", "state_events",
}

// A roomBody is a room in a list. It always has all keys, because some tools require
// them.
type roomBody struct {
	ID                 string  `json:"room_id"`
	Name               *string `json:"name"`
	CanonicalAlias     *string `json:"canonical_alias"`
	JoinedMembers      *int64  `json:"joined_members"`
	JoinedLocalMembers *int64  `json:"joined_local_members"`
	Version            *string `json:"version"`
	Creator            *string `json:"creator"`
	Encryption         *string `json:"encryption"`
	Federatable        bool    `json:"federatable"`
	Public             bool    `json:"public"`
	JoinRules          *string `json:"join_rules"`
	GuestAccess        *string `json:"guest_access"`
	HistoryVisibility  *string `json:"history_visibility"`
	StateEvents        *int64  `json:"state_events"`
	Type               *string `json:"room_type"`
}

func newRoomBody(room admin.Room) roomBody {
	return roomBody{
		ID:                 room.ID,
		Name:               room.Name,
		CanonicalAlias:     room.CanonicalAlias,
		JoinedMembers:      room.JoinedMembers,
		JoinedLocalMembers: room.JoinedLocalMembers,
		Version:            room.Version,
		Creator:            room.Creator,
		Encryption:         room.Encryption,
		Federatable:        room.Federatable,
		Public:             room.Public,
		JoinRules:          room.JoinRules,
		GuestAccess:        room.GuestAccess,
		HistoryVisibility:  room.HistoryVisibility,
		StateEvents:        room.StateEvents,
		Type:               room.Type,
	}
}

// roomList is GET …/v1/rooms.
func (s *server) roomList(c echo.Context, _ string) error {
	list, err := readRoomList(queryOf(c))
	if err != nil {
		return err
	}
	rooms, total, err := s.queries.Rooms(c.Request().Context(), list)
	if err != nil {
		return err
	}
	body := struct {
		Offset    int64      `json:"offset"`
		Rooms     []roomBody `json:"rooms"`
		Total     int64      `json:"total_rooms"`
		NextBatch *int64     `json:"next_batch,omitempty"`
		PrevBatch *int64     `json:"prev_batch,omitempty"`
	}{Offset: list.From, Rooms: make([]roomBody, 0, len(rooms)), Total: total}
	for _, room := range rooms {
		body.Rooms = append(body.Rooms, newRoomBody(room))
	}
	// A sum could overflow, so it is a difference.
	if list.From < total && list.Limit < total-list.From {
		body.NextBatch = new(list.From + list.Limit)
	}
	if list.From > 0 {
		body.PrevBatch = new(max(list.From-list.Limit, 0))
	}
	return answer(c, http.StatusOK, body)
}

func readRoomList(q wire.Query) (list admin.RoomList, err error) {
	if list.From, err = q.Integer("from", 0); err != nil {
		return list, err
	}
	if list.Limit, err = q.Integer("limit", 100); err != nil {
		return list, err
	}
	if list.Order, err = q.OneOf("order_by", "name", roomOrders...); err != nil {
		return list, err
	}
	switch list.Order {
	case "alphabetical":
		list.Order = "name"
	case "size":
		list.Order = "joined_members"
	}
	search, searched, err := q.Text("search_term")
	if err != nil {
		return list, err
	}
	if list.Search = search; searched && search == "" {
		return list, wire.InvalidParam("search_term cannot be an empty string")
	}
	if list.Reverse, err = q.Backwards(); err != nil {
		return list, err
	}
	if list.Public, err = q.Boolean("public_rooms"); err != nil {
		return list, err
	}
	list.Empty, err = q.Boolean("empty_rooms")
	return list, err
}

// roomDetails is GET …/v1/rooms/{room_id}.
func (s *server) roomDetails(c echo.Context, _ string) error {
	ctx := c.Request().Context()
	room, err := s.queries.RoomDetails(ctx, segment(c, "room_id"))
	if errors.Is(err, postgres.ErrNotFound) {
		return errRoomNotFound
	}
	if err != nil {
		return err
	}
	body := struct {
		roomBody
		Avatar          *string `json:"avatar"`
		Topic           *string `json:"topic"`
		LocalDevices    int64   `json:"joined_local_devices"`
		Forgotten       bool    `json:"forgotten"`
		Tombstoned      bool    `json:"tombstoned"`
		ReplacementRoom *string `json:"replacement_room"`
	}{
		roomBody: newRoomBody(room.Room), Avatar: room.Avatar, Topic: room.Topic, LocalDevices: room.LocalDevices,
		Forgotten: room.Forgotten, Tombstoned: room.Tombstone != nil,
	}
	if room.Tombstone != nil {
		events, err := timeline.Events(ctx, s.db, []string{*room.Tombstone})
		if err != nil {
			return err
		}
		tombstone := events[*room.Tombstone]
		content, _ := matrix.SplitObject(nil, messages.Content(&tombstone))
		if replacement, ok := matrix.Text(content.Get("replacement_room")); ok {
			body.ReplacementRoom = &replacement
		}
	}
	return answer(c, http.StatusOK, body)
}

// roomMembers is GET …/v1/rooms/{room_id}/members.
func (s *server) roomMembers(c echo.Context, _ string) error {
	members, err := s.queries.JoinedMembers(c.Request().Context(), segment(c, "room_id"))
	if errors.Is(err, postgres.ErrNotFound) {
		return errRoomNotFound
	}
	if err != nil {
		return err
	}
	return answer(c, http.StatusOK, struct {
		Members []string `json:"members"`
		Total   int      `json:"total"`
	}{members, len(members)})
}
