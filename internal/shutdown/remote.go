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

// ErrHomeserver is returned by a step that the homeserver cannot do at present: it
// is down, limits the rate of requests, or does not know Lethe's access token. The
// job is not to blame, and the step may be tried again.
var ErrHomeserver = errors.New("the homeserver cannot do its part at present")

// RemoteOptions are the options of a [Remote].
type RemoteOptions struct {
	// Homeserver is the homeserver as seen by an application service. The service's
	// namespace must include all local users and aliases, and it must not be rate
	// limited. It has no default.
	Homeserver *homeserver.Service

	// Parallel is the number of users that are removed at a time. Defaults to 8.
	Parallel int
}

// Remote is a [Homeserver] that asks a running homeserver on the same database to do
// each step. The homeserver's own locks on the room must be free, since its requests
// wait for them.
//
// A step that was done but not recorded is done again. Each of its requests changes
// nothing the second time. But a user who has left is no longer a member of the
// room. That is why a group is recorded before it is removed.
//
// Remote does not begin a step for a held room. The homeserver does not know holds,
// so it may still do what it was asked before the hold was set: block the room,
// make a new room, remove a group of users, or move aliases. None of these deletes
// history of the room.
type Remote struct {
	db       *postgres.DB
	holds    *journal.Holds
	service  *homeserver.Service
	parallel int
}

var _ Homeserver = (*Remote)(nil)

// NewRemote returns a Remote. It sends no request.
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
	return wrapUnavailable(r.service.Block(ctx, requester, b.Room()))
}

// preset is the preset of a new room: all users may join, and may read earlier
// messages.
const preset = "public_chat"

// defaultPower is the power level of the new room's members. It keeps them from
// sending messages.
const defaultPower = -10

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
			PowerLevels: map[string]any{"users_default": defaultPower},
			Creation:    map[string]any{roomwriter.JobIDKey: room.JobID},
		})
		return id, wrapUnavailable(err)
	case err != nil:
		return "", err
	case !ready:
		return "", fmt.Errorf("create a room: %w: it is still being made", ErrHomeserver)
	}
	return id, nil
}

// RemoveUsers implements [Homeserver]. A user who has left already counts as
// removed.
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
			if err != nil && (working.Err() != nil || !r.concernsUser(working, err)) {
				return fmt.Errorf("remove users: %w", wrapUnavailable(err))
			}
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				removed.fail(member.UserID, err)
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

// removeUser moves a user. The user joins the new room before leaving the old one,
// so that a user who has not joined yet is still found in the old room.
func (r *Remote) removeUser(ctx context.Context, room, newRoom string, member roomwriter.LocalMember) error {
	var joined error
	if newRoom != "" && member.Membership == "join" {
		joined = r.service.Join(ctx, member.UserID, newRoom)
		if joined != nil && !isRefusal(joined) {
			return joined
		}
	}
	// A user who may not join the new room leaves the old one all the same.
	if err := r.service.Leave(ctx, member.UserID, room); err != nil {
		return err
	}
	if err := r.service.Forget(ctx, member.UserID, room); err != nil {
		return err
	}
	return joined
}

// concernsUser reports whether an error concerns only this user. An unanswered
// request does if the homeserver answers other requests: rejecting an invitation
// from a server that is down may take longer than Lethe waits.
func (r *Remote) concernsUser(ctx context.Context, err error) bool {
	if isRefusal(err) {
		return true
	}
	return errors.Is(err, homeserver.ErrUnanswered) && r.service.Alive(ctx) == nil
}

// isRefusal reports whether the homeserver has refused the request because of its
// content.
func isRefusal(err error) bool {
	var refusal *homeserver.Error
	return errors.As(err, &refusal) && !errors.Is(err, homeserver.ErrUnavailable) && !isTokenRefusal(refusal)
}

// isTokenRefusal reports whether the homeserver has refused Lethe's access token. It
// then refuses all requests until an operator fixes that.
func isTokenRefusal(refusal *homeserver.Error) bool {
	return refusal.Status == http.StatusUnauthorized &&
		(refusal.Code == "M_UNKNOWN_TOKEN" || refusal.Code == "M_MISSING_TOKEN")
}

// wrapUnavailable wraps the error in [ErrHomeserver] if the homeserver cannot do its
// part at present. It returns any other error, and nil, as it is.
func wrapUnavailable(err error) error {
	var refusal *homeserver.Error
	if errors.Is(err, homeserver.ErrUnavailable) ||
		errors.As(err, &refusal) && (isTokenRefusal(refusal) || refusal.Status >= 500) {
		return fmt.Errorf("%w: %w", ErrHomeserver, err)
	}
	return err
}

// SendMessage implements [Homeserver]. It searches for the message before it sends
// one: a homeserver forgets transaction ids when it restarts.
func (r *Remote) SendMessage(ctx context.Context, b *journal.Batch, message Message) error {
	if err := r.holds.Check(ctx, b.Room()); err != nil {
		return err
	}
	sent, err := roomwriter.SentMessage(ctx, r.db, message.NewRoom, message.Sender, message.JobID)
	if err != nil || sent {
		return err
	}
	return wrapUnavailable(r.service.SendMessage(ctx, message.Sender, message.NewRoom, message.JobID,
		map[string]any{"msgtype": "m.text", "body": message.Body, roomwriter.JobIDKey: message.JobID}))
}

// MoveAliases implements [Homeserver]. No request moves an alias: it is deleted and
// made again, and leads to no room in between. So the aliases are recorded first.
// After a refusal for one alias, the step still moves the others before it fails.
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
		leadsThere, err := r.moveAlias(ctx, b.Room(), alias, move)
		switch {
		case err != nil && !isRefusal(err):
			return MovedAliases{}, wrapUnavailable(err)
		case err != nil:
			errs = append(errs, fmt.Errorf("move the alias %s: %w", alias, err))
		case leadsThere:
			moved = append(moved, alias)
		}
	}
	if len(errs) > 0 {
		return MovedAliases{}, wrapUnavailable(errors.Join(errs...))
	}
	return MovedAliases{Aliases: moved}, nil
}

// moveAlias makes an alias lead to the new room if it leads to the old one or to no
// room. It reports whether the alias leads to the new room. It is no error if a user
// has made the alias lead elsewhere meanwhile.
func (r *Remote) moveAlias(ctx context.Context, room, alias string, move AliasMove) (leadsThere bool, err error) {
	leadsTo, err := r.service.Alias(ctx, alias)
	switch {
	case isUnknownAlias(err):
	case err != nil:
		return false, err
	case leadsTo != room:
		return leadsTo == move.NewRoom, nil
	default:
		if err := r.service.DeleteAlias(ctx, alias); err != nil && !isUnknownAlias(err) {
			return false, err
		}
	}
	err = r.service.PutAlias(ctx, move.Owner, alias, move.NewRoom)
	var refusal *homeserver.Error
	if !errors.As(err, &refusal) || refusal.Status != http.StatusConflict {
		return err == nil, err
	}
	// An answer was lost and the request repeated, or a user has made the alias
	// meanwhile.
	leadsTo, err = r.service.Alias(ctx, alias)
	if err == nil && leadsTo == room {
		err = fmt.Errorf("%w: the alias still leads to the old room", homeserver.ErrUnavailable)
	}
	return leadsTo == move.NewRoom, err
}

// isUnknownAlias reports whether the homeserver does not know the alias.
func isUnknownAlias(err error) bool {
	var refusal *homeserver.Error
	return errors.As(err, &refusal) && refusal.Status == http.StatusNotFound && refusal.Code == "M_NOT_FOUND"
}
