package tasks

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"strings"
	"time"

	"lethe/internal/jobs"
	"lethe/internal/pace"
	"lethe/internal/store/beside"
	"lethe/internal/store/expiry"
	"lethe/internal/store/postgres"
	"lethe/internal/store/purge"
	"lethe/internal/store/roomwriter"
	"lethe/internal/store/scheduledtasks"
	"lethe/internal/synapse"
	"lethe/internal/wait"
)

// awaitedTask is how long Synapse may take to run its task, until Lethe no longer cares
// for receipts that are written meanwhile.
const awaitedTask = 5 * time.Minute

// maxReturns bounds how often a delete removes users who have joined again. A room
// that is blocked cannot be joined.
const maxReturns = 10

// mayWriteEvents fails with a [synapse.Waiting] while a Synapse is present and the room
// has users here: Lethe cannot write events into its rooms.
func (d *deleteRoom) mayWriteEvents(ctx context.Context) error {
	w := d.worker
	present, why, err := w.options.Synapse.Present(ctx)
	if err != nil || !present {
		return err
	}
	members, err := roomwriter.LocalMembers(ctx, w.db, d.request.Room, "", 1)
	if err == nil && (len(members) > 0 || d.request.NewRoomUser != "") {
		err = &synapse.Waiting{Reason: "Synapse runs (" + why + "), so that only it can make users leave the room: " +
			"set homeserver.url and homeserver.as_token"}
	}
	return err
}

// removeReturned goes back to the shutdown, to remove users who have joined since, which a
// running homeserver lets them do. It returns the error after [maxReturns] times.
func (d *deleteRoom) removeReturned(ctx context.Context, joined error) error {
	if !d.worker.options.HomeserverRuns || d.parameters.Abandoned || d.at.Returns >= maxReturns {
		return d.at.Explain(joined)
	}
	// The homeserver cannot make anybody leave while the room is locked.
	d.releaseRoom(ctx)
	next := d.at
	next.Phase, next.Size, next.Returns = phaseShuttingDown, d.worker.pace.First(pace.Users), d.at.Returns+1
	next.Progress, next.LeavesAt, next.QuietAt = d.at.Again(), 0, 0
	return d.record(ctx, next)
}

// keepOut locks the room at Synapse, unless that was done before, until its rows are
// deleted: neither old nor new events may be added to it.
func (d *deleteRoom) keepOut(ctx context.Context, b *roomBatch) (err error) {
	if !d.worker.beside() {
		return nil
	}
	if d.keptOut != nil && d.keptOut.Lost() {
		return beside.ErrLockLost
	}
	if d.keptOut == nil {
		d.keptOut, err = d.worker.options.Synapse.Lock(ctx, d.lock(), senderPatience, "is adding events to the room, or fetching older ones")
	}
	b.synapse = d.keptOut
	if err != nil || d.at.LookAt == 0 {
		return err
	}
	// No user can join the room from now on.
	back, err := purge.RoomExists(ctx, b, d.request.Room)
	if err == nil && back {
		err = errRoomIsBack
	}
	return err
}

// errRoomIsBack ends a batch of the last look: the next one sees that the room is back.
var errRoomIsBack = jobs.YieldError{Reason: jobs.YieldSynapse, After: mappingsLook, WaitsFor: "waiting: somebody joins the room on another server"}

const (
	// quietTime is the pause of quieten, in which locks are not renewed.
	quietTime = 5 * time.Second

	// lockedFrom is how often users must have come back until the room is locked during
	// the pause. Their requests then wait for as long.
	lockedFrom = 3
)

