package tasks

import (
	"context"
	"errors"
	"fmt"
	"time"

	"lethe/internal/jobs"
	"lethe/internal/store/postgres"
	"lethe/internal/store/roomwriter"
	"lethe/internal/wait"
)

// leavesWait is about how long a delete waits in the queue before it looks again how
// far the homeserver's federation is.
const leavesWait = 10 * time.Second

// leavesPlace returns the place in the stream that the homeserver's federation must
// reach before the room may be purged, so that other servers learn that our users have
// left, be it in this delete or in an earlier one. It is 0 if no server needs to learn of it,
// or if the delete does not wait.
func (d *deleteRoom) leavesPlace(ctx context.Context) (int64, error) {
	if d.parameters.ForcePurge {
		return 0, nil
	}
	// Where no homeserver has ever run, none will send anything.
	position, known, err := roomwriter.FederationPosition(ctx, d.worker.db)
	if err != nil || !known {
		return 0, err
	}
	place, err := roomwriter.NewestUnsent(ctx, d.worker.db, d.request.Room, d.worker.options.ServerName, position)
	if errors.Is(err, postgres.ErrNotFound) {
		return 0, nil
	}
	return place, err
}

// awaitLeaves yields until the homeserver's federation has reached the recorded
// place. There is no limit to that: the homeserver may be stopped for as long as the
// operator likes.
func (d *deleteRoom) awaitLeaves(ctx context.Context) error {
	if d.at.LeavesAt == 0 || d.parameters.ForcePurge {
		return nil
	}
	position, _, err := roomwriter.FederationPosition(ctx, d.worker.db)
	if err != nil || position >= d.at.LeavesAt {
		return err
	}
	return jobs.YieldError{
		Reason: jobs.YieldFederation, After: wait.Jitter(leavesWait),
		WaitsFor: fmt.Sprintf("other servers have users in the room, and the homeserver has not told them yet that ours have left: "+
			"the purge begins when federation_stream_position has reached %d; if the homeserver will never run again, set force_purge",
			d.at.LeavesAt),
	}
}
