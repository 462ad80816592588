package shutdown

import (
	"context"
	"fmt"
	"slices"

	"lethe/internal/store"
)

// A Request is a shutdown that an admin asked for.
type Request struct {
	// JobID is the id of the job that it is.
	JobID string

	Room string

	// Requester is the user id of the admin.
	Requester string

	// Block keeps local users from joining the room again. Defaults to false.
	Block bool

	// NewRoomUser is the user id of the local user who makes the room that
	// replaces this one. Defaults to "": none does.
	NewRoomUser string

	// RoomName is the new room's name, and Message what is said in it.
	RoomName, Message string
}

// A Result is what a shutdown has done so far, by the names that admin tools
// know.
type Result struct {
	KickedUsers       []string `json:"kicked_users"`
	FailedToKickUsers []string `json:"failed_to_kick_users"`
	LocalAliases      []string `json:"local_aliases"`
	NewRoomID         *string  `json:"new_room_id"`
}

// A stage is what is done next.
type stage string

// The stages, in order. There are two rounds of users: the second tries those
// again who could not be removed, and finds those who came meanwhile.
const (
	stageBlock   stage = ""
	stageRoom    stage = "room"
	stageUsers   stage = "users"
	stageAgain   stage = "users_again"
	stageMessage stage = "message"
	stageAliases stage = "aliases"
	stageDone    stage = "done"
)

// A Progress is how far a shutdown is. It may be kept as JSON; the zero value is
// the beginning.
type Progress struct {
	Stage stage `json:"stage,omitempty"`

	// Group are the users who are being removed, where that is not one commit. They
	// are recorded before the first of them is: one who is out is listed no longer,
	// and would be missing from the Result if that was lost.
	Group []store.LocalMember `json:"group,omitempty"`

	// After is the last user of the group before.
	After string `json:"after,omitempty"`

	// Aliases are those that are being moved.
	Aliases []string `json:"aliases,omitempty"`

	Result Result `json:"shutdown_room"`
}

// Done reports whether the shutdown has done all that it can.
func (p Progress) Done() bool { return p.Stage == stageDone }

// WithLists returns the result with lists that are empty in JSON, not null.
func (r Result) WithLists() Result {
	for _, list := range []*[]string{&r.KickedUsers, &r.FailedToKickUsers, &r.LocalAliases} {
		if *list == nil {
			*list = []string{}
		}
	}
	return r
}

// A Step does the next thing under the room's write lock, and makes the job's
// checkpoint what the function makes of the Progress after it.
type Step func(ctx context.Context, batch store.Batch, checkpoint func(Progress) any) error

// A Shutdown closes rooms for the users of this server.
type Shutdown struct {
	store      *store.Store
	homeserver Homeserver
}

// New returns a Shutdown against the homeserver.
func New(db *store.Store, homeserver Homeserver) *Shutdown {
	return &Shutdown{store: db, homeserver: homeserver}
}

// Next returns the step that follows the progress, of about size users at a time,
// and the progress that it begins with: what needs nothing to be written is not a
// step. It reads what is committed, without a lock. It is called until the progress
// is [Progress.Done]; then there is no step.
func (s *Shutdown) Next(ctx context.Context, request Request, at Progress, size int) (Progress, Step, error) {
	at.Result = at.Result.WithLists()
	for {
		var step Step
		var err error
		switch at.Stage {
		case stageBlock:
			step, err = s.begin(ctx, request, &at)
		case stageRoom:
			step = s.createRoom(request, at)
		case stageUsers, stageAgain:
			step, err = s.removeUsers(ctx, request, &at, size)
		case stageMessage:
			step = s.sendMessage(request, at)
		case stageAliases:
			step = s.moveAliases(request, at)
		case stageDone:
			return at, nil, nil
		default:
			err = fmt.Errorf("the checkpoint has the unknown stage %q", at.Stage)
		}
		if err != nil || step != nil {
			return at, step, err
		}
	}
}

