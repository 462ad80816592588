package tasks

import (
	"context"
	"errors"
	"math"
	"time"

	"lethe/internal/jobs"
	"lethe/internal/matrix"
	"lethe/internal/store/beside"
	"lethe/internal/store/postgres"
	"lethe/internal/store/purge"
	"lethe/internal/store/scheduledtasks"
	"lethe/internal/synapse"
	"lethe/internal/wait"
)

const (
	// backfillPatience bounds the wait for Synapse to end fetching older events of the
	// room. Meanwhile the batch keeps the room's own lock, for which readers wait.
	backfillPatience = 2 * time.Second

	// senderPatience bounds the wait for a moment in which nothing is added to a room
	// that is being deleted. Its users have left by then.
	senderPatience = 5 * time.Second

	// clearTime is how long Synapse gets to clear its caches of a deleted room before
	// others may add to the room again.
	clearTime = 300 * time.Millisecond

	// commitTime bounds the time between the last statement of a batch that delays
	// mappings and its commit. Their delay begins after it.
	commitTime = 2 * time.Second
)

// beside reports whether jobs do what a running Synapse needs.
func (w *Worker) beside() bool { return w.options.Synapse.Beside() }

// ready returns how Synapse learns of a batch. It fails with a [synapse.Waiting] if
// nothing may be deleted now.
func (w *Worker) ready(ctx context.Context) (synapse.Way, error) {
	return w.options.Synapse.Ready(ctx)
}

// keepOut locks the room at Synapse until the batch ends, against the fetching of older
// events. It does nothing if no Synapse is assumed.
func (b *roomBatch) keepOut(ctx context.Context) (err error) {
	if !b.worker.beside() {
		return nil
	}
	lock := beside.RoomLock{Room: b.Room(), Token: b.JobID(), Names: []beside.LockName{beside.BackfillLock}}
	b.synapse, err = b.worker.options.Synapse.Lock(ctx, lock, backfillPatience, "is backfilling the room")
	b.owned = err == nil
	return err
}

// An ending is what a batch does last, for Synapse.
type ending struct {
	// Delayed keeps the mappings of the events that the batch has selected.
	delayed bool

	// caches is what the batch makes stale, "" for nothing. urgent says that Synapse
	// must hear of it at once.
	caches beside.CacheFunc
	urgent bool

	// last are further statements.
	last []postgres.Statement
}

// commitBeside commits the batch with the checkpoint after it, and tells Synapse what
// has become stale.
func (b *roomBatch) commitBeside(ctx context.Context, checkpoint any, end ending) error {
	if !b.worker.beside() {
		return b.commit(ctx, checkpoint)
	}
	// These come after the wait for others that invalidate: the delay counts from the
	// commit, and the lock must be held until then.
	var last []postgres.Statement
	if end.delayed {
		delay := beside.Delay{
			Room: b.Room(), Job: b.JobID(), Events: purge.SelectedEvents, For: b.worker.options.MappingDelay, Commit: commitTime,
			Unconfirmed: b.way == synapse.ByTask, Told: end.caches != "",
		}
		last = append(last, delay.Statements()...)
	}
	if b.synapse != nil {
		last = append(last, b.synapse.Check())
	}
	last = append(last, end.last...)
	if end.caches != "" {
		last = append([]postgres.Statement{beside.MarkTold(b.Room())}, beside.Invalidate(end.caches, b.Room(), &b.told, last...)...)
	}
	if err := b.commit(ctx, checkpoint, last...); err != nil {
		return err
	}
	b.worker.options.Synapse.Tell(ctx, b.told, end.urgent)
	return nil
}

// lowestExtremity returns the depth of the room's lowest forward extremity, or the
// highest depth if that does not matter.
func (p *purgeHistory) lowestExtremity(ctx context.Context, b *roomBatch) (int64, error) {
	if b.way == synapse.Nothing {
		return math.MaxInt64, nil
	}
	lowest, err := beside.LowestExtremity(ctx, b, p.purge.Room)
	if errors.Is(err, postgres.ErrNotFound) {
		return math.MaxInt64, nil
	}
	return lowest, err
}

