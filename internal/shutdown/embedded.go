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
	// ErrRoomVersion is why no event can be written into a room whose version is not
	// one of 1 to 12.
	ErrRoomVersion = errors.New("unsupported room version (need 1 to 12)")

	// ErrUnsigned is why no event can be written into a room with members of other
	// servers, without a key to sign it.
	ErrUnsigned = errors.New("the room has members of other servers, which accept only signed events: " +
		"LETHE_SIGNING_KEY_FILE must name the homeserver's signing key")

	// errNotMember refuses what only members may do, and errMayNotJoin refuses to make
	// a user a member.
	errNotMember  = errors.New("the room's state does not have the user's membership")
	errMayNotJoin = errors.New("the room does not let the user in")

	// errNoCreate is why no event can be written into a room without a create event:
	// other servers would reject it.
	errNoCreate = errors.New("the room's state has no m.room.create event")
)

// EmbeddedOptions are the options of an [Embedded].
type EmbeddedOptions struct {
	// DefaultRoomVersion is the version of new rooms, "1" to "12". Defaults to "11", as
	// in Synapse 1.160.
	DefaultRoomVersion matrix.RoomVersion

	// Log gets the reasons why users could not be removed. Defaults to a logger that
	// discards everything.
	Log *slog.Logger

	// ServerName is the homeserver's name. It has no default.
	ServerName string

	// SigningKey is the homeserver's signing key. Defaults to nil: events are not
	// signed, and no event is written into a room with members of other servers.
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

// Embedded is a [Homeserver] that writes events into the database itself. No
// homeserver may run on the database meanwhile. Each step is part of its batch, so a
// step whose batch was not committed has done nothing.
//
// Other servers learn of the events when a homeserver runs again. They never learn
// that an invitation to a room without local users was rejected.
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
// aliases. A second call finds no alias to move.
func (h *Embedded) MoveAliases(ctx context.Context, b *journal.Batch, move AliasMove) (MovedAliases, error) {
	aliases, err := roomwriter.MoveAliases(ctx, b, move.NewRoom, move.Requester)
	return MovedAliases{Aliases: aliases}, err
}

// CreateRoom implements [Homeserver]. A second call makes a second room; the job's
// checkpoint prevents that.
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
			content:      messageContent(message.Body),
			checkAllowed: requireMembership(message.Sender, "join"),
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
		r := userRemover{
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
				removed.fail(member.UserID, refused)
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

// openRoom opens a room for writing. If Lethe cannot write events into it, refused is
// the reason, which wraps [postgres.ErrNotFound], [ErrRoomVersion] or [ErrUnsigned].
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
