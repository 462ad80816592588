package homeserver

import (
	"context"
	"fmt"
	"net/http"
)

// A Service sends requests to a homeserver as an application service, which may act
// as any user in its namespace, server admins too. It is safe for concurrent use.
//
// All its methods wrap [ErrUnavailable] or return an [Error]. Unless they say
// otherwise, they repeat a request whose answer was lost.
type Service struct {
	client *Client

	// token is a function, so that no format verb prints the token.
	token func() string
}

// Service returns the application service with that as_token.
func (c *Client) Service(asToken string) *Service {
	return &Service{client: c, token: func() string { return asToken }}
}

// Alive checks once whether the homeserver answers.
func (s *Service) Alive(ctx context.Context) error { return s.client.Alive(ctx) }

// do sends a request with the service's access token, as [Client.do] does.
func (s *Service) do(ctx context.Context, operation string, call call, into any) error {
	call.token = s.token()
	return s.client.do(ctx, operation, call, into)
}

// post makes a request without a body as the user, and drops the answer.
func (s *Service) post(ctx context.Context, operation, user string, path ...string) error {
	return s.do(ctx, operation, call{method: http.MethodPost, path: clientAPI(path...), user: user, body: struct{}{}}, nil)
}

// roomID makes a request whose answer is the id of a room.
func (s *Service) roomID(ctx context.Context, operation string, call call) (string, error) {
	var room struct {
		ID string `json:"room_id"`
	}
	err := s.do(ctx, operation, call, &room)
	if err == nil && room.ID == "" {
		err = fmt.Errorf("%s: %w: its answer has no room id", operation, ErrUnavailable)
	}
	return room.ID, err
}

// clientAPI returns a path of the client-server API.
func clientAPI(path ...string) []string { return append([]string{"_matrix", "client", "v3"}, path...) }

// A RoomRequest describes a room to make.
type RoomRequest struct {
	// Preset is one of Matrix's presets, such as public_chat.
	Preset string `json:"preset"`

	// Name is the room's name.
	Name string `json:"name,omitempty"`

	// PowerLevels override parts of the preset's power levels.
	PowerLevels map[string]any `json:"power_level_content_override,omitempty"`

	// Creation is added to the content of m.room.create.
	Creation map[string]any `json:"creation_content,omitempty"`
}

// CreateRoom makes a room as the user, who gets the power in it, and returns its id.
// A second call makes a second room, so the request is repeated only if the
// homeserver cannot have received it. After an error that wraps [ErrUnavailable] the
// room may exist.
func (s *Service) CreateRoom(ctx context.Context, user string, room RoomRequest) (string, error) {
	return s.roomID(ctx, "create a room", call{
		method: http.MethodPost, path: clientAPI("createRoom"), user: user, body: room, once: true,
	})
}

// Join makes the user join the room. A second call does nothing.
func (s *Service) Join(ctx context.Context, user, room string) error {
	return s.post(ctx, "join the room", user, "join", room)
}

// Leave makes the user leave the room, which also rejects an invitation and
// withdraws a knock. A second call does nothing.
func (s *Service) Leave(ctx context.Context, user, room string) error {
	return s.post(ctx, "leave the room", user, "rooms", room, "leave")
}

// Forget makes the user forget the room, which it has left. A second call does
// nothing.
func (s *Service) Forget(ctx context.Context, user, room string) error {
	return s.post(ctx, "forget the room", user, "rooms", room, "forget")
}

// SendMessage sends a message to the room as the user. The homeserver ignores a
// second message with the same transaction id, unless it was restarted meanwhile.
func (s *Service) SendMessage(ctx context.Context, user, room, transaction string, content map[string]any) error {
	return s.do(ctx, "send a message", call{
		method: http.MethodPut, path: clientAPI("rooms", room, "send", "m.room.message", transaction), user: user, body: content,
	}, nil)
}

// Alias returns the id of the room that the alias leads to. An unknown alias is an
// [Error] with the code M_NOT_FOUND.
func (s *Service) Alias(ctx context.Context, alias string) (room string, err error) {
	return s.roomID(ctx, "look an alias up", call{method: http.MethodGet, path: clientAPI("directory", "room", alias)})
}

// DeleteAlias deletes an alias, which any user may have made. It must be in the
// service's namespace.
func (s *Service) DeleteAlias(ctx context.Context, alias string) error {
	return s.do(ctx, "delete an alias", call{method: http.MethodDelete, path: clientAPI("directory", "room", alias)}, nil)
}

// PutAlias makes an alias that leads to the room, as the user. An alias that exists
// is an [Error] with status 409.
func (s *Service) PutAlias(ctx context.Context, user, alias, room string) error {
	return s.do(ctx, "set an alias", call{
		method: http.MethodPut, path: clientAPI("directory", "room", alias), user: user,
		body: map[string]string{"room_id": room},
	}, nil)
}

// Block keeps local users from joining the room, as the server admin. A room that is
// blocked already keeps its first blocker.
func (s *Service) Block(ctx context.Context, admin, room string) error {
	return s.do(ctx, "block the room", call{
		method: http.MethodPut, path: []string{"_synapse", "admin", "v1", "rooms", room, "block"}, user: admin,
		body: map[string]bool{"block": true},
	}, nil)
}