// tellPause is the shortest time between two invalidations of one purge. Each clears
// caches of all rooms.
const tellPause = 2 * time.Second

// tell returns what a batch that has purged the rows does for Synapse.
func (p *purgeHistory) tell(rows int64, extremityGone bool) ending {
	if !p.worker.beside() || rows == 0 {
		return ending{}
	}
	end := ending{delayed: true, urgent: extremityGone}
	if extremityGone || time.Since(p.toldAt) >= tellPause {
		end.caches = beside.PurgedHistory
	}
	return end
}

// leaveLast leaves the highest level that the purge selects to Synapse. Without Redis
// that is the only way to make it forget the events: a purge of its own clears its
// caches, but only if it finds an event to purge.
func (p *purgeHistory) leaveLast(ctx context.Context) error {
	last, err := p.purge.LastDepth(ctx)
	if errors.Is(err, postgres.ErrNotFound) {
		return nil
	}
	if err == nil {
		p.left, p.purge.Before, p.at.Left = true, last, true
	}
	return err
}

// takeBack lets Lethe purge the level that an earlier run has left to Synapse, if the
// settings have changed since: nothing would ask Synapse for it any more.
func (p *purgeHistory) takeBack() {
	if p.at.Left && p.way != synapse.ByTask {
		p.at.Left, p.untold = false, true
		p.at.Phase, p.at.From, p.at.Late = phaseEvents, nil, false
	}
}

const (
	// taskWait is about how long a job waits in the queue before it looks again at the
	// task that Synapse runs for it. Synapse looks for tasks once a minute.
	taskWait = 5 * time.Second

	// mappingsLook is added to the wait for the mappings of a purge, so that one look suffices.
	mappingsLook = 500 * time.Millisecond
)

// nextMappings waits until the mappings of the purged events are gone. Meanwhile the
// job is in the queue.
func (p *purgeHistory) nextMappings(ctx context.Context) error {
	w := p.worker
	if !w.beside() {
		p.at.Phase = phaseStateGroups
		return nil
	}
	if err := w.holds.Check(ctx, p.purge.Room); err != nil {
		return err
	}
	if p.untold {
		if err := p.tellRest(ctx); err != nil {
			return err
		}
	}
	backlog, err := beside.BacklogOf(ctx, w.db, p.purge.Room, w.options.MappingDelay+commitTime)
	switch {
	case err != nil:
		return err
	case p.left || backlog.Unconfirmed:
		return p.confirm(ctx)
	case backlog.Batches == 0:
		p.at.Phase = phaseStateGroups
		return nil
	case backlog.Until > 0:
		return jobs.YieldError{
			Reason: jobs.YieldMappings, After: backlog.Until + mappingsLook, Checkpoint: p.at,
			WaitsFor: "waiting: Synapse may still need the states of the purged events for some seconds",
		}
	}
	if p.sweeps++; p.sweeps > 1 {
		return jobs.YieldError{
			Reason: jobs.YieldMappings, After: mappingsLook, Checkpoint: p.at,
			WaitsFor: "waiting: another worker deletes the mappings of the purged events",
		}
	}
	return w.options.Synapse.SweepDue(ctx, p.purge.Room)
}

// tellRest tells Synapse of the last batches of the purge.
func (p *purgeHistory) tellRest(ctx context.Context) (err error) {
	ctx, b, err := p.worker.begin(ctx, jobs.PurgeHistory, p.purge.Room, p.run)
	if err != nil {
		return err
	}
	defer b.end(&err)
	return p.commit(ctx, b, p.at, ending{caches: beside.PurgedHistory})
}

