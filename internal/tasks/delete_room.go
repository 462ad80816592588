package tasks

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"lethe/internal/homeserver"
	"lethe/internal/jobs"
	"lethe/internal/matrix"
	"lethe/internal/shutdown"
	"lethe/internal/store"
)

// DeleteRoom asks for a room to be shut down, and then deleted if Purge is set.
type DeleteRoom struct {
	Room string

	// Requester is the user id of the admin who asks.
	Requester string

	// NewRoomUser is the user id of the local user who makes the room that
	// replaces this one; "" for none. RoomName is that room's name, and Message
	// what is said in it.
	NewRoomUser, RoomName, Message string

	// Block keeps local users from joining the room again.
	Block bool

	// Purge deletes the room when it is shut down, and ForcePurge even if local
	// users are still joined to it then.
	Purge, ForcePurge bool

	// PurgeDelay is the pause between the two, in which clients get to know that
	// their users have left.
	PurgeDelay time.Duration

	// Exclusive refuses the delete with [store.ErrRoomBusy] while the room has a
	// job of any kind that has not ended. Otherwise it waits for a history purge,
	// and only another delete refuses it.
	Exclusive bool
}

// SubmitDeleteRoom accepts a delete and returns its job's id. An error means that
// it was not accepted; it is [store.ErrRoomBusy] if the room has a delete that has
// not ended.
func (c *Client) SubmitDeleteRoom(ctx context.Context, request DeleteRoom) (id string, err error) {
	id, err = c.submit(ctx, jobs.DeleteRoom, request.Room, request.Requester, request.parameters(), request.Exclusive)
	if err != nil {
		return "", fmt.Errorf("submit a room's delete: %w", err)
	}
	return id, nil
}

// IsOf reports whether a job is what the request asks for, whoever asked.
func (d DeleteRoom) IsOf(job store.Job) bool {
	var its deleteRoomParameters
	return job.Kind == string(jobs.DeleteRoom) && job.Room == d.Room &&
		json.Unmarshal(job.Parameters, &its) == nil && its == d.parameters()
}

func (d DeleteRoom) parameters() deleteRoomParameters {
	return deleteRoomParameters{
		NewRoomUserID: d.NewRoomUser, NewRoomName: d.RoomName, Message: d.Message,
		Block: d.Block, Purge: d.Purge, ForcePurge: d.ForcePurge, PurgeDelay: d.PurgeDelay.Milliseconds(),
	}
}

// deleteRoomParameters are those of the job's row, by the names that Synapse
// gives them in its own task table. The delay is in milliseconds.
type deleteRoomParameters struct {
	NewRoomUserID string `json:"new_room_user_id,omitempty"`
	NewRoomName   string `json:"new_room_name,omitempty"`
	Message       string `json:"message,omitempty"`
	Block         bool   `json:"block"`
	Purge         bool   `json:"purge"`
	ForcePurge    bool   `json:"force_purge"`
	PurgeDelay    int64  `json:"purge_delay_ms,omitempty"`

	// Abandoned says that a sweep has made the delete. Nobody is in the room, so it
	// is not shut down; if it is not abandoned any more when the delete begins, it
	// stays.
	Abandoned bool `json:"abandoned,omitempty"`
}

// The phases of a delete, in order.
const (
	phaseShuttingDown = "shutting_down"
	phasePurging      = "purging"
)

// deleteRoomCheckpoint is how far a delete is.
type deleteRoomCheckpoint struct {
	Phase string `json:"phase"`
	shutdown.Progress

	// PurgeAt is when the purge may begin, in Unix milliseconds of PostgreSQL's
	// clock; 0 before the shutdown has ended, and if there is no delay.
	PurgeAt int64 `json:"purge_at,omitempty"`

	// Size is how much the next batch takes on: users, and then rows.
	Size int `json:"size"`

	// At is where in the room the next batch goes on.
	At store.RoomPosition `json:"at"`

	Batches            int64  `json:"batches"`
	EventsDeleted      int64  `json:"events_deleted"`
	RowsDeleted        int64  `json:"rows_deleted"`
	StateGroupsDeleted int64  `json:"state_groups_deleted"`
	RowWiseBatches     int64  `json:"row_wise_batches"`
	RowWiseWhy         string `json:"row_wise_why,omitempty"`
}

// A DeleteStatus is what there is to say of a delete beside its state.
type DeleteStatus struct {
	// Phase is "shutting_down" or "purging"; "" before it has begun.
	Phase string `json:"phase"`

	// Shutdown is what the shutdown has done so far. Its lists are never nil.
	Shutdown shutdown.Result `json:"shutdown_room"`
}

