package shutdown

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"sync"

	"golang.org/x/sync/errgroup"

	"lethe/internal/homeserver"
	"lethe/internal/store/journal"
	"lethe/internal/store/postgres"
	"lethe/internal/store/roomwriter"
)

// ErrHomeserver is returned by a step that a homeserver cannot take at present:
// it is not there, asks for patience, or does not know our access token. That is
// no fault of the job's, and the step may be taken again.
var ErrHomeserver = errors.New("the homeserver cannot do its part at present")

// RemoteOptions are what a [Remote] needs.
type RemoteOptions struct {
	// Homeserver is the homeserver, asked as an application service whose
	// namespace has all local users and aliases, and which is not rate limited.
	// It has no default.
	Homeserver *homeserver.Service

	// Parallel is how many users are removed at a time. Defaults to 8.
	Parallel int
}

// Remote is a [Homeserver] that asks a running one, which shares the database,
// to do each step. A room that it shuts down must not be locked by the
// homeserver's own locks, for which its requests would wait.
//
// A step that was done but not recorded is done again. Each of its requests is one
// that changes nothing then. But a user who has left is no longer among the room's
// members, which is why a group is recorded before it is removed.
//
// A step of a room that is held is not begun. The homeserver knows no holds, so
// what it was asked for when the hold was placed it may still do: to block the
// room, make a new one, let a group of users out, or move aliases. Nothing of the
// room's history goes by that.
type Remote struct {
	db       *postgres.DB
	holds    *journal.Holds
	service  *homeserver.Service
	parallel int
}

var _ Homeserver = (*Remote)(nil)

// NewRemote returns a Remote that has asked nothing yet.
func NewRemote(db *postgres.DB, options RemoteOptions) *Remote {
	return &Remote{db: db, holds: journal.NewHolds(db), service: options.Homeserver, parallel: cmp.Or(options.Parallel, 8)}
}

// Inspect implements [Homeserver]. It finds no obstacle: the homeserver decides which
// events it can write.
func (r *Remote) Inspect(context.Context, *postgres.DB, Request) (Obstacle, error) {
	return Obstacle{}, nil
}

// Block implements [Homeserver]. The requester must be a server admin.
func (r *Remote) Block(ctx context.Context, b *journal.Batch, requester string) error {
	if err := r.holds.Check(ctx, b.Room()); err != nil {
		return err
	}
	return explain(r.service.Block(ctx, requester, b.Room()))
}

// preset is what a new room begins with: everybody may join, and read what was
// said before.
const preset = "public_chat"

// newcomersPower keeps the members of the new room silent.
const newcomersPower = -10

// CreateRoom implements [Homeserver]. The creator must be registered.
func (r *Remote) CreateRoom(ctx context.Context, b *journal.Batch, room NewRoom) (id string, err error) {
	if err := r.holds.Check(ctx, b.Room()); err != nil {
		return "", err
	}
	id, ready, err := roomwriter.FindCreatedRoom(ctx, r.db, room.Creator, room.JobID)
	switch {
	case errors.Is(err, postgres.ErrNotFound):
		id, err := r.service.CreateRoom(ctx, room.Creator, homeserver.RoomRequest{
			Preset:      preset,
			Name:        room.Name,
			PowerLevels: map[string]any{"users_default": newcomersPower},
			Creation:    map[string]any{roomwriter.JobIDKey: room.JobID},
		})
		return id, explain(err)
	case err != nil:
		return "", err
	case !ready:
		return "", fmt.Errorf("create a room: %w: it is still being made", ErrHomeserver)
	}
	return id, nil
}