// quieten lets some time pass before the room vanishes, when users have been removed:
// their clients ask Synapse at once what has changed, and Synapse fails if the room's
// rows go while it answers. It does so once more when the room has vanished, for requests
// that had begun before. The job waits in the queue. Users may come back meanwhile. If
// they do so again and again, the room is locked at Synapse, and the next run of the job
// takes over the locks.
func (d *deleteRoom) quieten(ctx context.Context) error {
	w := d.worker
	switch {
	case !d.mayBeRead() || d.at.LookAt != 0:
		return nil
	case d.at.QuietAt == 0:
		err := d.beginQuiet(ctx)
		if errors.Is(err, purge.ErrUsersJoined) {
			return d.removeReturned(ctx, err)
		}
		if err != nil {
			return err
		}
	}
	now, err := w.db.Now(ctx)
	if err != nil {
		return err
	}
	at := time.UnixMilli(d.at.QuietAt)
	if !now.Before(at) {
		return nil
	}
	if d.keptOut != nil {
		d.keptOut.Leave()
		d.keptOut = nil
	}
	d.paused = true
	if d.at.Hidden {
		return jobs.YieldError{
			Reason: jobs.YieldSynapse, After: at.Sub(now),
			WaitsFor: "waiting: Synapse ends what it reads of the room, which no new request finds",
		}
	}
	return jobs.YieldError{
		Reason: jobs.YieldSynapse, After: at.Sub(now),
		WaitsFor: "waiting: the clients of the removed users learn that they have left",
	}
}

// readTime is the pause after the batch that hides the room. A read of the room that has
// begun before it needs rows that the next batches delete.
const readTime = 2 * time.Second

// mayBeRead reports whether Synapse may be reading the room for users who have just been
// removed.
func (d *deleteRoom) mayBeRead() bool {
	return d.worker.beside() && d.worker.options.HomeserverRuns && len(d.at.Result.KickedUsers) > 0
}

// beginQuiet commits when the room may vanish. If it locks the room, it fails with
// [purge.ErrUsersJoined] if a user has come back before.
func (d *deleteRoom) beginQuiet(ctx context.Context) (err error) {
	ctx, b, err := d.begin(ctx)
	if err != nil {
		return err
	}
	defer b.end(&err)
	if d.at.Returns >= lockedFrom {
		if err := d.keepOut(ctx, b); err != nil {
			return err
		}
		if err := d.room.Guard(ctx); err != nil {
			return err
		}
	}
	now, err := d.worker.db.Now(ctx)
	if err != nil {
		return err
	}
	next := d.at
	next.QuietAt = now.Add(min(d.worker.options.MappingDelay, quietTime)).UnixMilli()
	return d.commit(ctx, b, next)
}

// lock is the room's lock at Synapse while it is deleted.
func (d *deleteRoom) lock() beside.RoomLock {
	return beside.RoomLock{Room: d.request.Room, Token: d.run.JobID, Names: []beside.LockName{beside.BackfillLock, beside.NewEventLock}}
}

// commitDeleted commits a batch. Synapse is told of the one after which the room is gone
// for its users, and of the one that has deleted the room's own row: it may have cached
// something in between.
func (d *deleteRoom) commitDeleted(ctx context.Context, b *roomBatch, next deleteRoomCheckpoint, tell, gone bool) error {
	var end ending
	if tell {
		end = ending{caches: beside.DeletedRoom, urgent: true}
	}
	if !d.worker.beside() {
		return d.commitBeside(ctx, b, next, end)
	}
	now, err := d.worker.db.Now(ctx)
	if err != nil {
		return err
	}
	if tell && !gone && !d.at.Hidden {
		next.Hidden = true
		if d.mayBeRead() {
			next.QuietAt = now.Add(min(d.worker.options.MappingDelay, readTime)).UnixMilli()
		}
	}
	if gone {
		// From here on a run that comes much later must not delete a room that is back.
		next.LookAt = now.UnixMilli()
		if b.way != synapse.Nothing && !d.parameters.Abandoned {
			next.LookAt = now.Add(d.worker.options.MappingDelay).UnixMilli()
			end.last = append(end.last, beside.AwaitReceipts(d.request.Room, d.worker.options.MappingDelay))
		}
	}
	return d.commitBeside(ctx, b, next, end)
}

