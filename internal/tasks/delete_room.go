package tasks

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"lethe/internal/homeserver"
	"lethe/internal/jobs"
	"lethe/internal/matrix"
	"lethe/internal/pace"
	"lethe/internal/shutdown"
	"lethe/internal/store/extent"
	"lethe/internal/store/journal"
	"lethe/internal/store/leftover"
	"lethe/internal/store/purge"
	"lethe/internal/synapse"
)

// DeleteRoom is a request to shut a room down, and to delete it if Purge is set.
type DeleteRoom struct {
	Room string

	// Requester is the user id of the admin who requests it.
	Requester string

	// NewRoomUser is the user id of the local user who makes the room that replaces
	// this one; with "" no room replaces it. RoomName is the new room's name, and
	// Message the text of the message in it.
	NewRoomUser, RoomName, Message string

	// Block keeps local users from joining the room again.
	Block bool

	// Purge deletes the room after its shutdown. With ForcePurge, it does so even if
	// local users are still joined to the room, and at once. Without ForcePurge, a
	// delete fails before its first write if no user can leave the room. If the room has
	// members of other servers, it waits between shutdown and purge until the homeserver
	// has told these servers that our users have left, however long that takes.
	Purge, ForcePurge bool

	// PurgeDelay is the pause between shutdown and purge, in which clients learn that
	// their users have left.
	PurgeDelay time.Duration

	// Exclusive refuses the delete with [journal.ErrRoomBusy] while the room has an
	// open job of any kind. Otherwise only another delete refuses it, and it waits for
	// a history purge.
	Exclusive bool

	Acceptance
}

// SubmitDeleteRoom accepts a delete and returns its job's id. After an error it is
// not accepted. It fails with [journal.ErrRoomBusy] if the room has an open delete.
func (c *Client) SubmitDeleteRoom(ctx context.Context, request DeleteRoom) (id string, err error) {
	job := journal.Job{Kind: jobs.DeleteRoom, Room: request.Room, Requester: request.Requester}
	id, err = c.submit(ctx, job, request.Acceptance, request.parameters(), request.Exclusive)
	if err != nil {
		return "", fmt.Errorf("submit a room's delete: %w", err)
	}
	return id, nil
}

// IsOf reports whether a job does what is requested, for any requester.
func (d DeleteRoom) IsOf(job journal.Job) bool {
	var its deleteRoomParameters
	return job.Kind == jobs.DeleteRoom && job.Room == d.Room &&
		json.Unmarshal(job.Parameters, &its) == nil && its == d.parameters()
}

func (d DeleteRoom) parameters() deleteRoomParameters {
	return deleteRoomParameters{
		NewRoomUserID: d.NewRoomUser, NewRoomName: d.RoomName, Message: d.Message,
		Block: d.Block, Purge: d.Purge, ForcePurge: d.ForcePurge, PurgeDelay: d.PurgeDelay.Milliseconds(),
	}
}

// deleteRoomParameters are the parameters in the job's row. They have the names of
// Synapse's own task table. The delay is in milliseconds.
type deleteRoomParameters struct {
	NewRoomUserID string `json:"new_room_user_id,omitempty"`
	NewRoomName   string `json:"new_room_name,omitempty"`
	Message       string `json:"message,omitempty"`
	Block         bool   `json:"block"`
	Purge         bool   `json:"purge"`
	ForcePurge    bool   `json:"force_purge"`
	PurgeDelay    int64  `json:"purge_delay_ms,omitempty"`

	// Abandoned says that a sweep has made the delete. No local user is in the room, so
	// it is not shut down. If the room is no longer abandoned when the delete begins,
	// it stays.
	Abandoned bool `json:"abandoned,omitempty"`

	// Sweep is the job id of that sweep, which checks at its end what its deletes have
	// left.
	Sweep string `json:"sweep,omitempty"`
}

// The phases of a delete, in order.
const (
	phaseShuttingDown = "shutting_down"
	phasePurging      = "purging"
)