// DeleteStatusOf reads the status of a delete from its job's checkpoint, which is
// empty before the job has begun.
func DeleteStatusOf(checkpoint []byte) (DeleteStatus, error) {
	var status DeleteStatus
	if len(checkpoint) > 0 {
		if err := json.Unmarshal(checkpoint, &status); err != nil {
			return DeleteStatus{}, fmt.Errorf("decode the job's checkpoint: %w", err)
		}
	}
	status.Shutdown = status.Shutdown.WithLists()
	return status, nil
}

const (
	// firstUsers is how many users the first group has, and mostUsers how many one
	// has at most: all of them wait for the slowest.
	firstUsers = 10
	mostUsers  = 200

	// firstRows is the size of a room's first batch.
	firstRows = 1000
)

// deleteRoom is the work of a delete.
type deleteRoom struct {
	worker  *Worker
	run     store.Run
	request shutdown.Request
	purge   store.RoomPurge
	after   deleteRoomParameters
	catalog store.Catalog
	at      deleteRoomCheckpoint
}

func (w *Worker) newDeleteRoom(ctx context.Context, job store.Job, run store.Run) (*deleteRoom, error) {
	var parameters deleteRoomParameters
	if err := json.Unmarshal(job.Parameters, &parameters); err != nil {
		return nil, fmt.Errorf("decode the job's parameters: %w", err)
	}
	d := &deleteRoom{
		worker: w,
		run:    run,
		request: shutdown.Request{
			JobID: job.ID, Room: job.Room, Requester: job.Requester, Block: parameters.Block,
			NewRoomUser: parameters.NewRoomUserID, RoomName: parameters.NewRoomName, Message: parameters.Message,
		},
		purge: store.RoomPurge{Room: job.Room, ServerName: w.options.ServerName, Force: parameters.ForcePurge},
		after: parameters,
		at:    deleteRoomCheckpoint{Phase: phaseShuttingDown, Size: firstUsers},
	}
	if parameters.Abandoned {
		d.at = deleteRoomCheckpoint{Phase: phasePurging, Size: w.firstRows()}
	}
	if len(job.Checkpoint) > 0 && !bytes.Equal(job.Checkpoint, []byte("null")) {
		if err := json.Unmarshal(job.Checkpoint, &d.at); err != nil {
			return nil, fmt.Errorf("decode the job's checkpoint: %w", err)
		}
	}
	if !parameters.Purge {
		return d, nil
	}
	if w.options.Beside {
		return nil, errBeside
	}
	if parameters.Abandoned {
		if err := w.throttle(ctx, 0); err != nil {
			return nil, err
		}
	}
	if parameters.Abandoned && d.at.Batches == 0 {
		rule, _, err := w.abandonedRule(ctx)
		if err != nil {
			return nil, err
		}
		d.purge.Abandoned = &rule
	}
	// Before anybody is removed: a room that cannot be deleted is not half closed.
	var err error
	d.catalog, err = w.room.get(ctx)
	return d, err
}

func (d *deleteRoom) progress() any { return d.at }

// next does one step of the shutdown, or one batch of the purge.
func (d *deleteRoom) next(ctx context.Context) (done bool, err error) {
	switch d.at.Phase {
	case phaseShuttingDown:
		if !d.at.Done() {
			return false, d.nextShutdown(ctx)
		}
		if !d.after.Purge {
			return true, nil
		}
		return false, d.beginPurge(ctx)
	case phasePurging:
		return d.nextPurge(ctx)
	}
	return false, fmt.Errorf("the checkpoint has the unknown phase %q", d.at.Phase)
}

func (d *deleteRoom) nextShutdown(ctx context.Context) error {
	progress, step, err := d.worker.shutdown.Next(ctx, d.request, d.at.Progress, d.at.Size)
	if err != nil {
		return err
	}
	if step == nil {
		// That need not be written: a run that begins from the checkpoint before comes
		// to the same conclusion.
		d.at.Progress = progress
		return nil
	}
	return d.batch(ctx, func(ctx context.Context, batch store.Batch, move func(func(*deleteRoomCheckpoint, time.Duration)) any) error {
		return step(ctx, batch, func(progress shutdown.Progress) any {
			return move(func(at *deleteRoomCheckpoint, took time.Duration) {
				if progress.After != at.After { // a group of users was removed
					at.Size = min(d.worker.nextBatch(at.Size, 1, took), mostUsers)
				}
				at.Progress = progress
			})
		})
	})
}

