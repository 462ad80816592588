package httpapi

import (
	"encoding/json"
	"errors"
	"strings"

	"github.com/labstack/echo/v4"

	"lethe/internal/matrix"
	"lethe/internal/messages"
	"lethe/internal/operator"
	"lethe/internal/store/admin"
	"lethe/internal/store/beside"
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

// A roomBody is a room in a list, an [admin.Room] with Synapse's keys. It always has all
// keys, because some tools require them.
type roomBody struct {
	ID                 string  `json:"room_id"`
	Name               *string `json:"name"`
	CanonicalAlias     *string `json:"canonical_alias"`
	Version            *string `json:"version"`
	Creator            *string `json:"creator"`
	Encryption         *string `json:"encryption"`
	JoinRules          *string `json:"join_rules"`
	GuestAccess        *string `json:"guest_access"`
	HistoryVisibility  *string `json:"history_visibility"`
	Type               *string `json:"room_type"`
	Federatable        bool    `json:"federatable"`
	Public             bool    `json:"public"`
	JoinedMembers      *int64  `json:"joined_members"`
	JoinedLocalMembers *int64  `json:"joined_local_members"`
	StateEvents        *int64  `json:"state_events"`
}

// roomList is GET …/v1/rooms.
func (s *server) roomList(c echo.Context, _ string) error {
	list, err := readRoomList(wire.QueryOf(c))
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
		body.Rooms = append(body.Rooms, roomBody(room))
	}
	if hasNext(list.From, list.Limit, total) {
		body.NextBatch = new(list.From + list.Limit)
	}
	if list.From > 0 {
		body.PrevBatch = new(max(list.From-list.Limit, 0))
	}
	return wire.AnswerOK(c, body, nil)
}

// readRoomList reads the parameters of a list. It checks them in Synapse's order.
func readRoomList(q *wire.Query) (admin.RoomList, error) {
	list := admin.RoomList{
		From: q.Integer("from", 0), Limit: q.Integer("limit", 100), Order: q.OneOf("order_by", "name", roomOrders...),
	}
	switch list.Order {
	case "alphabetical":
		list.Order = "name"
	case "size":
		list.Order = "joined_members"
	}
	var searched bool
	if list.Search, searched = q.Text("search_term"); searched && list.Search == "" {
		q.Refuse(wire.InvalidParam("search_term cannot be an empty string"))
	}
	list.Reverse, list.Public, list.Empty = q.Backwards(), q.Boolean("public_rooms"), q.Boolean("empty_rooms")
	return list, q.Err()
}

// roomDetails is GET …/v1/rooms/{room_id}.
func (s *server) roomDetails(c echo.Context, _ string) error {
	ctx := c.Request().Context()
	room, err := s.queries.RoomDetails(ctx, wire.Segment(c, "room_id"))
	if err != nil {
		return wire.Instead(err, postgres.ErrNotFound, errRoomNotFound)
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
		roomBody: roomBody(room.Room), Avatar: room.Avatar, Topic: room.Topic, LocalDevices: room.LocalDevices,
		Forgotten: room.Forgotten, Tombstoned: room.Tombstone != nil,
	}
	if room.Tombstone != nil {
		events, err := timeline.Events(ctx, s.db, room.ID, []string{*room.Tombstone})
		if err != nil {
			return err
		}
		tombstone := events[*room.Tombstone]
		content, _ := matrix.SplitObject(nil, messages.Content(&tombstone))
		if replacement, ok := matrix.Text(content.Get("replacement_room")); ok {
			body.ReplacementRoom = &replacement
		}
	}
	return wire.AnswerOK(c, body, nil)
}

// roomMembers is GET …/v1/rooms/{room_id}/members.
func (s *server) roomMembers(c echo.Context, _ string) error {
	members, err := s.queries.JoinedMembers(c.Request().Context(), wire.Segment(c, "room_id"))
	return wire.AnswerOK(c, struct {
		Members []string `json:"members"`
		Total   int      `json:"total"`
	}{members, len(members)}, wire.Instead(err, postgres.ErrNotFound, errRoomNotFound))
}

type blockBody struct {
	Block bool   `json:"block"`
	User  string `json:"user_id,omitempty"`
}

// roomBlock is GET …/v1/rooms/{room_id}/block.
func (s *server) roomBlock(c echo.Context, _ string) error {
	room, err := wire.ReadRoomID(c)
	if err != nil {
		return err
	}
	blocker, err := s.queries.RoomBlock(c.Request().Context(), room)
	if errors.Is(err, postgres.ErrNotFound) {
		return wire.AnswerOK(c, blockBody{}, nil)
	}
	return wire.AnswerOK(c, blockBody{Block: true, User: blocker}, err)
}

// blockRoom is PUT …/v1/rooms/{room_id}/block.
func (s *server) blockRoom(c echo.Context, requester string) error {
	body, err := wire.ReadSomeObject(c)
	if err != nil {
		return err
	}
	room, err := wire.ReadRoomID(c)
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
	err = operator.SetBlock(c.Request().Context(), s.queries, s.options.Synapse, operator.Block{Room: room, Who: requester, Block: *block})
	return wire.AnswerOK(c, blockBody{Block: *block}, err)
}

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
	return wire.AnswerOK(c, body, nil)
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
	ctx := c.Request().Context()
	stale, err := s.options.Synapse.Invalidation(ctx, beside.PurgedHistory, room)
	if err != nil {
		return err
	}
	deleted, err := s.queries.DeleteForwardExtremities(ctx, room, stale.Statements()...)
	stale.Tell(ctx)
	return wire.AnswerOK(c, map[string]int64{"deleted": deleted},
		wire.Instead(err, postgres.ErrNotFound, wire.BadRequest("No forward extremity event found for room "+room)))
}

// resolveRoom returns the room id in the path. If the path has an alias instead, it
// returns the id of the alias's room. Only local aliases are known.
func (s *server) resolveRoom(c echo.Context) (string, error) {
	given := wire.Segment(c, "room_id")
	if matrix.ValidRoomID(given) {
		return given, nil
	}
	if _, server, ok := strings.Cut(given, ":"); !ok || !strings.HasPrefix(given, "#") || !matrix.ValidServerName(server) {
		return "", wire.BadRequest(given + " was not legal room ID or room alias")
	}
	room, err := s.queries.RoomOfAlias(c.Request().Context(), given)
	return room, wire.Instead(err, postgres.ErrNotFound, wire.NotFound("Room alias "+given+" not found"))
}
