package shutdown

import (
	"context"
	"fmt"
	"slices"

	"lethe/internal/store/admin"
	"lethe/internal/store/journal"
	"lethe/internal/store/postgres"
	"lethe/internal/store/roomwriter"
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

	// Force shuts the room down even if no event can be written into it, so that its
	// joined users stay. Defaults to false: the shutdown then fails with a [*Refusal].
	Force bool

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

	// RemoteServersNotTold are the other servers with users in the room, if no event
	// could be written into it. They do not learn that our users have left.
	RemoteServersNotTold []string `json:"remote_servers_not_told,omitempty"`
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
	Group []roomwriter.LocalMember `json:"group,omitempty"`

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

// A Shutdown closes rooms for the users of this server.
type Shutdown struct {
	db         *postgres.DB
	rooms      *admin.Queries
	homeserver Homeserver
}

// New returns a Shutdown against the homeserver.
func New(db *postgres.DB, homeserver Homeserver) *Shutdown {
	return &Shutdown{db: db, rooms: admin.New(db), homeserver: homeserver}
}

// A Plan is the next step of a shutdown.
type Plan struct {
	// At is the progress that the step begins with.
	At Progress

	// members are the users to remove, and after is the stage that follows the step
	// that blocks the room.
	members []roomwriter.LocalMember
	after   stage
}

// Plan returns the step that follows the progress, of about size users at a time.
// Stages that write nothing are passed over. It reads what is committed, without a
// lock. It fails with a [*Refusal] before the first step if no event can be written
// into the room. If the plan's progress is [Progress.Done] there is nothing more to do.
func (s *Shutdown) Plan(ctx context.Context, request Request, at Progress, size int) (Plan, error) {
	plan := Plan{At: at}
	plan.At.Result = at.Result.WithLists()
	for {
		write, err := s.plan(ctx, request, &plan, size)
		if err != nil {
			return Plan{}, err
		}
		if write || plan.At.Done() {
			return plan, nil
		}
	}
}

// plan plans the present stage, and reports whether it writes anything. If not, the
// plan has moved to the next stage.
func (s *Shutdown) plan(ctx context.Context, request Request, plan *Plan, size int) (write bool, err error) {
	at := &plan.At
	switch at.Stage {
	case stageBlock:
		if plan.after, err = s.afterBlock(ctx, request); err != nil {
			return false, err
		}
		if plan.after != stageDone {
			if at.Result, err = s.inspect(ctx, request); err != nil {
				return false, err
			}
		}
		if request.Block {
			return true, nil
		}
		at.Stage = plan.after
		return false, nil
	case stageUsers, stageAgain:
		plan.members = at.Group
		if len(plan.members) == 0 {
			plan.members, err = roomwriter.LocalMembers(ctx, s.db, request.Room, at.After, size)
		}
		if err != nil || len(plan.members) > 0 {
			return true, err
		}
		at.After, at.Stage = "", afterUsers(*at)
		return false, nil
	case stageRoom, stageMessage, stageAliases:
		return true, nil
	case stageDone:
		return false, nil
	}
	return false, fmt.Errorf("the checkpoint has the unknown stage %q", at.Stage)
}

// afterBlock is the stage after the first. An unknown room has nothing more to do.
func (s *Shutdown) afterBlock(ctx context.Context, request Request) (stage, error) {
	known, err := s.rooms.RoomExists(ctx, request.Room)
	switch {
	case err != nil:
		return "", err
	case !known:
		return stageDone, nil
	case request.NewRoomUser != "":
		return stageRoom, nil
	}
	return stageUsers, nil
}

// Do takes the planned step as part of the batch, and returns the progress after it,
// which the caller commits with the batch. If the commit fails, the same step is
// taken again.
func (s *Shutdown) Do(ctx context.Context, b *journal.Batch, request Request, plan Plan) (Progress, error) {
	at := plan.At
	switch at.Stage {
	case stageBlock:
		at.Stage = plan.after
		return at, s.homeserver.Block(ctx, b, request.Requester)
	case stageRoom:
		id, err := s.homeserver.CreateRoom(ctx, b, NewRoom{JobID: request.JobID, Creator: request.NewRoomUser, Name: request.RoomName})
		at.Result.NewRoomID, at.Stage = &id, stageUsers
		return at, err
	case stageUsers, stageAgain:
		return s.removeUsers(ctx, b, request, plan)
	case stageMessage:
		at.Stage = stageAliases
		return at, s.homeserver.SendMessage(ctx, b, Message{
			JobID: request.JobID, NewRoom: *plan.At.Result.NewRoomID, Sender: request.NewRoomUser, Body: request.Message,
		})
	case stageAliases:
		return s.moveAliases(ctx, b, request, at)
	}
	return at, fmt.Errorf("the stage %q has no step", at.Stage)
}

// removeUsers removes a group of users.
func (s *Shutdown) removeUsers(ctx context.Context, b *journal.Batch, request Request, plan Plan) (Progress, error) {
	at := plan.At
	removal := Removal{Members: plan.members, Recorded: len(at.Group) > 0, Requester: request.Requester}
	if at.Result.NewRoomID != nil {
		removal.NewRoom = *at.Result.NewRoomID
	}
	removed, err := s.homeserver.RemoveUsers(ctx, b, removal)
	switch {
	case err != nil:
		return at, err
	case removed.Recorded:
		at.Group = plan.members
		return at, nil
	}
	at.Result = at.Result.with(removed)
	at.After, at.Group = plan.members[len(plan.members)-1].UserID, nil
	return at, nil
}

func (s *Shutdown) moveAliases(ctx context.Context, b *journal.Batch, request Request, at Progress) (Progress, error) {
	moved, err := s.homeserver.MoveAliases(ctx, b, AliasMove{
		NewRoom: *at.Result.NewRoomID, Owner: request.NewRoomUser, Known: at.Aliases, Requester: request.Requester,
	})
	switch {
	case err != nil:
		return at, err
	case moved.Planned != nil:
		at.Aliases = moved.Planned
		return at, nil
	}
	at.Result.LocalAliases, at.Aliases, at.Stage = append([]string{}, moved.Aliases...), nil, stageDone
	return at, nil
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

// with adds to the result what became of a group. A user who was removed in the
// end has not failed.
func (r Result) with(group RemovedUsers) Result {
	add := func(list, users []string) []string {
		list = slices.Clone(list)
		for _, user := range users {
			if !slices.Contains(list, user) {
				list = append(list, user)
			}
		}
		return list
	}
	r.KickedUsers = add(r.KickedUsers, group.Removed)
	r.FailedToKickUsers = slices.DeleteFunc(add(r.FailedToKickUsers, group.Failed), func(user string) bool {
		return slices.Contains(group.Removed, user)
	})
	return r
}
