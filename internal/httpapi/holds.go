package httpapi

import (
	"context"
	"errors"
	"slices"

	"lethe/internal/store/journal"
	"lethe/internal/store/postgres"
	"lethe/internal/wire"
)

// refuseHeld refuses to delete from a room that is held. A job that was accepted before
// the hold is not refused, but waits.
func (s *server) refuseHeld(ctx context.Context, room string) error {
	hold, err := s.holds.Of(ctx, room)
	switch {
	case errors.Is(err, postgres.ErrNotFound):
		return nil
	case err != nil:
		return err
	}
	return wire.Forbidden("The room " + hold.Room + " is held, and nothing of it may be deleted: " + hold.Reason)
}

// holdReason returns the reason of the room's hold if a job's state is held, else "".
func (s *server) holdReason(ctx context.Context, room string, state journal.State) (string, error) {
	if !slices.Contains(waitingStates, state) {
		return "", nil
	}
	hold, err := s.holds.Of(ctx, room)
	if errors.Is(err, postgres.ErrNotFound) { // lifted a moment ago
		return "", nil
	}
	return hold.Reason, err
}