// RemoveUsers implements [Homeserver]. A user who has left already is removed.
func (r *Remote) RemoveUsers(ctx context.Context, b *journal.Batch, removal Removal) (RemovedUsers, error) {
	if err := r.holds.Check(ctx, b.Room()); err != nil {
		return RemovedUsers{}, err
	}
	if !removal.Recorded {
		return RemovedUsers{Recorded: true}, nil
	}
	var mu sync.Mutex
	var removed RemovedUsers
	group, working := errgroup.WithContext(ctx)
	group.SetLimit(r.parallel)
	for _, member := range removal.Members {
		if working.Err() != nil {
			break
		}
		group.Go(func() error {
			err := r.removeUser(working, b.Room(), removal.NewRoom, member)
			if err != nil && (working.Err() != nil || !r.isTheUsers(working, err)) {
				return fmt.Errorf("remove users: %w", explain(err))
			}
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				removed.Failed = append(removed.Failed, member.UserID)
			} else {
				removed.Removed = append(removed.Removed, member.UserID)
			}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return RemovedUsers{}, err
	}
	if ctx.Err() != nil {
		return RemovedUsers{}, context.Cause(ctx)
	}
	return removed, nil
}

// removeUser moves a user. It joins the new room before it leaves the old one,
// so that a user who has not moved yet can be found in the old room.
func (r *Remote) removeUser(ctx context.Context, room, newRoom string, member roomwriter.LocalMember) error {
	var joined error
	if newRoom != "" && member.Membership == "join" {
		joined = r.service.Join(ctx, member.UserID, newRoom)
		if joined != nil && !isRefusal(joined) {
			return joined
		}
	}
	// A user who may not join the new room leaves this one all the same.
	if err := r.service.Leave(ctx, member.UserID, room); err != nil {
		return err
	}
	if err := r.service.Forget(ctx, member.UserID, room); err != nil {
		return err
	}
	return joined
}

// isTheUsers reports whether it is for the user that something failed. What went
// unanswered was for the user if the homeserver answers others: an invite from a
// server that is away may take longer to refuse than we wait.
func (r *Remote) isTheUsers(ctx context.Context, err error) bool {
	if isRefusal(err) {
		return true
	}
	return errors.Is(err, homeserver.ErrUnanswered) && r.service.Alive(ctx) == nil
}

// isRefusal reports whether a homeserver said no, for a reason that lies in what
// was asked.
func isRefusal(err error) bool {
	var refusal *homeserver.Error
	return errors.As(err, &refusal) && !errors.Is(err, homeserver.ErrUnavailable) && !isTokens(refusal)
}

// isTokens reports whether it is our access token that was refused: then all
// requests are, until an operator has mended it.
func isTokens(refusal *homeserver.Error) bool {
	return refusal.Status == http.StatusUnauthorized &&
		(refusal.Code == "M_UNKNOWN_TOKEN" || refusal.Code == "M_MISSING_TOKEN")
}

// explain wraps [ErrHomeserver] around an error that says so. It returns any other
// error, and nil, as it is.
func explain(err error) error {
	var refusal *homeserver.Error
	if errors.Is(err, homeserver.ErrUnavailable) ||
		errors.As(err, &refusal) && (isTokens(refusal) || refusal.Status >= 500) {
		return fmt.Errorf("%w: %w", ErrHomeserver, err)
	}
	return err
}

// SendMessage implements [Homeserver]. The message is looked for before it is
// sent: a homeserver knows a transaction's id only until it is restarted.
func (r *Remote) SendMessage(ctx context.Context, b *journal.Batch, message Message) error {
	if err := r.holds.Check(ctx, b.Room()); err != nil {
		return err
	}
	sent, err := roomwriter.SentMessage(ctx, r.db, message.NewRoom, message.Sender, message.JobID)
	if err != nil || sent {
		return err
	}
	return explain(r.service.SendMessage(ctx, message.Sender, message.NewRoom, message.JobID,
		map[string]any{"msgtype": "m.text", "body": message.Body, roomwriter.JobIDKey: message.JobID}))
}

// MoveAliases implements [Homeserver]. No request moves an alias: it is deleted and
// made again, and leads nowhere in between. So the aliases are recorded first. All
// are tried before the step fails for one.
func (r *Remote) MoveAliases(ctx context.Context, b *journal.Batch, move AliasMove) (MovedAliases, error) {
	if err := r.holds.Check(ctx, b.Room()); err != nil {
		return MovedAliases{}, err
	}
	mapped, err := roomwriter.LocalAliases(ctx, r.db, b.Room())
	if err != nil {
		return MovedAliases{}, err
	}
	planned := slices.Concat(move.Known, mapped)
	slices.Sort(planned)
	planned = slices.Compact(planned)
	unknown := func(alias string) bool { return !slices.Contains(move.Known, alias) }
	if slices.ContainsFunc(mapped, unknown) {
		return MovedAliases{Planned: planned}, nil
	}
	var moved []string
	var errs []error
	for _, alias := range planned {
		ours, err := r.moveAlias(ctx, b.Room(), alias, move)
		switch {
		case err != nil && !isRefusal(err):
			return MovedAliases{}, explain(err)
		case err != nil:
			errs = append(errs, fmt.Errorf("move the alias %s: %w", alias, err))
		case ours:
			moved = append(moved, alias)
		}
	}
	if len(errs) > 0 {
		return MovedAliases{}, explain(errors.Join(errs...))
	}
	return MovedAliases{Aliases: moved}, nil
}

// moveAlias makes an alias lead to the new room, from the old one or from
// nowhere. It reports whether the alias leads there; if somebody has made it lead
// elsewhere meanwhile, it does not, and that is no error.
func (r *Remote) moveAlias(ctx context.Context, room, alias string, move AliasMove) (ours bool, err error) {
	leadsTo, err := r.service.Alias(ctx, alias)
	switch {
	case leadsNowhere(err):
	case err != nil:
		return false, err
	case leadsTo != room:
		return leadsTo == move.NewRoom, nil
	default:
		if err := r.service.DeleteAlias(ctx, alias); err != nil && !leadsNowhere(err) {
			return false, err
		}
	}
	err = r.service.PutAlias(ctx, move.Owner, alias, move.NewRoom)
	var refusal *homeserver.Error
	if !errors.As(err, &refusal) || refusal.Status != http.StatusConflict {
		return err == nil, err
	}
	// An answer was lost and the request repeated, or somebody was quicker.
	leadsTo, err = r.service.Alias(ctx, alias)
	if err == nil && leadsTo == room {
		err = fmt.Errorf("%w: the alias still leads to the old room", homeserver.ErrUnavailable)
	}
	return leadsTo == move.NewRoom, err
}

// leadsNowhere reports whether a homeserver said that it has no such alias.
func leadsNowhere(err error) bool {
	var refusal *homeserver.Error
	return errors.As(err, &refusal) && refusal.Status == http.StatusNotFound && refusal.Code == "M_NOT_FOUND"
}