// begin blocks the room, known or not. There is no more to do in an unknown one.
func (s *Shutdown) begin(ctx context.Context, request Request, at *Progress) (Step, error) {
	known, err := s.store.RoomExists(ctx, request.Room)
	if err != nil {
		return nil, err
	}
	begun := *at
	switch {
	case !known:
		begun.Stage = stageDone
	case request.NewRoomUser != "":
		begun.Stage = stageRoom
	default:
		begun.Stage = stageUsers
	}
	if !request.Block {
		*at = begun
		return nil, nil
	}
	return func(ctx context.Context, batch store.Batch, checkpoint func(Progress) any) error {
		return s.homeserver.Block(ctx, batch, request.Requester, func(Outcome) any { return checkpoint(begun) })
	}, nil
}

func (s *Shutdown) createRoom(request Request, at Progress) Step {
	room := NewRoom{JobID: request.JobID, Creator: request.NewRoomUser, Name: request.RoomName}
	return func(ctx context.Context, batch store.Batch, checkpoint func(Progress) any) error {
		return s.homeserver.CreateRoom(ctx, batch, room, func(outcome Outcome) any {
			at.Result.NewRoomID, at.Stage = &outcome.NewRoom, stageUsers
			return checkpoint(at)
		})
	}
}

// removeUsers removes a group of users: the recorded one, or else the next.
func (s *Shutdown) removeUsers(ctx context.Context, request Request, at *Progress, size int) (Step, error) {
	removal := Removal{Members: at.Group, Recorded: len(at.Group) > 0, Requester: request.Requester}
	if !removal.Recorded {
		group, err := s.store.LocalMembers(ctx, request.Room, at.After, size)
		if err != nil {
			return nil, err
		}
		if len(group) == 0 {
			at.After, at.Stage = "", afterUsers(*at)
			return nil, nil
		}
		removal.Members = group
	}
	if at.Result.NewRoomID != nil {
		removal.NewRoom = *at.Result.NewRoomID
	}
	begun := *at
	return func(ctx context.Context, batch store.Batch, checkpoint func(Progress) any) error {
		return s.homeserver.RemoveUsers(ctx, batch, removal, func(outcome Outcome) any {
			after := begun
			if outcome.Recorded {
				after.Group = removal.Members
				return checkpoint(after)
			}
			after.Result = after.Result.with(outcome)
			after.After, after.Group = removal.Members[len(removal.Members)-1].UserID, nil
			return checkpoint(after)
		})
	}, nil
}

func afterUsers(at Progress) stage {
	switch {
	case at.Stage == stageUsers:
		return stageAgain
	case at.Result.NewRoomID != nil:
		return stageMessage
	}
	return stageDone
}

// with adds to the result what became of a group. Whoever is removed at last has
// not failed.
func (r Result) with(outcome Outcome) Result {
	add := func(list, users []string) []string {
		list = slices.Clone(list)
		for _, user := range users {
			if !slices.Contains(list, user) {
				list = append(list, user)
			}
		}
		return list
	}
	r.KickedUsers = add(r.KickedUsers, outcome.Removed)
	r.FailedToKickUsers = slices.DeleteFunc(add(r.FailedToKickUsers, outcome.Failed), func(user string) bool {
		return slices.Contains(outcome.Removed, user)
	})
	return r
}

func (s *Shutdown) sendMessage(request Request, at Progress) Step {
	message := Message{
		JobID: request.JobID, NewRoom: *at.Result.NewRoomID, Sender: request.NewRoomUser, Body: request.Message,
	}
	return func(ctx context.Context, batch store.Batch, checkpoint func(Progress) any) error {
		return s.homeserver.SendMessage(ctx, batch, message, func(Outcome) any {
			at.Stage = stageAliases
			return checkpoint(at)
		})
	}
}

func (s *Shutdown) moveAliases(request Request, at Progress) Step {
	move := AliasMove{
		NewRoom: *at.Result.NewRoomID, Owner: request.NewRoomUser, Known: at.Aliases, Requester: request.Requester,
	}
	return func(ctx context.Context, batch store.Batch, checkpoint func(Progress) any) error {
		return s.homeserver.MoveAliases(ctx, batch, move, func(outcome Outcome) any {
			if outcome.Planned != nil {
				at.Aliases = outcome.Planned
				return checkpoint(at)
			}
			at.Result.LocalAliases, at.Aliases, at.Stage = append([]string{}, outcome.Aliases...), nil, stageDone
			return checkpoint(at)
		})
	}
}
