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
	"lethe/internal/store"
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
// A step is done when its checkpoint has moved. One that was done but not
// recorded is done again, and each request of it is one that changes nothing
// then; but a user who has left is no longer among the room's members, so a
// caller that lists them anew does not hear of those again.
//
// A step of a room that is held is not begun. The homeserver knows no holds, so
// what it was asked for when the hold was placed it may still do: to block the
// room, make a new one, let a group of users out, or move aliases. Nothing of the
// room's history goes by that.
type Remote struct {
	store    *store.Store
	service  *homeserver.Service
	parallel int
}

var _ Homeserver = (*Remote)(nil)

// NewRemote returns a Remote that has asked nothing yet.
func NewRemote(store *store.Store, options RemoteOptions) *Remote {
	return &Remote{store: store, service: options.Homeserver, parallel: cmp.Or(options.Parallel, 8)}
}

// Block implements [Homeserver]. The requester must be a server admin.
func (r *Remote) Block(ctx context.Context, batch store.Batch, requester string, checkpoint func(Outcome) any) error {
	if err := r.store.CheckHold(ctx, batch.Room); err != nil {
		return err
	}
	if err := r.service.Block(ctx, requester, batch.Room); err != nil {
		return blame(err)
	}
	return r.store.MoveCheckpoint(ctx, batch, checkpoint(Outcome{}))
}

// preset is what a new room begins with: everybody may join, and read what was
// said before.
const preset = "public_chat"

// newcomersPower keeps the members of the new room silent.
const newcomersPower = -10

// CreateRoom implements [Homeserver]. The creator must be registered.
func (r *Remote) CreateRoom(ctx context.Context, batch store.Batch, room NewRoom, checkpoint func(Outcome) any) error {
	if err := r.store.CheckHold(ctx, batch.Room); err != nil {
		return err
	}
	id, ready, err := r.store.FindCreatedRoom(ctx, room.Creator, room.JobID)
	switch {
	case errors.Is(err, store.ErrNotFound):
		id, err = r.service.CreateRoom(ctx, room.Creator, homeserver.RoomRequest{
			Preset:      preset,
			Name:        room.Name,
			PowerLevels: map[string]any{"users_default": newcomersPower},
			Creation:    map[string]any{store.JobIDKey: room.JobID},
		})
		if err != nil {
			return blame(err)
		}
	case err != nil:
		return err
	case !ready:
		return fmt.Errorf("create a room: %w: it is still being made", ErrHomeserver)
	}
	return r.store.MoveCheckpoint(ctx, batch, checkpoint(Outcome{NewRoom: id}))
}

// RemoveUsers implements [Homeserver]. A user who has left already is removed. The
// checkpoint moves first, as the users leave one after the other.
func (r *Remote) RemoveUsers(ctx context.Context, batch store.Batch, removal Removal, checkpoint func(Outcome) any) error {
	if err := r.store.CheckHold(ctx, batch.Room); err != nil {
		return err
	}
	if !removal.Recorded {
		if err := r.store.MoveCheckpoint(ctx, batch, checkpoint(Outcome{Recorded: true})); err != nil {
			return err
		}
	}
	var mu sync.Mutex
	var outcome Outcome
	group, working := errgroup.WithContext(ctx)
	group.SetLimit(r.parallel)
	for _, member := range removal.Members {
		if working.Err() != nil {
			break
		}
		group.Go(func() error {
			err := r.removeUser(working, batch.Room, removal.NewRoom, member)
			if err != nil && (working.Err() != nil || !r.isTheUsers(working, err)) {
				return fmt.Errorf("remove users: %w", blame(err))
			}
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				outcome.Failed = append(outcome.Failed, member.UserID)
			} else {
				outcome.Removed = append(outcome.Removed, member.UserID)
			}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return err
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return r.store.MoveCheckpoint(ctx, batch, checkpoint(outcome))
}

// removeUser moves a user. It joins the new room before it leaves the old one,
// so that whoever is not yet there can be found in the old room.
func (r *Remote) removeUser(ctx context.Context, room, newRoom string, member store.LocalMember) error {
	var joined error
	if newRoom != "" && member.Membership == "join" {
		joined = r.service.Join(ctx, member.UserID, newRoom)
		if joined != nil && !isRefusal(joined) {
			return joined
		}
	}
	// Whoever may not join the new room leaves this one all the same.
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

// blame wraps [ErrHomeserver] around an error that it explains.
func blame(err error) error {
	var refusal *homeserver.Error
	if errors.Is(err, homeserver.ErrUnavailable) ||
		errors.As(err, &refusal) && (isTokens(refusal) || refusal.Status >= 500) {
		return fmt.Errorf("%w: %w", ErrHomeserver, err)
	}
	return err
}

// SendMessage implements [Homeserver]. The message is looked for before it is
// sent: a homeserver knows a transaction's id only until it is restarted.
func (r *Remote) SendMessage(ctx context.Context, batch store.Batch, message Message, checkpoint func(Outcome) any) error {
	if err := r.store.CheckHold(ctx, batch.Room); err != nil {
		return err
	}
	sent, err := r.store.SentMessage(ctx, message.NewRoom, message.Sender, message.JobID)
	if err != nil {
		return err
	}
	if !sent {
		err := r.service.SendMessage(ctx, message.Sender, message.NewRoom, message.JobID,
			map[string]any{"msgtype": "m.text", "body": message.Body, store.JobIDKey: message.JobID})
		if err != nil {
			return blame(err)
		}
	}
	return r.store.MoveCheckpoint(ctx, batch, checkpoint(Outcome{}))
}

// MoveAliases implements [Homeserver]. No request moves an alias: it is deleted
// and made anew, and is nowhere in between. So the checkpoint moves first, with
// the aliases in [Outcome.Planned]. All are tried before the step fails for one.
func (r *Remote) MoveAliases(ctx context.Context, batch store.Batch, move AliasMove, checkpoint func(Outcome) any) error {
	if err := r.store.CheckHold(ctx, batch.Room); err != nil {
		return err
	}
	mapped, err := r.store.LocalAliases(ctx, batch.Room)
	if err != nil {
		return err
	}
	planned := slices.Concat(move.Known, mapped)
	slices.Sort(planned)
	planned = slices.Compact(planned)
	unknown := func(alias string) bool { return !slices.Contains(move.Known, alias) }
	if slices.ContainsFunc(mapped, unknown) {
		if err := r.store.MoveCheckpoint(ctx, batch, checkpoint(Outcome{Planned: planned})); err != nil {
			return err
		}
	}
	var moved []string
	var errs []error
	for _, alias := range planned {
		ours, err := r.moveAlias(ctx, batch.Room, alias, move)
		switch {
		case err != nil && !isRefusal(err):
			return blame(err)
		case err != nil:
			errs = append(errs, fmt.Errorf("move the alias %s: %w", alias, err))
		case ours:
			moved = append(moved, alias)
		}
	}
	if len(errs) > 0 {
		return blame(errors.Join(errs...))
	}
	return r.store.MoveCheckpoint(ctx, batch, checkpoint(Outcome{Aliases: moved}))
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