// confirm lets Synapse purge the level that is left for it, and waits until it has. If
// no Synapse is present, no process remembers the purged events, and Lethe purges that
// level too.
func (p *purgeHistory) confirm(ctx context.Context) error {
	w := p.worker
	if p.way == synapse.ByStream {
		// Synapse got its Redis after these events were purged, or Lethe did.
		if p.toldAt.IsZero() {
			if err := p.tellRest(ctx); err != nil {
				return err
			}
		}
		return p.confirmed(ctx)
	}
	if p.at.Task != "" {
		switch ended, err := beside.TaskEnded(ctx, w.db, p.at.Task); {
		case errors.Is(err, postgres.ErrNotFound):
			p.at.Task = "" // Synapse forgets its tasks after a week
		case err != nil:
			return err
		case !ended:
			return jobs.YieldError{
				Reason: jobs.YieldSynapse, After: wait.Jitter(taskWait), Checkpoint: p.at,
				WaitsFor: "waiting: Synapse has to run its task " + p.at.Task + ", which clears its caches",
			}
		}
		if p.at.Task != "" {
			return p.confirmed(ctx)
		}
	}
	present, _, err := w.options.Synapse.Present(ctx)
	if err != nil {
		return err
	}
	if present && !p.left && !p.at.Confirmed {
		// These are of an earlier purge that has failed, and nothing is left to purge with
		// which Synapse could be asked. They go later.
		p.at.Phase = phaseStateGroups
		return nil
	}
	if !present || !p.left {
		// From now on each batch may be confirmed as soon as it is committed.
		if err := p.confirmed(ctx); err != nil || !p.left {
			return err
		}
		p.left, p.purge.Before = false, p.until
		p.at.Phase, p.at.From, p.at.Late = phaseEvents, nil, false
		return nil
	}
	return p.requestTask(ctx)
}

// confirmed makes the mappings of the room due after their delay.
func (p *purgeHistory) confirmed(ctx context.Context) error {
	p.at.Confirmed, p.at.Left = true, false
	if p.at.Task != "" {
		p.left = false
	}
	return beside.Confirm(ctx, p.worker.db, p.purge.Room, p.worker.options.MappingDelay)
}

// requestTask asks Synapse to purge the level that is left for it.
func (p *purgeHistory) requestTask(ctx context.Context) (err error) {
	ctx, b, err := p.worker.begin(ctx, jobs.PurgeHistory, p.purge.Room, p.run)
	if err != nil {
		return err
	}
	defer b.end(&err)
	next := p.at
	next.Task = jobs.NewID()
	task := beside.TaskRequest{
		ID: next.Task, Action: scheduledtasks.PurgeHistory, Room: p.purge.Room,
		Parameters: purgeHistoryParameters{Token: matrix.Token{Topological: p.until}, DeleteLocalEvents: p.purge.DeleteLocal},
	}
	if err := beside.RequestTask(ctx, b, task); err != nil {
		return err
	}
	return p.commit(ctx, b, next, ending{})
}

// collect processes a batch of state groups. Beside a Synapse it marks those to delete:
// Synapse checks that it does not use them, and deletes them.
func (w *Worker) collect(ctx context.Context, h *purge.History, b *roomBatch, step purge.StateGroupStep, limit int,
) (done purge.StateGroupBatch, err error) {
	if !w.beside() || !step.Deletes() {
		return h.CollectStateGroups(ctx, b.Batch, step, limit)
	}
	has, err := w.db.HasTable(ctx, "state_groups_pending_deletion")
	if err != nil {
		return done, err
	}
	if !has { // this Synapse deletes groups as Lethe does
		return h.CollectStateGroups(ctx, b.Batch, step, limit)
	}
	_, err = b.Run(ctx, []postgres.Statement{beside.MarkStateGroups(h.Room, limit, &done.Checked)})
	return done, err
}

// awaitTasks fails with a [synapse.Waiting] while Synapse itself purges or deletes the
// room, or is about to. own is the id of the task that the job has requested, "" if it
// has not.
func (w *Worker) awaitTasks(ctx context.Context, room, own string) error {
	if w.options.Synapse == nil {
		return nil
	}
	task, err := scheduledtasks.New(w.db).Open(ctx, room, scheduledtasks.PurgeHistory, scheduledtasks.PurgeRoom, scheduledtasks.DeleteRoom)
	switch {
	case errors.Is(err, postgres.ErrNotFound):
		return nil
	case err == nil && task.ID != own:
		err = &synapse.Waiting{Reason: "Synapse itself has a task for the room: " + task.Action + " " + task.ID}
	}
	return err
}
