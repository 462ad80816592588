package shutdown

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strings"

	"lethe/internal/matrix"
	"lethe/internal/store/postgres"
	"lethe/internal/store/roomwriter"
)

// An Obstacle is why no event can be written into a room.
type Obstacle struct {
	// Reason is nil if events can be written.
	Reason error

	// RemoteServers are the other servers with users in the room. They learn nothing
	// of the shutdown.
	RemoteServers []string
}

// A Refusal is the error of a shutdown that does not begin, because no event can be
// written into the room and the request does not force it.
type Refusal struct {
	// Result has the users who are joined to the room as FailedToKickUsers.
	Result Result

	reason error
}

// Error implements error.
func (r *Refusal) Error() string { return "no user can leave the room: " + r.reason.Error() }

// Unwrap returns the obstacle's reason.
func (r *Refusal) Unwrap() error { return r.reason }

// inspect checks, before the shutdown writes anything, whether its users can leave.
// Users who are not joined always can, so a room without joined users has no obstacle.
// It returns the result to begin with, or a *[Refusal].
func (s *Shutdown) inspect(ctx context.Context, request Request) (Result, error) {
	result := Result{}.WithLists()
	obstacle, err := s.homeserver.Inspect(ctx, s.db, request)
	if err != nil || obstacle.Reason == nil {
		return result, err
	}
	members, err := roomwriter.LocalMembers(ctx, s.db, request.Room, "", math.MaxInt32)
	if err != nil {
		return result, err
	}
	for _, member := range members {
		if member.Membership == "join" {
			result.FailedToKickUsers = append(result.FailedToKickUsers, member.UserID)
		}
	}
	if len(result.FailedToKickUsers) == 0 {
		return result, nil
	}
	result.RemoteServersNotTold = obstacle.RemoteServers
	if !request.Force {
		return result, &Refusal{Result: result, reason: obstacle.Reason}
	}
	return result, nil
}

// Inspect implements [Homeserver].
func (h *Embedded) Inspect(ctx context.Context, db *postgres.DB, request Request) (Obstacle, error) {
	if err := h.checkNewRoom(request); err != nil {
		return Obstacle{}, err
	}
	var obstacle Obstacle
	err := roomwriter.ReadRoom(ctx, db, request.Room, func(room *roomwriter.RoomReader) error {
		extremities, err := room.Extremities(ctx)
		if err != nil {
			return err
		}
		create := matrix.StateKey{Type: "m.room.create"}
		known, err := room.State(ctx, extremities, create)
		if err != nil {
			return err
		}
		reason, err := h.obstacle(ctx, room, extremities)
		if err != nil {
			return err
		}
		if reason == nil {
			reason = room.Writable(extremities)
		}
		if _, ok := known[create]; !ok && reason == nil {
			reason = errNoCreate
		}
		if obstacle.Reason = reason; reason == nil {
			return nil
		}
		obstacle.RemoteServers, err = room.RemoteServers(ctx, extremities, h.options.ServerName)
		return err
	})
	if errors.Is(err, postgres.ErrNotFound) {
		return Obstacle{}, nil // the room has just gone
	}
	if err != nil {
		return Obstacle{}, fmt.Errorf("look whether events can be written: %w", err)
	}
	return obstacle, nil
}

// obstacle returns why Lethe cannot make events of the room, nil if it can.
func (h *Embedded) obstacle(ctx context.Context, room *roomwriter.RoomReader, extremities roomwriter.Extremities) (obstacle, err error) {
	if !room.Version().Supported() {
		return versionError(room.Version()), nil
	}
	if h.options.SigningKey != nil {
		return nil, nil
	}
	remote, err := room.HasRemoteMembers(ctx, extremities, h.options.ServerName)
	if remote {
		obstacle = ErrUnsigned
	}
	return obstacle, err
}

// checkNewRoom returns an error that wraps [matrix.ErrTooLarge] if the name of the new
// room or the message in it is too long for an event. It seals both with a place in the
// room that is at least as long as the real one.
func (h *Embedded) checkNewRoom(request Request) error {
	if request.NewRoomUser == "" {
		return nil
	}
	version, id := h.options.DefaultRoomVersion, "$"+strings.Repeat("x", 43)
	for _, d := range []draft{
		{kind: "m.room.name", stateKey: new(string), content: map[string]any{"name": request.RoomName}},
		{kind: "m.room.message", content: messageContent(request.Message)},
	} {
		_, err := matrix.Event{
			Type: d.kind, RoomID: newRoomID(h.options.ServerName), Sender: request.NewRoomUser, StateKey: d.stateKey, Content: d.content,
			PrevEvents: []string{id}, AuthEvents: []string{id, id, id}, ReferenceHashes: map[string]string{id: id[1:]},
			Depth: math.MaxInt32, OriginServerTS: maxTime,
		}.Seal(version, h.options.ServerName, h.options.SigningKey)
		if errors.Is(err, matrix.ErrTooLarge) {
			return fmt.Errorf("make the new room: %w", err)
		}
	}
	return nil
}

// maxTime is a time in Unix milliseconds that is written with as many digits as today.
const maxTime = 9_999_999_999_999

// messageContent is the content of a message in the new room.
func messageContent(text string) map[string]any {
	return map[string]any{"body": text, "msgtype": "m.text"}
}
