package shutdown

import (
	"context"

	"lethe/internal/store/journal"
	"lethe/internal/store/postgres"
	"lethe/internal/store/roomwriter"
)

// A Homeserver takes the steps of a shutdown that need events. Each of its [Steps]
// runs under the room's write lock, as part of a batch that its caller commits with the job's
// checkpoint, or after which the caller commits one if the step is done elsewhere.
//
// After an error the checkpoint has not moved, and the same step is taken again. It
// must not do twice what it did before.
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
	// Block keeps local users from joining the room from now on. A room that is
	// blocked already keeps its first blocker.
	Block(ctx context.Context, b *journal.Batch, requester string) error

	// CreateRoom makes the room that replaces the one that is shut down, and returns
	// its id. It returns the one that it made before for the same job.
	CreateRoom(ctx context.Context, b *journal.Batch, room NewRoom) (id string, err error)

	// RemoveUsers makes local users leave and forget the room, and join the new
	// room if there is one and they were joined to the old one. A user for whom that
	// fails is reported, and the others are still removed. This includes users for
	// whom no event can be made.
	RemoveUsers(ctx context.Context, b *journal.Batch, removal Removal) (RemovedUsers, error)

	// SendMessage says in the new room what has happened.
	SendMessage(ctx context.Context, b *journal.Batch, message Message) error

	// MoveAliases makes the room's local aliases lead to the new room.
	MoveAliases(ctx context.Context, b *journal.Batch, move AliasMove) (MovedAliases, error)
}

// RemovedUsers is what became of a group of users.
type RemovedUsers struct {
	// Removed are the users who were removed, in that order, and Failed those who
	// could not be.
	Removed, Failed []string

	// Recorded says that the group was not touched yet. It is to be recorded in the
	// checkpoint, and then removed with [Removal.Recorded] set: the homeserver removes
	// users one by one, and one who has left is no longer listed.
	Recorded bool
}

// MovedAliases is what became of a room's aliases.
type MovedAliases struct {
	// Aliases are those that were moved.
	Aliases []string

	// Planned, unless nil, are the aliases that are about to be moved. They are to be
	// recorded in the checkpoint, and then moved with [AliasMove.Known] set to them.
	Planned []string
}

// A NewRoom is a room that replaces another one.
type NewRoom struct {
	// JobID is the id of the job that wants it. The same job gets the same room,
	// however often it asks.
	JobID string

	// Creator is the user id of the local user who makes the room and has the
	// power in it. It need not be registered.
	Creator string

	// Name is the room's name.
	Name string
}

// A Removal is of some of a room's local users.
type Removal struct {
	// Members are those to remove.
	Members []roomwriter.LocalMember

	// Recorded says that the checkpoint has them, from an earlier attempt at the
	// step. Some of them may be out by now.
	Recorded bool

	// NewRoom is the id of the room that replaces this one; "" if none does.
	NewRoom string

	// Requester is the user id of the admin who wants it.
	Requester string
}

// A Message is what members find in the new room.
type Message struct {
	// JobID is the id of the job that sends it.
	JobID string

	// NewRoom is the room's id, Sender the user who made it.
	NewRoom, Sender string

	// Body is the text.
	Body string
}

// An AliasMove is of all of a room's local aliases.
type AliasMove struct {
	// NewRoom is the id of the room that they lead to from now on.
	NewRoom string

	// Owner is the user who made that room.
	Owner string

	// Known are the aliases that an earlier attempt at the step had Planned. Some
	// of them may lead nowhere by now.
	Known []string

	// Requester is the user id of the admin who wants it.
	Requester string
}