// awaitLook waits until it is time for the last look, for receipts of clients that have not
// learned yet that the room is gone: Synapse writes them without a lock. It reports back
// if somebody has brought the room back since, by joining it on another server. Then
// nothing more of it may be deleted.
func (d *deleteRoom) awaitLook(ctx context.Context) (back bool, err error) {
	if d.at.LookAt == 0 {
		return false, nil
	}
	now, err := d.worker.db.Now(ctx)
	if err != nil {
		return false, err
	}
	if at := time.UnixMilli(d.at.LookAt); now.Before(at) {
		d.releaseLater(ctx)
		return false, jobs.YieldError{
			Reason: jobs.YieldSynapse, After: at.Sub(now) + mappingsLook,
			WaitsFor: "waiting: the room is gone, and its clients may still send receipts for some seconds",
		}
	}
	return purge.RoomExists(ctx, d.worker.db, d.request.Room)
}

// endBeside ends what the delete has begun for Synapse, and reports whether the room may
// have rows again.
func (d *deleteRoom) endBeside(ctx context.Context) (more bool, err error) {
	w := d.worker
	if !w.beside() {
		return false, nil
	}
	// Purges of the room may have left mappings, whose state groups are candidates then.
	waited, err := beside.EndDelay(ctx, w.db, d.request.Room)
	if err == nil && waited {
		// The sweep leaves the mappings of a held room, for as long as it is held.
		err = w.holds.Check(ctx, d.request.Room)
	}
	if err != nil || waited {
		return true, cmp.Or(err, w.options.Synapse.SweepDue(ctx, d.request.Room))
	}
	d.releaseLater(ctx)
	return false, nil
}

// handOver lets Synapse delete the end of the room, and reports whether there is more to
// do for that. Without Redis Synapse cannot be told that a room is gone, and would go on
// with what it has in its memory. So Lethe purges the room's history, which is most of
// it, and Synapse deletes what is left by a task of its own.
func (d *deleteRoom) handOver(ctx context.Context) (more bool, err error) {
	w := d.worker
	if d.at.LookAt != 0 {
		return false, nil
	}
	if err := w.holds.Check(ctx, d.request.Room); err != nil {
		return false, err
	}
	if d.at.Task != "" {
		return d.awaitTask(ctx)
	}
	way, err := w.ready(ctx)
	if err != nil || way != synapse.ByTask {
		return false, err
	}
	if present, _, err := w.options.Synapse.Present(ctx); err != nil || !present {
		return false, err
	}
	before, err := beside.LowestExtremity(ctx, w.db, d.request.Room)
	if errors.Is(err, postgres.ErrNotFound) {
		return true, d.requestTask(ctx)
	}
	if err != nil {
		return false, err
	}
	history, err := w.purger.History(ctx, purge.HistoryRequest{
		Room: d.request.Room, Before: before, DeleteLocal: true, ServerName: w.options.ServerName, KeepMappings: true,
	})
	if err != nil {
		return false, err
	}
	from := int64(math.MinInt64)
	if d.at.From != nil {
		from = *d.at.From
	}
	switch from, err = history.NextDepth(ctx, from); {
	case errors.Is(err, postgres.ErrNotFound):
		return true, d.requestTask(ctx)
	case err != nil:
		return false, err
	}
	rows, err := d.purgeHistory(ctx, history, from)
	if errors.Is(err, purge.ErrPartialState) { // only Synapse can delete such a room
		return true, d.requestTask(ctx)
	}
	return true, w.throttle(ctx, jobs.DeleteRoom, d.parameters.Abandoned, rows, err)
}

// purgeHistory purges a batch of the room's history from the given depth, and returns the
// number of its events, kept ones included.
func (d *deleteRoom) purgeHistory(ctx context.Context, history *purge.History, from int64) (rows int64, err error) {
	ctx, b, err := d.begin(ctx)
	if err != nil {
		return 0, err
	}
	defer b.end(&err)
	if err := d.guardAbandoned(ctx, b); err != nil {
		return 0, err
	}
	if err := b.keepOut(ctx); err != nil {
		return 0, err
	}
	size := d.size(pace.Events)
	done, err := history.Purge(ctx, b.Batch, from, size)
	if err != nil {
		return 0, err
	}
	next := d.at
	next.From = &done.Cut
	next.EventsDeleted += done.Deleted
	next.rowWise(done.RowWise)
	next.Size = d.worker.pace.Next(pace.Batch{Work: pace.Events, Planned: next.Size, Size: size, Done: done.Deleted + done.Kept, Took: b.took()})
	return done.Deleted + done.Kept, d.commitBeside(ctx, b, next, ending{delayed: done.Deleted+done.Kept > 0})
}

