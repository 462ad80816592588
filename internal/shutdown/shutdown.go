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

// The name of the new room and the message in it of requests that name none, as in Synapse.
const (
	DefaultRoomName = "Content Violation Notification"
	DefaultMessage  = "Sharing illegal content on this server is not permitted and rooms in violation will be blocked."
)

// A Request says which room to shut down and how.
type Request struct {
	// JobID is the id of the shutdown's job.
	JobID string

	Room string

	// Requester is the user id of the admin.
	Requester string

	// Block keeps local users from joining the room again. Defaults to false.
	Block bool

	// Force shuts the room down even if no event can be written into it, so that its
	// joined users stay. Defaults to false: the shutdown then fails with a [*Refusal].
	Force bool

	// NewRoomUser is the user id of the local user who makes the room that replaces
	// this one. Defaults to "", no new room.
	NewRoomUser string

	// RoomName is the new room's name, and Message the text of the message in it.
	RoomName, Message string
}

// A Result is the result of a shutdown so far. The names are those that admin tools
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

// A stage names the next step of a shutdown.
type stage string

// The stages, in order. Users are removed in two rounds. The second tries failed
// users again, and removes users who have joined meanwhile. stageReturned is not among
// them: see [Progress.Again].
const (
	stageBlock      stage = ""
	stageRoom       stage = "room"
	stageUsers      stage = "users"
	stageUsersAgain stage = "users_again"
	stageMessage    stage = "message"
	stageAliases    stage = "aliases"
	stageDone       stage = "done"
	stageReturned   stage = "returned"
)

// A Progress is the progress of a shutdown. It may be kept as JSON. The zero value
// is the beginning.
type Progress struct {
	Stage stage `json:"stage,omitempty"`

	// Group are the users who are being removed, if that takes more than one commit.
	// They are recorded before the first of them is removed: a user who has left is no
	// longer listed, and would be missing from the Result if the removal was not
	// recorded.
	Group []roomwriter.LocalMember `json:"group,omitempty"`

	// After is the last user of the previous group.
	After string `json:"after,omitempty"`

	// Aliases are the aliases that are being moved.
	Aliases []string `json:"aliases,omitempty"`

	Result Result `json:"shutdown_room"`

	// FirstFailure names the first user who could not be removed, and why, "" if none. The
	// user may have been removed since.
	FirstFailure string `json:"first_failure,omitempty"`
}

// maxFailure bounds the bytes of a first failure.
const maxFailure = 1000

// fail adds a user who could not be removed.
func (r *RemovedUsers) fail(user string, why error) {
	if len(r.Failed) == 0 {
		r.Why = why.Error()
	}
	r.Failed = append(r.Failed, user)
}

// Explain adds to an error for users who are still joined why the first of those who could
// not be removed was not. Without such users it returns the error.
func (p Progress) Explain(joined error) error {
	if p.FirstFailure == "" || len(p.Result.FailedToKickUsers) == 0 {
		return joined
	}
	return &StayError{err: joined, first: p.FirstFailure}
}

// A StayError says that users are still joined, and why the first could not be removed.
type StayError struct {
	err   error
	first string
}

// Error implements error.
func (e *StayError) Error() string { return e.err.Error() + ": " + e.first }

// Unwrap returns the error for users who are still joined.
func (e *StayError) Unwrap() error { return e.err }

// Done reports whether the shutdown has finished.
func (p Progress) Done() bool { return p.Stage == stageDone }

// Again returns the progress of a shutdown that has finished, but must remove users who
// have joined since. The result so far is kept.
func (p Progress) Again() Progress {
	p.Stage, p.After = stageReturned, ""
	return p
}

// WithLists returns the result with empty lists instead of nil ones, which JSON
// would show as null.
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
	// At is the progress from which the step begins.
	At Progress

	// members are the users to remove. after is the stage that follows stageBlock.
	members []roomwriter.LocalMember
	after   stage
}

// Plan returns the step that follows the progress. A group has about size users.
// Plan skips stages that write nothing. It reads committed data without a lock. It
// fails with a [*Refusal] before the first step if no event can be written into the
// room. If the plan's progress is [Progress.Done], the shutdown has finished.
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

// plan plans the current stage, and reports whether the stage writes anything. If
// not, it has moved the plan to the next stage.
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
	case stageUsers, stageUsersAgain, stageReturned:
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

// afterBlock returns the stage after the first. For an unknown room that is the end.
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

// Do does the planned step as part of the batch, and returns the progress after it.
// The caller commits that with the batch. If the commit fails, the same step is done
// again.
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
	case stageUsers, stageUsersAgain, stageReturned:
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
	if at.FirstFailure == "" && len(removed.Failed) > 0 {
		at.FirstFailure = removed.Failed[0] + " could not be removed: " +
			postgres.Sanitize(removed.Why[:min(len(removed.Why), maxFailure)])
	}
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
	// A shutdown that was done again moves those that have come since.
	all := slices.Concat([]string{}, at.Result.LocalAliases, moved.Aliases)
	slices.Sort(all)
	at.Result.LocalAliases, at.Aliases, at.Stage = slices.Compact(all), nil, stageDone
	return at, nil
}

func afterUsers(at Progress) stage {
	switch {
	case at.Stage == stageUsers:
		return stageUsersAgain
	case at.Result.NewRoomID != nil && at.Stage != stageReturned:
		return stageMessage
	}
	return stageDone
}

// with adds the result of a group. A user who was removed in the end has not failed.
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