// deleteRoomCheckpoint is the checkpoint of a delete.
type deleteRoomCheckpoint struct {
	Phase string `json:"phase"`
	shutdown.Progress

	// PurgeAt is the time from which the purge may begin, in Unix milliseconds of
	// PostgreSQL's clock. It is 0 before the shutdown has ended, and without a delay.
	PurgeAt int64 `json:"purge_at,omitempty"`

	// LeavesAt is the place in the stream of events that the homeserver's federation must
	// reach before the purge may begin. It is 0 before the shutdown has ended, and if no
	// other server has users in the room.
	LeavesAt int64 `json:"leaves_at,omitempty"`

	// QuietAt is the time from which the room may vanish, and after that the time from
	// which its other rows may go, in Unix milliseconds of PostgreSQL's clock: see
	// [deleteRoom.quieten]. It is 0 before the first of these waits, and if nothing has to
	// be waited for.
	QuietAt int64 `json:"quiet_at,omitempty"`

	// Hidden says that the room has vanished for its users. Other rows of it may be left.
	Hidden bool `json:"hidden,omitempty"`

	// LookAt is the time of the last look for rows that Synapse has written meanwhile, in
	// Unix milliseconds of PostgreSQL's clock. It is 0 before the room's own row is gone,
	// and if synapse_beside says that no Synapse runs.
	LookAt int64 `json:"look_at,omitempty"`

	// Returns is how often users have joined again after the shutdown.
	Returns int `json:"returns,omitempty"`

	// Task is the id of the task with which Synapse deletes what Lethe has left of the
	// room, "" if it is not asked. From is the depth up to which Lethe has purged the room
	// before, nil at the beginning.
	Task string `json:"task,omitempty"`
	From *int64 `json:"from,omitempty"`

	// Size is the size of the next batch: in users, and then in events.
	Size int `json:"size"`

	// At is the position in the room where the next batch goes on.
	At purge.RoomPosition `json:"at"`

	tally
	RowsDeleted int64 `json:"rows_deleted"`

	// Sample is some of what was deleted, and Report what the check has found after the
	// delete, nil before.
	Sample leftover.Sample `json:"sample,omitzero"`
	*leftover.Report
}

// A DeleteStatus is the status of a delete without the job's state.
type DeleteStatus struct {
	// Phase is "shutting_down" or "purging"; "" before it has begun.
	Phase string `json:"phase"`

	// Shutdown is the result of the shutdown so far. Its lists are never nil.
	Shutdown shutdown.Result `json:"shutdown_room"`

	// Report is what the delete has left, nil before the check at its end.
	*leftover.Report
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

// deleteRoom is the work of a delete.
type deleteRoom struct {
	worker     *Worker
	run        journal.Run
	request    shutdown.Request
	parameters deleteRoomParameters
	at         deleteRoomCheckpoint

	// room deletes the room. It is nil if the room is only shut down.
	room *purge.Room

	// keptOut is the room's lock at Synapse while its rows are deleted, nil before.
	keptOut *synapse.Lock

	// paused says that the run has left the locks on purpose.
	paused bool
}

func (w *Worker) newDeleteRoom(ctx context.Context, job journal.Job, run journal.Run) (work, error) {
	var parameters deleteRoomParameters
	if err := json.Unmarshal(job.Parameters, &parameters); err != nil {
		return nil, fmt.Errorf("decode the job's parameters: %w", err)
	}
	d := &deleteRoom{
		worker: w,
		run:    run,
		request: shutdown.Request{
			JobID: job.ID, Room: job.Room, Requester: job.Requester, Block: parameters.Block,
			Force: parameters.ForcePurge, NewRoomUser: parameters.NewRoomUserID, RoomName: parameters.NewRoomName, Message: parameters.Message,
		},
		parameters: parameters,
		at:         deleteRoomCheckpoint{Phase: phaseShuttingDown, Size: w.pace.First(pace.Users)},
	}
	if parameters.Abandoned {
		d.at = deleteRoomCheckpoint{Phase: phasePurging, Size: w.pace.First(pace.Rows)}
	}
	if err := decodeCheckpoint(job, &d.at); err != nil {
		return nil, err
	}
	// The checks of tables come before any user is removed, so that a room which cannot
	// be shut down or deleted is not half shut down. Where a homeserver shuts the room
	// down, Lethe writes no events.
	if !w.options.HomeserverRuns && d.at.Phase == phaseShuttingDown && !d.at.Done() {
		if err := w.purger.CheckShutdown(ctx); err != nil {
			return nil, err
		}
		if err := d.mayWriteEvents(ctx); err != nil {
			return nil, err
		}
	}
	if !parameters.Purge {
		return d, nil
	}
	if err := w.awaitTasks(ctx, job.Room, d.at.Task); err != nil {
		return nil, err
	}
	request := purge.RoomRequest{Room: job.Room, ServerName: w.options.ServerName, Force: parameters.ForcePurge}
	if err := w.throttle(ctx, jobs.DeleteRoom, parameters.Abandoned, 0, nil); err != nil {
		return nil, err
	}
	_ = extent.RecordDelete(ctx, w.db, job, run) // nothing depends on it
	if parameters.Abandoned && d.at.Batches == 0 {
		rule, _, err := w.sweeper.AbandonedRule(ctx)
		if err != nil {
			return nil, err
		}
		request.Abandoned = &rule
	}
	var err error
	d.room, err = w.purger.Room(ctx, request)
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
		if !d.parameters.Purge {
			return true, nil
		}
		return false, d.beginPurge(ctx)
	case phasePurging:
		return d.nextPurge(ctx)
	}
	return false, fmt.Errorf("the checkpoint has the unknown phase %q", d.at.Phase)
}