// guardAbandoned fails with [expiry.ErrNotAbandoned] if the room had to be abandoned and is
// not.
func (d *deleteRoom) guardAbandoned(ctx context.Context, b *roomBatch) error {
	if d.room.Abandoned == nil {
		return nil
	}
	return expiry.GuardAbandoned(ctx, b, d.request.Room, *d.room.Abandoned)
}

// requestTask asks Synapse to delete what is left of the room.
func (d *deleteRoom) requestTask(ctx context.Context) (err error) {
	ctx, b, err := d.begin(ctx)
	if err != nil {
		return err
	}
	defer b.end(&err)
	if err := d.guardAbandoned(ctx, b); err != nil {
		return err
	}
	next := d.at
	next.Task = jobs.NewID()
	task := beside.TaskRequest{
		ID: next.Task, Action: scheduledtasks.PurgeRoom, Room: d.request.Room,
		Parameters: map[string]bool{"force": d.parameters.ForcePurge},
	}
	if err := beside.RequestTask(ctx, b, task); err != nil {
		return err
	}
	return d.commitBeside(ctx, b, next, ending{last: []postgres.Statement{
		beside.ForgetRedactions(d.request.Room), beside.AwaitReceipts(d.request.Room, awaitedTask),
	}})
}

// errTaskForgotten is returned for a delete of which only Synapse knew the end. The room
// may be another one by now, so the admin has to decide.
var errTaskForgotten = fmt.Errorf("%w: its row is gone, and the room is there: delete the room again, if it should go", beside.ErrTaskFailed)

// awaitTask waits until Synapse has done its part. Then Lethe deletes what Synapse
// leaves of a room.
func (d *deleteRoom) awaitTask(ctx context.Context) (more bool, err error) {
	switch ended, err := beside.TaskEnded(ctx, d.worker.db, d.at.Task); {
	case errors.Is(err, postgres.ErrNotFound): // Synapse forgets its tasks after a week
		there, err := purge.RoomExists(ctx, d.worker.db, d.request.Room)
		if err == nil && there {
			// Either it was never run, or somebody has joined the room again since.
			err = errTaskForgotten
		}
		if err != nil {
			return false, err
		}
	case errors.Is(err, beside.ErrTaskFailed) && strings.Contains(err.Error(), purge.ErrUsersJoined.Error()):
		d.at.Task = ""
		return true, d.removeReturned(ctx, purge.ErrUsersJoined)
	case err != nil:
		return false, err
	case !ended:
		return false, jobs.YieldError{
			Reason: jobs.YieldSynapse, After: wait.Jitter(taskWait),
			WaitsFor: "waiting: Synapse has to run its task " + d.at.Task + ", which deletes what is left of the room",
		}
	}
	now, err := d.worker.db.Now(ctx)
	if err != nil {
		return false, err
	}
	next := d.at
	next.LookAt = now.Add(d.worker.options.MappingDelay).UnixMilli()
	return true, d.record(ctx, next)
}

// leave releases the room at Synapse, unless another run of the job takes over soon.
func (d *deleteRoom) leave(ctx context.Context, resumes bool) {
	switch {
	case d.keptOut != nil && resumes:
		d.keptOut.Leave()
	case d.keptOut != nil:
		d.releaseRoom(ctx)
	case d.at.QuietAt != 0 && d.at.LookAt == 0 && !d.paused && !resumes:
		// The run before this one has left the locks, and this one has not got to them.
		d.worker.options.Synapse.Unlock(ctx, d.lock())
	}
}

// releaseLater releases the room when Synapse has had time to clear its caches.
func (d *deleteRoom) releaseLater(ctx context.Context) {
	if d.keptOut != nil {
		d.keptOut.ReleaseLater(ctx, clearTime)
		d.keptOut = nil
	}
}

func (d *deleteRoom) releaseRoom(ctx context.Context) {
	if d.keptOut != nil {
		d.keptOut.Release(ctx)
		d.keptOut = nil
	}
}
