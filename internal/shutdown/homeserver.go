package shutdown

import (
	"context"

	"lethe/internal/store/journal"
	"lethe/internal/store/postgres"
	"lethe/internal/store/roomwriter"
)

// A Homeserver does the steps of a shutdown that need events. Each of its [Steps] runs
// under the room's write lock, as part of a batch. The caller commits the batch with
// the job's checkpoint. A step that is done outside of the database is recorded by that
// commit.
//
// After an error the checkpoint has not moved, and the same step is done again. It
// must not repeat what it has done before.
type Homeserver interface {
	Inspector
	Steps
}

// An Inspector says before the first step what cannot be done.
type Inspector interface {
	// Inspect returns why no event can be written into the room. A room that can have
	// events has no Reason. It fails with an error that wraps [matrix.ErrTooLarge] if
	// an event of the new room would be too large, as far as that can be known. It
	// writes nothing.
	Inspect(ctx context.Context, db *postgres.DB, request Request) (Obstacle, error)
}

// Steps are the steps of a shutdown that need events.
type Steps interface {
	// Block keeps local users from joining the room from now on. A room that is blocked
	// already keeps its first blocker.
	Block(ctx context.Context, b *journal.Batch, requester string) error

	// CreateRoom makes the room that replaces the shut-down room, and returns its id.
	// For the same job it returns the same room again.
	CreateRoom(ctx context.Context, b *journal.Batch, room NewRoom) (id string, err error)

	// RemoveUsers makes local users leave and forget the room. If there is a new room,
	// users who were joined to the old one join it. A user who cannot be removed is
	// reported, and the others are still removed. This includes users for whom no event
	// can be made.
	RemoveUsers(ctx context.Context, b *journal.Batch, removal Removal) (RemovedUsers, error)

	// SendMessage sends the message to the new room.
	SendMessage(ctx context.Context, b *journal.Batch, message Message) error

	// MoveAliases makes the room's local aliases lead to the new room.
	MoveAliases(ctx context.Context, b *journal.Batch, move AliasMove) (MovedAliases, error)
}

// RemovedUsers is the result of removing a group of users.
type RemovedUsers struct {
	// Removed are the users who were removed, in that order, and Failed the users who
	// could not be.
	Removed, Failed []string

	// Why says why the first of Failed could not be, "" if none failed.
	Why string

	// Recorded says that no user was removed yet. The caller must record the group in
	// the checkpoint, and then call again with [Removal.Recorded] set: the homeserver
	// removes users one by one, and a user who has left is no longer listed.
	Recorded bool
}

// MovedAliases is the result of moving a room's aliases.
type MovedAliases struct {
	// Aliases are the aliases that were moved.
	Aliases []string

	// Planned, unless nil, are the aliases to move; none was moved yet. The caller must
	// record them in the checkpoint, and then call again with [AliasMove.Known] set to
	// them.
	Planned []string
}

// A NewRoom describes the room that replaces another one.
type NewRoom struct {
	// JobID is the id of the job that needs the room. The same job always gets the same
	// room.
	JobID string

	// Creator is the user id of the local user who makes the room and has the power in
	// it. The user need not be registered.
	Creator string

	// Name is the room's name.
	Name string
}

// A Removal says which local users of a room to remove.
type Removal struct {
	// Members are the users to remove.
	Members []roomwriter.LocalMember

	// Recorded says that the checkpoint has the users, from an earlier attempt. Some of
	// them may have left by now.
	Recorded bool

	// NewRoom is the id of the room that replaces this one, "" if no room does.
	NewRoom string

	// Requester is the user id of the admin who has requested the shutdown.
	Requester string
}

// A Message is the message to the members of the new room.
type Message struct {
	// JobID is the id of the job that sends it.
	JobID string

	// NewRoom is the room's id, Sender the user who made it.
	NewRoom, Sender string

	// Body is the text.
	Body string
}

// An AliasMove says where to move all local aliases of a room.
type AliasMove struct {
	// NewRoom is the id of the room that they lead to from now on.
	NewRoom string

	// Owner is the user who has made the new room.
	Owner string

	// Known are the aliases that an earlier call has returned as Planned. Some of them
	// may lead to no room by now.
	Known []string

	// Requester is the user id of the admin who has requested the shutdown.
	Requester string
}