func (d *deleteRoom) nextShutdown(ctx context.Context) error {
	plan, err := d.worker.shutdown.Plan(ctx, d.request, d.at.Progress, d.at.Size)
	var refused *shutdown.Refusal
	if errors.As(err, &refused) {
		// The status names the users. Nothing else is written.
		next := d.at
		next.Result = refused.Result
		return cmp.Or(d.record(ctx, next), err)
	}
	if err != nil {
		return err
	}
	if plan.At.Done() {
		// This need not be stored: a run that begins from the previous checkpoint comes
		// to the same result.
		d.at.Progress = plan.At
		return nil
	}
	return d.shutDown(ctx, plan)
}

// shutDown does one step of the shutdown.
func (d *deleteRoom) shutDown(ctx context.Context, plan shutdown.Plan) (err error) {
	ctx, b, err := d.begin(ctx)
	if err != nil {
		return err
	}
	defer b.end(&err)
	progress, err := d.worker.shutdown.Do(ctx, b.Batch, d.request, plan)
	if err != nil {
		return err
	}
	next := d.at
	if progress.After != next.After { // a group of users was removed
		next.Size = d.worker.pace.Next(pace.Batch{Work: pace.Users, Planned: next.Size, Size: next.Size, Took: b.took()})
	}
	next.Progress = progress
	return d.commit(ctx, b, next)
}

// beginPurge ends the shutdown, and waits until the room may be purged. The job
// waits in the queue, so it occupies neither a worker nor the room. Its first batch
// records that the purge has begun.
func (d *deleteRoom) beginPurge(ctx context.Context) error {
	next := d.at
	if next.LeavesAt == 0 {
		var err error
		if next.LeavesAt, err = d.leavesPlace(ctx); err != nil {
			return err
		}
	}
	if d.parameters.PurgeDelay > 0 {
		now, err := d.worker.db.Now(ctx)
		switch {
		case err != nil:
			return err
		case d.at.PurgeAt == 0:
			next.PurgeAt = now.UnixMilli() + d.parameters.PurgeDelay
		case d.at.PurgeAt > now.UnixMilli():
			return jobs.YieldError{Reason: jobs.YieldPurgeDelay, After: time.UnixMilli(d.at.PurgeAt).Sub(now)}
		}
	}
	if next.LeavesAt != d.at.LeavesAt || next.PurgeAt != d.at.PurgeAt {
		return d.record(ctx, next)
	}
	if err := d.awaitLeaves(ctx); err != nil {
		return err
	}
	switch err := d.room.Guard(ctx); {
	case errors.Is(err, purge.ErrUsersJoined):
		return d.removeReturned(ctx, err)
	case err != nil:
		return err
	}
	d.at.Phase, d.at.Size = phasePurging, d.worker.pace.First(pace.Rows)
	return nil
}

// record commits a batch that only moves the checkpoint.
func (d *deleteRoom) record(ctx context.Context, next deleteRoomCheckpoint) (err error) {
	ctx, b, err := d.begin(ctx)
	if err != nil {
		return err
	}
	defer b.end(&err)
	return d.commit(ctx, b, next)
}

