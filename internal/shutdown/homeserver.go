package shutdown

import (
	"context"

	"lethe/internal/store"
)

// A Homeserver takes the steps of a shutdown that need events. Each runs under
// the room's write lock, and makes the job's checkpoint what the function makes
// of its [Outcome]: in the transaction that did the step, or, where that is
// somebody else's, after it.
//
// An error means that the checkpoint has not moved; the same step is then taken
// again. It must not do twice what it did before.
type Homeserver interface {
	// Block keeps local users from joining the room from now on. A room that is
	// blocked already keeps its first blocker.
	Block(ctx context.Context, batch store.Batch, requester string, checkpoint func(Outcome) any) error

	// CreateRoom makes the room that replaces the one that is shut down.
	CreateRoom(ctx context.Context, batch store.Batch, room NewRoom, checkpoint func(Outcome) any) error

	// RemoveUsers makes local users leave and forget the room, and join the new
	// room if there is one and they were joined to the old one. One that fails is
	// reported in the Outcome, and the others are still removed. One that cannot do
	// so at once first makes a checkpoint of an Outcome with nothing but Recorded,
	// unless the Removal is.
	RemoveUsers(ctx context.Context, batch store.Batch, removal Removal, checkpoint func(Outcome) any) error

	// SendMessage says in the new room what has happened.
	SendMessage(ctx context.Context, batch store.Batch, message Message, checkpoint func(Outcome) any) error

	// MoveAliases makes the room's local aliases lead to the new room. One that
	// cannot do so at once first makes a checkpoint of an Outcome with nothing
	// but Planned, and finds it in the AliasMove when the step is taken again.
	MoveAliases(ctx context.Context, batch store.Batch, move AliasMove, checkpoint func(Outcome) any) error
}

// An Outcome is what one step did.
type Outcome struct {
	// NewRoom is the id of the room that CreateRoom made, or found that it had
	// made for the same job.
	NewRoom string

	// Removed are the users whom RemoveUsers removed, in the order in which it
	// did, and Failed those whom it could not.
	Removed, Failed []string

	// Recorded says that RemoveUsers is about to remove users. It is an intermediate
	// outcome: the step is not done.
	Recorded bool

	// Aliases are the aliases that MoveAliases moved.
	Aliases []string

	// Planned are the aliases that MoveAliases is about to move. They are an
	// intermediate outcome: the step is not done.
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
	Members []store.LocalMember

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
