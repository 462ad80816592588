package shutdown

import (
	"context"
	"errors"
	"fmt"
	"log/slog"

	"lethe/internal/matrix"
	"lethe/internal/store"
)

var (
	// ErrRoomVersion is returned by a step that would have to write events into
	// a room whose version is not one of 9 to 12.
	ErrRoomVersion = errors.New("events of it cannot be made, only 9 to 12")

	// ErrUnsigned is returned by a step that would have to write events into a
	// room with members of other servers, when there is no key to sign them with.
	ErrUnsigned = errors.New("the room has members of other servers, who take only signed events: " +
		"LETHE_SIGNING_KEY_FILE must name the homeserver's signing key")

	// errNotMember is why a user cannot do what only a member may, and errNotLetIn
	// why one cannot become a member.
	errNotMember = errors.New("the room's state does not have the user's membership")
	errNotLetIn  = errors.New("the room does not let the user in")
)

// EmbeddedOptions are what an [Embedded] is made of.
type EmbeddedOptions struct {
	// DefaultRoomVersion is the version of the rooms that CreateRoom makes, "9"
	// to "12". Defaults to "11", as in Synapse 1.160.
	DefaultRoomVersion matrix.RoomVersion

	// Log is told why users could not be removed. Defaults to nobody.
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
// No homeserver may run on it meanwhile. Each step is one transaction, together
// with the job's checkpoint, so a step that has not moved the checkpoint has done
// nothing.
//
// Other servers learn of the events when a homeserver runs again. An invitation
// by a server whose room nobody of ours is in is turned down here alone.
type Embedded struct {
	store   *store.Store
	options EmbeddedOptions
}

var _ Homeserver = (*Embedded)(nil)

// NewEmbedded returns an Embedded on the store's database. The store stays the
// caller's to close.
func NewEmbedded(db *store.Store, options EmbeddedOptions) *Embedded {
	return &Embedded{store: db, options: options.withDefaults()}
}

// Block keeps local users from joining the room from now on. A second call
// changes nothing.
func (h *Embedded) Block(ctx context.Context, batch store.Batch, requester string, checkpoint func(Outcome) any) error {
	return h.store.BlockRoom(ctx, batch, requester, func() any { return checkpoint(Outcome{}) })
}

// MoveAliases makes the room's local aliases lead to the new room, and the
// requester their creator. A second call finds none to move.
func (h *Embedded) MoveAliases(ctx context.Context, batch store.Batch, move AliasMove, checkpoint func(Outcome) any) error {
	return h.store.MoveAliases(ctx, batch, move.NewRoom, move.Requester, func(aliases []string) any {
		return checkpoint(Outcome{Aliases: aliases})
	})
}

// CreateRoom makes the room that replaces the one that is shut down. What finds
// it again is the checkpoint: a second call makes a second room.
func (h *Embedded) CreateRoom(ctx context.Context, batch store.Batch, room NewRoom, checkpoint func(Outcome) any) error {
	version := h.options.DefaultRoomVersion
	if !version.Supported() {
		return versionError(version)
	}
	return h.write(ctx, batch, "create a room", func(w *store.EventWriter) (Outcome, error) {
		id, err := h.createRoom(ctx, w, version, room)
		return Outcome{NewRoom: id}, err
	}, checkpoint)
}

// SendMessage says in the new room what has happened. A second call says it
// again.
func (h *Embedded) SendMessage(ctx context.Context, batch store.Batch, message Message, checkpoint func(Outcome) any) error {
	return h.write(ctx, batch, "send a message", func(w *store.EventWriter) (Outcome, error) {
		room, err := h.openRoom(ctx, w, message.NewRoom)
		if err != nil {
			return Outcome{}, err
		}
		return Outcome{}, h.sendNext(ctx, room, draft{
			kind: "m.room.message", sender: message.Sender,
			content: map[string]any{"body": message.Body, "msgtype": "m.text"},
			judge:   haveMembership(message.Sender, "join"),
		})
	}, checkpoint)
}

// RemoveUsers makes local users leave and forget the room, and join the new one.
// A second call does nothing for those who have left, and reports them as
// removed.
func (h *Embedded) RemoveUsers(ctx context.Context, batch store.Batch, removal Removal, checkpoint func(Outcome) any) error {
	return h.write(ctx, batch, "remove users", func(w *store.EventWriter) (Outcome, error) {
		r := remover{
			Embedded: h, w: w, room: batch.Room, newRoom: removal.NewRoom, opened: map[string]*store.RoomWriter{},
		}
		var outcome Outcome
		for _, member := range removal.Members {
			refused, err := r.remove(ctx, member.UserID)
			switch {
			case err != nil:
				return Outcome{}, err
			case refused != nil:
				h.options.Log.WarnContext(ctx, "user not removed",
					"room", batch.Room, "job", batch.Run.JobID, "user", member.UserID, "error", refused)
				outcome.Failed = append(outcome.Failed, member.UserID)
			default:
				outcome.Removed = append(outcome.Removed, member.UserID)
			}
		}
		return outcome, nil
	}, checkpoint)
}

// write takes a step in the batch's transaction.
func (h *Embedded) write(ctx context.Context, batch store.Batch, operation string,
	do func(*store.EventWriter) (Outcome, error), checkpoint func(Outcome) any,
) error {
	err := h.store.WriteEvents(ctx, batch, func(w *store.EventWriter) (any, error) {
		outcome, err := do(w)
		if err != nil {
			return nil, err
		}
		return checkpoint(outcome), nil
	})
	if err != nil {
		return fmt.Errorf("%s: %w", operation, err)
	}
	return nil
}

// openRoom opens a room to write into. It fails with an error that wraps
// [ErrRoomVersion] or [ErrUnsigned] if we cannot write events into it.
func (h *Embedded) openRoom(ctx context.Context, w *store.EventWriter, id string) (*store.RoomWriter, error) {
	room, err := w.Room(ctx, id)
	if err != nil {
		return nil, err
	}
	if !room.Version().Supported() {
		return nil, versionError(room.Version())
	}
	if h.options.SigningKey != nil {
		return room, nil
	}
	tips, err := room.Tips(ctx)
	if err != nil {
		return nil, err
	}
	remote, err := room.HasRemoteMembers(ctx, tips, h.options.ServerName)
	if err == nil && remote {
		err = ErrUnsigned
	}
	if err != nil {
		return nil, err
	}
	return room, nil
}

func versionError(version matrix.RoomVersion) error {
	return fmt.Errorf("room version %.20s: %w", string(version), ErrRoomVersion)
}
