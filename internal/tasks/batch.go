package tasks

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"lethe/internal/lock"
	"lethe/internal/observe"
	"lethe/internal/store/journal"
)

// errDraining is the cause that ends a wait for a lock when the worker drains.
var errDraining = errors.New("the worker is draining")

// A roomBatch is an open batch under its room's write lock.
type roomBatch struct {
	*journal.Batch
	worker *Worker
	kind   journal.Kind
	lock   *lock.Lock
	locked time.Time
	span   observe.Span

	outer context.Context // of the run: the lock may be lost when it is given back
	close func()
}

// begin takes the room's write lock and opens a batch. The context that it returns
// ends with the lock. The caller commits the batch, and in any case ends it.
func (w *Worker) begin(ctx context.Context, kind journal.Kind, room string, run journal.Run) (context.Context, *roomBatch, error) {
	locking, cancel := context.WithCancelCause(ctx)
	// Draining ends the wait for the lock, but not the batch.
	stop := context.AfterFunc(w.drain, func() { cancel(errDraining) })
	started := time.Now()
	_, span := observe.StartSpan(ctx, "lock room")
	held, err := w.rooms.Lock(locking, room)
	stop()
	span.End(err)
	w.metrics.LockWaitSeconds.WithLabelValues(modeWrite).Observe(time.Since(started).Seconds())
	if err != nil {
		cancel(nil)
		return nil, nil, err
	}
	b := &roomBatch{
		Batch:  w.journal.Begin(run, journal.RoomLock{Room: room, Fence: held.Fence(), Lease: lockLease}),
		worker: w, kind: kind, lock: held, locked: time.Now(), outer: ctx, close: func() { cancel(nil) },
	}
	ctx, b.span = observe.StartSpan(held.Context(), "batch", slog.Int64("fence", held.Fence()))
	return ctx, b, nil
}

// took is how long the batch has taken so far.
func (b *roomBatch) took() time.Duration { return time.Since(b.locked) }

// end rolls back what was not committed, and gives the room's lock back. It is
// deferred with the batch's error, to which it adds the loss of the lock.
func (b *roomBatch) end(err *error) {
	defer b.close()
	b.Rollback(b.outer)
	b.span.End(*err)
	metrics := b.worker.metrics
	if *err == nil {
		metrics.JobBatches.WithLabelValues(string(b.kind)).Inc()
		metrics.JobBatchSeconds.WithLabelValues(string(b.kind)).Observe(b.took().Seconds())
	}
	if cause := context.Cause(b.lock.Context()); *err != nil && cause != nil {
		*err = fmt.Errorf("%w: %w", cause, *err)
	}
	// What was committed stays so, whatever becomes of the lock: the fence saw to
	// that. At worst the room is free only after the lease.
	if err := b.lock.Unlock(b.outer); err != nil {
		b.worker.log.WarnContext(b.outer, "room not unlocked", "error", err)
	}
	metrics.LockHoldSeconds.WithLabelValues(modeWrite).Observe(b.took().Seconds())
}

// A tally counts what the batches of a job deleted. It is part of checkpoints.
type tally struct {
	Batches            int64 `json:"batches"`
	EventsDeleted      int64 `json:"events_deleted"`
	StateGroupsDeleted int64 `json:"state_groups_deleted"`

	// RowWiseBatches counts the batches whose references the server had to check
	// row by row, and RowWiseWhy says why the last of them did.
	RowWiseBatches int64  `json:"row_wise_batches"`
	RowWiseWhy     string `json:"row_wise_why,omitempty"`
}

// rowWise counts a batch that was checked row by row for the reason, "" if it was
// not.
func (t *tally) rowWise(why string) {
	if why != "" {
		t.RowWiseBatches++
		t.RowWiseWhy = why
	}
}

// countDeleted counts what a committed batch has deleted: the difference between
// two tallies, and rows of other tables.
func (w *Worker) countDeleted(kind journal.Kind, before, after tally, rows int64) {
	events, groups := after.EventsDeleted-before.EventsDeleted, after.StateGroupsDeleted-before.StateGroupsDeleted
	w.metrics.EventsPurged.Add(float64(events))
	w.metrics.RowsDeleted.WithLabelValues(string(kind)).Add(float64(events + groups + rows))
	w.metrics.JobRowWiseBatches.WithLabelValues(string(kind)).Add(float64(after.RowWiseBatches - before.RowWiseBatches))
}