// beginPurge ends the shutdown, and waits until the room may be purged. The wait
// is in the queue, so it costs nobody a place. That the purge has begun is written
// with its first batch.
func (d *deleteRoom) beginPurge(ctx context.Context) error {
	if d.after.PurgeDelay > 0 {
		now, err := d.worker.store.Now(ctx)
		switch {
		case err != nil:
			return err
		case d.at.PurgeAt == 0:
			return d.record(ctx, func(at *deleteRoomCheckpoint) { at.PurgeAt = now.UnixMilli() + d.after.PurgeDelay })
		case d.at.PurgeAt > now.UnixMilli():
			return errYield{reason: yieldPurgeDelay, after: time.UnixMilli(d.at.PurgeAt).Sub(now)}
		}
	}
	if err := d.worker.store.GuardRoom(ctx, d.purge); err != nil {
		return err
	}
	d.at.Phase, d.at.Size = phasePurging, d.worker.firstRows()
	return nil
}

// record is a batch that only moves the checkpoint.
func (d *deleteRoom) record(ctx context.Context, update func(*deleteRoomCheckpoint)) error {
	return d.batch(ctx, func(ctx context.Context, batch store.Batch, move func(func(*deleteRoomCheckpoint, time.Duration)) any) error {
		return d.worker.store.MoveCheckpoint(ctx, batch, move(func(at *deleteRoomCheckpoint, _ time.Duration) { update(at) }))
	})
}

func (d *deleteRoom) nextPurge(ctx context.Context) (done bool, err error) {
	d.purge.At = d.at.At
	if d.at.Batches > 0 {
		d.purge.Abandoned = nil // the room has vanished, and what it was judged by
	}
	step, err := d.worker.store.NextRoomStep(ctx, d.catalog, d.purge)
	if err != nil || step == nil {
		return err == nil, err
	}
	var rows int64
	err = d.batch(ctx, func(ctx context.Context, batch store.Batch, move func(func(*deleteRoomCheckpoint, time.Duration)) any) error {
		_, err := step(ctx, batch, d.catalog, d.size(), func(done store.RoomBatch) any {
			return move(func(at *deleteRoomCheckpoint, took time.Duration) {
				rows = done.Events + done.StateGroups
				at.At = done.At
				at.Size = d.worker.nextBatch(at.Size, leastEvents, took)
				at.EventsDeleted += done.Events
				at.RowsDeleted += done.Rows
				at.StateGroupsDeleted += done.StateGroups
				if done.RowWise != "" {
					at.RowWiseBatches++
					at.RowWiseWhy = done.RowWise
				}
			})
		})
		return err
	})
	if err != nil || !d.after.Abandoned {
		return false, err
	}
	return false, d.worker.throttle(ctx, rows)
}

// size is how much the next batch of the purge takes on, as that of a sweep's
// history purge.
func (d *deleteRoom) size() int {
	if rate := d.worker.options.RowsPerSecond; d.after.Abandoned && rate > 0 {
		return min(d.at.Size, rate)
	}
	return d.at.Size
}

// batch runs do under the room's lock, and moves on when it has committed. A step
// that commits twice moves twice.
func (d *deleteRoom) batch(ctx context.Context,
	do func(ctx context.Context, batch store.Batch, move func(update func(at *deleteRoomCheckpoint, took time.Duration)) any) error,
) error {
	next := d.at
	err := d.worker.inRoom(ctx, jobs.DeleteRoom, d.request.Room, d.run, func(ctx context.Context, batch store.Batch) error {
		started := time.Now()
		return do(ctx, batch, func(update func(*deleteRoomCheckpoint, time.Duration)) any {
			next = d.at
			next.Batches++
			update(&next, time.Since(started))
			return next
		})
	})
	if err == nil {
		d.worker.countDeleted(jobs.DeleteRoom, next.EventsDeleted-d.at.EventsDeleted, next.StateGroupsDeleted-d.at.StateGroupsDeleted,
			next.RowsDeleted-d.at.RowsDeleted, next.RowWiseBatches-d.at.RowWiseBatches)
		d.at = next
	}
	return err
}

// refusal is the text of an error that an API would have refused the job with,
// after the status that it would have answered; "" for any other.
func refusal(err error) string {
	for _, refused := range []error{store.ErrBeyondExtremities, store.ErrUsersJoined} {
		if errors.Is(err, refused) {
			return "400: " + refused.Error()
		}
	}
	if errors.Is(err, matrix.ErrTooLarge) {
		return "413: " + err.Error()
	}
	if errors.Is(err, shutdown.ErrRoomVersion) || errors.Is(err, shutdown.ErrUnsigned) || errors.Is(err, errBeside) {
		return "400: " + err.Error()
	}
	var refused *homeserver.Error
	if errors.As(err, &refused) {
		return fmt.Sprintf("%d: %s", refused.Status, refused.Text)
	}
	return ""
}