func (d *deleteRoom) nextPurge(ctx context.Context) (done bool, err error) {
	if d.at.Batches > 0 {
		d.room.Abandoned = nil // the rows that the rule reads are gone
	}
	if handed, err := d.handOver(ctx); err != nil || handed {
		return false, err
	}
	if err := d.quieten(ctx); err != nil {
		return false, err
	}
	if back, err := d.awaitLook(ctx); err != nil || back {
		return back, err
	}
	parts, err := d.room.Next(ctx, d.at.At)
	if err != nil {
		return false, err
	}
	if len(parts) == 0 {
		if more, err := d.endBeside(ctx); err != nil || more {
			return false, err
		}
		d.checkLeft(ctx)
		return true, nil
	}
	rows, err := d.deleteParts(ctx, parts)
	if errors.Is(err, purge.ErrUsersJoined) && d.at.EventsDeleted+d.at.RowsDeleted == 0 {
		return false, d.removeReturned(ctx, err)
	}
	return false, d.worker.throttle(ctx, jobs.DeleteRoom, d.parameters.Abandoned, rows, err)
}

// deleteParts deletes a batch of the room, and returns the number of deleted events
// and state groups.
func (d *deleteRoom) deleteParts(ctx context.Context, parts purge.Parts) (rows int64, err error) {
	ctx, b, err := d.begin(ctx)
	if err != nil {
		return 0, err
	}
	defer b.end(&err)
	if err := d.keepOut(ctx, b); err != nil {
		return 0, err
	}
	if d.mayBeRead() && parts.Show() && !d.at.Hidden {
		parts = parts[:1] // the others go after a pause
	}
	size := d.size(pace.Rows)
	done, err := d.room.Delete(ctx, b.Batch, parts, d.at.At, size)
	if err != nil {
		return 0, err
	}
	next := d.at
	next.At = done.At
	next.EventsDeleted += done.Events
	next.RowsDeleted += done.Rows
	next.StateGroupsDeleted += done.StateGroups
	next.Sample = next.Sample.With(done.Sample)
	next.rowWise(done.RowWise)
	next.Size = d.worker.pace.Next(pace.Batch{
		Work: pace.Rows, Planned: next.Size, Size: size, Done: max(done.Events, done.StateGroups, done.Rows/purge.RowsPerEvent), Took: b.took(),
	})
	return done.Events + done.StateGroups, d.commitDeleted(ctx, b, next, parts.Show() || done.Gone, done.Gone)
}

// size returns the size of the next batch of the purge, limited as in
// [purgeHistory.size].
func (d *deleteRoom) size(work pace.Work) int {
	return d.worker.size(work, jobs.DeleteRoom, d.parameters.Abandoned, d.request.Room, d.at.Size)
}

func (d *deleteRoom) begin(ctx context.Context) (context.Context, *roomBatch, error) {
	return d.worker.begin(ctx, jobs.DeleteRoom, d.request.Room, d.run)
}

// commit commits a batch with the checkpoint after it.
func (d *deleteRoom) commit(ctx context.Context, b *roomBatch, next deleteRoomCheckpoint) error {
	return d.commitBeside(ctx, b, next, ending{})
}

func (d *deleteRoom) commitBeside(ctx context.Context, b *roomBatch, next deleteRoomCheckpoint, end ending) error {
	next.Batches++
	if err := b.commitBeside(ctx, next, end); err != nil {
		return err
	}
	d.worker.countDeleted(jobs.DeleteRoom, d.at.tally, next.tally, next.RowsDeleted-d.at.RowsDeleted)
	d.at = next
	return nil
}

// refusal returns the text of an error for which an API would have refused the job,
// with the HTTP status in front. It returns "" for any other error.
func refusal(err error) string {
	var stays *shutdown.StayError
	if errors.As(err, &stays) {
		return "400: " + stays.Error()
	}
	for _, refused := range []error{purge.ErrBeyondExtremities, purge.ErrPartialState, purge.ErrUsersJoined} {
		if errors.Is(err, refused) {
			return "400: " + refused.Error()
		}
	}
	if errors.Is(err, matrix.ErrTooLarge) {
		return "413: " + err.Error()
	}
	var refusal *shutdown.Refusal
	if errors.As(err, &refusal) || errors.Is(err, shutdown.ErrRoomVersion) || errors.Is(err, shutdown.ErrUnsigned) {
		return "400: " + err.Error()
	}
	var refused *homeserver.Error
	if errors.As(err, &refused) {
		return fmt.Sprintf("%d: %s", refused.Status, refused.Text)
	}
	return ""
}
