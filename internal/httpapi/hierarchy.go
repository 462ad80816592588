package httpapi

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"

	"github.com/labstack/echo/v4"

	"lethe/internal/spaces"
	"lethe/internal/wire"
)

// maxHierarchy is the maximum number of rooms on a page of a hierarchy.
const maxHierarchy = 50

// A summaryBody is an [admin.RoomSummary] with Synapse's keys. What a room does not have is
// left out.
type summaryBody struct {
	ID             string      `json:"room_id"`
	Version        *string     `json:"room_version,omitempty"`
	Name           *string     `json:"name,omitempty"`
	Topic          *string     `json:"topic,omitempty"`
	CanonicalAlias *string     `json:"canonical_alias,omitempty"`
	JoinedMembers  *int64      `json:"num_joined_members,omitempty"`
	Avatar         *string     `json:"avatar_url,omitempty"`
	JoinRule       *string     `json:"join_rule,omitempty"`
	WorldReadable  bool        `json:"world_readable"`
	GuestsCanJoin  bool        `json:"guest_can_join"`
	Type           *string     `json:"room_type,omitempty"`
	Encryption     *string     `json:"encryption,omitempty"`
	Children       []childBody `json:"children_state"`
}

// A childBody is the event that puts a room into a space.
type childBody struct {
	Type    string          `json:"type"`
	Room    string          `json:"state_key"`
	Content json.RawMessage `json:"content"`
	Sender  string          `json:"sender"`
	SentTS  int64           `json:"origin_server_ts"`
}

func newSummaryBody(room spaces.Room) summaryBody {
	body := summaryBody{
		ID: room.ID, Version: room.Version, Name: room.Name, Topic: room.Topic, CanonicalAlias: room.CanonicalAlias,
		JoinedMembers: room.JoinedMembers, Avatar: room.Avatar, JoinRule: room.JoinRule,
		WorldReadable: room.HistoryVisibility != nil && *room.HistoryVisibility == "world_readable",
		GuestsCanJoin: room.GuestAccess != nil && *room.GuestAccess == "can_join",
		Type:          room.Type, Encryption: room.Encryption, Children: make([]childBody, 0, len(room.Children)),
	}
	for _, child := range room.Children {
		body.Children = append(body.Children, childBody{"m.space.child", child.Room, child.Content, child.Sender, child.SentTS})
	}
	return body
}

// roomHierarchy is GET …/v1/rooms/{room_id}/hierarchy.
func (s *server) roomHierarchy(c echo.Context, requester string) error {
	q := wire.QueryOf(c)
	request := spaces.Request{Root: wire.Segment(c, "room_id")}
	depth := q.Integer("max_depth", -1)
	if depth >= 0 {
		request.MaxDepth = &depth
	}
	request.Limit = min(q.Integer("limit", maxHierarchy), maxHierarchy)
	binding := hierarchyBinding(requester, request.Root, depth)
	if token := q.ASCII("from"); token != "" {
		skip, ok := readHierarchyToken(token, binding)
		if !ok {
			q.Refuse(wire.InvalidParam("Unknown pagination token"))
		}
		request.Skip = skip
	}
	if err := q.Err(); err != nil {
		return err
	}
	page, err := s.spaces.Hierarchy(c.Request().Context(), request)
	if err != nil {
		return err
	}
	body := struct {
		Rooms []summaryBody `json:"rooms"`
		Next  string        `json:"next_batch,omitempty"`
	}{Rooms: make([]summaryBody, 0, len(page.Rooms))}
	for _, room := range page.Rooms {
		body.Rooms = append(body.Rooms, newSummaryBody(room))
	}
	if page.More {
		body.Next = strconv.FormatInt(request.Skip+int64(len(page.Rooms)), 10) + "-" + binding
	}
	return wire.AnswerOK(c, body, nil)
}

// hierarchyBinding returns the part of a page token that says to whose request it belongs.
// The page of another user, room or depth has no use for it. It is no secret.
func hierarchyBinding(requester, room string, depth int64) string {
	hash := sha256.Sum256(fmt.Appendf(nil, "%q %q %d", requester, room, depth))
	return hex.EncodeToString(hash[:8])
}

// readHierarchyToken returns the number of rooms on the pages before.
func readHierarchyToken(token, binding string) (skip int64, ok bool) {
	number, rest, _ := strings.Cut(token, "-")
	skip, err := strconv.ParseInt(number, 10, 64)
	return skip, err == nil && skip >= 0 && rest == binding
}
