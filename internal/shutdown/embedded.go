package shutdown

import (
	"context"
	"errors"
	"fmt"
	"log/slog"

	"lethe/internal/matrix"
	"lethe/internal/store/admin"
	"lethe/internal/store/journal"
	"lethe/internal/store/postgres"
	"lethe/internal/store/roomwriter"
)

var (
	// ErrRoomVersion is why no events can be written into a room whose version is not
	// one of 1 to 12.
	ErrRoomVersion = errors.New("unsupported room version (need 1 to 12)")

	// ErrUnsigned is why no events can be written into a room with members of other
	// servers, when there is no key to sign them with.
	ErrUnsigned = errors.New("the room has members of other servers, who take only signed events: " +
		"LETHE_SIGNING_KEY_FILE must name the homeserver's signing key")

	// errNotMember is why a user cannot do what only a member may, and errNotLetIn
	// why one cannot become a member.
	errNotMember = errors.New("the room's state does not have the user's membership")
	errNotLetIn  = errors.New("the room does not let the user in")

	// errNoCreate is why no events can be written into a room: others would reject an
	// event that the create event does not allow.
	errNoCreate = errors.New("the room's state has no m.room.create event")
)

// EmbeddedOptions are what an [Embedded] is made of.
type EmbeddedOptions struct {
	// DefaultRoomVersion is the version of the rooms that CreateRoom makes, "1"
	// to "12". Defaults to "11", as in Synapse 1.160.
	DefaultRoomVersion matrix.RoomVersion

	// Log receives why users could not be removed. Defaults to discarding it.
	Log *slog.Logger

	// ServerName is the homeserver's name. It has no default.
	ServerName string

	// SigningKey is the homeserver's. Defaults to nil: events are not signed,
	// and none is written into a room with members of other servers.
	SigningKey *matrix.SigningKey
}

func (o EmbeddedOptions) withDefaults() EmbeddedOptions {
	if o.DefaultRoomVersion == "" {
		o.DefaultRoomVersion = "11"
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return o
}

// Embedded is the [Homeserver] that writes the events into the database itself.
// No homeserver may run on it meanwhile. Each step is part of its batch, so a step
// whose batch was not committed has done nothing.
//
// Other servers learn of the events when a homeserver runs again. An invitation
// by a server whose room no local user is in is turned down here alone.
type Embedded struct{ options EmbeddedOptions }

var _ Homeserver = (*Embedded)(nil)

// NewEmbedded returns an Embedded.
func NewEmbedded(options EmbeddedOptions) *Embedded {
	return &Embedded{options: options.withDefaults()}
}

// Block implements [Homeserver].
func (h *Embedded) Block(ctx context.Context, b *journal.Batch, requester string) error {
	return admin.BlockRoomOf(ctx, b, requester)
}

// MoveAliases implements [Homeserver]. The requester becomes the creator of the
// aliases. A second call finds none to move.
func (h *Embedded) MoveAliases(ctx context.Context, b *journal.Batch, move AliasMove) (MovedAliases, error) {
	aliases, err := roomwriter.MoveAliases(ctx, b, move.NewRoom, move.Requester)
	return MovedAliases{Aliases: aliases}, err
}

// CreateRoom implements [Homeserver]. The job's checkpoint finds the room again: a
// second call makes a second room.
func (h *Embedded) CreateRoom(ctx context.Context, b *journal.Batch, room NewRoom) (id string, err error) {
	version := h.options.DefaultRoomVersion
	if !version.Supported() {
		return "", versionError(version)
	}
	err = roomwriter.Write(ctx, b, func(w *roomwriter.EventWriter) (err error) {
		id, err = h.createRoom(ctx, w, version, room)
		return err
	})
	if err != nil {
		return "", fmt.Errorf("create a room: %w", err)
	}
	return id, nil
}

// SendMessage implements [Homeserver]. A second call sends the message again.
func (h *Embedded) SendMessage(ctx context.Context, b *journal.Batch, message Message) error {
	err := roomwriter.Write(ctx, b, func(w *roomwriter.EventWriter) error {
		room, refused, err := h.openRoom(ctx, w, message.NewRoom)
		if err = errors.Join(refused, err); err != nil {
			return err
		}
		return h.sendNext(ctx, room, draft{
			kind: "m.room.message", sender: message.Sender,
			content: messageContent(message.Body),
			allow:   requireMembership(message.Sender, "join"),
		})
	})
	if err != nil {
		return fmt.Errorf("send a message: %w", err)
	}
	return nil
}

// RemoveUsers implements [Homeserver]. A second call does nothing for users who have
// left, and reports them as removed.
func (h *Embedded) RemoveUsers(ctx context.Context, b *journal.Batch, removal Removal) (removed RemovedUsers, err error) {
	err = roomwriter.Write(ctx, b, func(w *roomwriter.EventWriter) error {
		r := remover{
			Embedded: h, w: w, room: b.Room(), newRoom: removal.NewRoom, opened: map[string]openedRoom{},
		}
		for _, member := range removal.Members {
			refused, err := r.remove(ctx, member.UserID)
			switch {
			case err != nil:
				return err
			case refused != nil:
				h.options.Log.WarnContext(ctx, "user not removed",
					"room", b.Room(), "job", b.JobID(), "user", member.UserID, "error", refused)
				removed.Failed = append(removed.Failed, member.UserID)
			default:
				removed.Removed = append(removed.Removed, member.UserID)
			}
		}
		return nil
	})
	if err != nil {
		return RemovedUsers{}, fmt.Errorf("remove users: %w", err)
	}
	return removed, nil
}

// openRoom opens a room to write into. Refused is why it cannot be written into: it
// is gone, or we cannot make events of it. It then wraps [postgres.ErrNotFound],
// [ErrRoomVersion] or [ErrUnsigned].
func (h *Embedded) openRoom(ctx context.Context, w *roomwriter.EventWriter, id string) (room *roomwriter.RoomWriter, refused, err error) {
	room, err = w.Room(ctx, id)
	if errors.Is(err, postgres.ErrNotFound) {
		return nil, err, nil
	}
	if err != nil {
		return nil, nil, err
	}
	extremities, err := room.Extremities(ctx)
	if err != nil {
		return nil, nil, err
	}
	refused, err = h.obstacle(ctx, &room.RoomReader, extremities)
	return room, refused, err
}

func versionError(version matrix.RoomVersion) error {
	return fmt.Errorf("room version %.20q: %w", string(version), ErrRoomVersion)
}
