package tasks

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"lethe/internal/jobs"
	"lethe/internal/lock"
	"lethe/internal/observe"
	"lethe/internal/store/journal"
	"lethe/internal/store/postgres"
	"lethe/internal/synapse"
)

// errDraining is the cause that ends a wait for a lock when the worker drains.
var errDraining = errors.New("the worker is draining")

// A roomBatch is an open batch and the room's write lock that it works under.
type roomBatch struct {
	*journal.Batch
	worker *Worker
	kind   journal.Kind
	lock   *lock.Lock
	locked time.Time
	span   observe.Span

	outer context.Context // the run's, which may outlive the lock
	close func()

	// synapse is the room's lock at Synapse, nil if the batch needs none, and way how
	// Synapse learns of the batch. If owned is set, the batch releases the lock.
	synapse *synapse.Lock
	owned   bool
	way     synapse.Way

	// told is the id of the invalidation that the batch has written, 0 for none.
	told int64
}

// begin takes the room's write lock and opens a batch. The context that it returns
// ends with the lock. The caller must call end, whether or not it commits the batch. It
// fails with a [synapse.Waiting] if nothing may be deleted now.
func (w *Worker) begin(ctx context.Context, kind journal.Kind, room string, run journal.Run) (context.Context, *roomBatch, error) {
	way, err := w.ready(ctx)
	if err != nil {
		return nil, nil, err
	}
	locking, cancel := context.WithCancelCause(ctx)
	// Draining ends the wait for the lock, but not the batch.
	stop := context.AfterFunc(w.drain, func() { cancel(errDraining) })
	started := time.Now()
	_, span := observe.StartSpan(ctx, "lock room")
	held, err := w.rooms.Lock(locking, room)
	stop()
	span.End(err)
	w.metrics.LockWaitSeconds.WithLabelValues(jobs.ModeWrite).Observe(time.Since(started).Seconds())
	if err != nil {
		cancel(nil)
		return nil, nil, err
	}
	b := &roomBatch{
		Batch:  w.journal.Begin(run, journal.RoomLock{Room: room, Fence: held.Fence(), Lease: lockLease}),
		worker: w, kind: kind, lock: held, locked: time.Now(), outer: ctx, close: func() { cancel(nil) }, way: way,
	}
	ctx, b.span = observe.StartSpan(held.Context(), "batch", slog.Int64("fence", held.Fence()))
	return ctx, b, nil
}

// took returns how long the batch has taken so far.
func (b *roomBatch) took() time.Duration { return time.Since(b.locked) }

// commit commits the batch, and tells the brake how long that took.
func (b *roomBatch) commit(ctx context.Context, checkpoint any, last ...postgres.Statement) error {
	started := time.Now()
	err := b.Commit(ctx, checkpoint, last...)
	b.worker.options.Brake.Committed(time.Since(started))
	return err
}

// end rolls back an uncommitted batch, and releases the room's lock. The caller
// defers it with the batch's error. If the lock was lost, end adds that to the
// error.
func (b *roomBatch) end(err *error) {
	defer b.close()
	b.Rollback(b.outer)
	*err = b.Locked(*err)
	if b.owned {
		b.synapse.Release(b.outer)
	}
	b.span.End(*err)
	metrics := b.worker.metrics
	if *err == nil {
		metrics.JobBatches.WithLabelValues(string(b.kind)).Inc()
		metrics.JobBatchSeconds.WithLabelValues(string(b.kind)).Observe(b.took().Seconds())
		b.worker.options.Brake.Worked(b.took())
	}
	if cause := context.Cause(b.lock.Context()); *err != nil && cause != nil {
		*err = fmt.Errorf("%w: %w", cause, *err)
	}
	// A commit stays valid whatever becomes of the lock, because the fence was checked.
	// At worst the room stays locked until the lease ends.
	if err := b.lock.Unlock(b.outer); err != nil {
		b.worker.log.WarnContext(b.outer, "room not unlocked", "error", err)
	}
	if b.lock.ReadersWaited() {
		b.worker.pace.Crowd(b.Room())
	}
	metrics.LockHoldSeconds.WithLabelValues(jobs.ModeWrite).Observe(b.took().Seconds())
}

// A tally counts what the batches of a job have deleted. It is part of checkpoints.
type tally struct {
	Batches            int64 `json:"batches"`
	EventsDeleted      int64 `json:"events_deleted"`
	StateGroupsDeleted int64 `json:"state_groups_deleted"`

	// RowWiseBatches counts the batches whose references the server had to check row by
	// row. RowWiseWhy is the reason for the last of them.
	RowWiseBatches int64  `json:"row_wise_batches"`
	RowWiseWhy     string `json:"row_wise_why,omitempty"`
}

// rowWise counts a batch that was checked row by row for the reason. It does nothing
// if the reason is "".
func (t *tally) rowWise(why string) {
	if why != "" {
		t.RowWiseBatches++
		t.RowWiseWhy = why
	}
}

// countDeleted adds what a committed batch has deleted to the metrics: the
// difference between two tallies, and the rows of other tables.
func (w *Worker) countDeleted(kind journal.Kind, before, after tally, rows int64) {
	events, groups := after.EventsDeleted-before.EventsDeleted, after.StateGroupsDeleted-before.StateGroupsDeleted
	w.metrics.EventsPurged.Add(float64(events))
	w.metrics.RowsDeleted.WithLabelValues(string(kind)).Add(float64(events + groups + rows))
	w.metrics.JobRowWiseBatches.WithLabelValues(string(kind)).Add(float64(after.RowWiseBatches - before.RowWiseBatches))
}
