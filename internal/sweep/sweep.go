package sweep

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"lethe/internal/jobs"
	"lethe/internal/observe"
	"lethe/internal/retention"
	"lethe/internal/store/journal"
	"lethe/internal/wait"
)

// A Sweep is the work of one run of a sweep's job. It decides about all rooms, a page at
// a time, and makes a job for each room that needs one. The queue treats sweeps as jobs
// of one room, the empty one, so they take turns.
type Sweep struct {
	sweeper *Sweeper
	run     journal.Run
	job     retention.Job
	at      Checkpoint

	// kind is what differs between kinds of sweeps.
	kind kind
}

// A kind is one kind of sweep.
type kind struct {
	name journal.Kind

	// check decides about the next page of rooms, which is empty after the last.
	check func(ctx context.Context) (verdicts, error)

	// record stores the decisions about the page as part of the batch. It may be nil.
	record func(ctx context.Context, b *journal.Batch, page verdicts) error

	// finish ends the sweep after its last page. It may be nil.
	finish func(ctx context.Context) error

	// outcomes returns the counts by name.
	outcomes func(*Result) map[string]int64
}

// decode begins at the checkpoint in the job's row, if there is one.
func (s *Sweep) decode(checkpoint []byte) error {
	if len(checkpoint) == 0 {
		return nil
	}
	if err := json.Unmarshal(checkpoint, &s.at); err != nil {
		return fmt.Errorf("decode the job's checkpoint: %w", err)
	}
	return nil
}

// Checkpoint returns the checkpoint after the last page.
func (s *Sweep) Checkpoint() Checkpoint { return s.at }

// Next decides about the next page of rooms, and reports whether there was none. It may
// be called after an error, on the same Sweep or on one from the job's row: then it
// decides about the same page. It returns a [jobs.YieldError] while the sweep must wait
// for the jobs that it or others have made, and [journal.ErrSuperseded] if the run no
// longer owns the job.
func (s *Sweep) Next(ctx context.Context) (done bool, err error) {
	options := s.sweeper.options
	open, err := s.sweeper.journal.OpenLowJobs(ctx)
	if err != nil {
		return false, err
	}
	// Wait until a quarter of the queue is free: otherwise each purge that ends would
	// cause a check of a whole page for one room.
	free := options.MaxQueued - open
	if free < max(1, options.MaxQueued/4) {
		return false, s.wait()
	}
	started := time.Now()
	ctx, span := observe.StartSpan(ctx, "batch")
	defer func() {
		span.End(failure(err))
	}()
	page, err := s.kind.check(ctx)
	switch {
	case err != nil:
		return false, err
	case len(page) == 0:
		if s.kind.finish != nil {
			if err := s.kind.finish(ctx); err != nil {
				return false, err
			}
		}
		s.sweeper.log.InfoContext(ctx, "sweep has checked every room", "retention_job", s.job.Name,
			"result", s.at.Sweep.String())
		return true, nil
	}
	page = page.upTo(free)

	accepted, err := s.accept(ctx, page, started)
	if errors.Is(err, journal.ErrLowQueue) {
		return false, s.wait()
	}
	if err != nil {
		return false, err
	}
	s.enqueue(ctx, page.jobs(), accepted)
	return false, nil
}

// failure returns the error of a page unless it says that the sweep goes on later, or
// in another run.
func failure(err error) error {
	var yield jobs.YieldError
	if errors.Is(err, journal.ErrSuperseded) || errors.As(err, &yield) {
		return nil
	}
	return err
}

// accept commits the page's jobs together with the checkpoint after the page, and
// returns the ids of the accepted jobs.
func (s *Sweep) accept(ctx context.Context, page verdicts, started time.Time) (accepted []string, err error) {
	b := s.sweeper.journal.BeginSweep(s.run, batchLease)
	defer func() {
		b.Rollback(ctx)
		err = b.Locked(err)
	}()
	swept, err := journal.InsertSwept(ctx, b, page.jobs(), s.sweeper.options.MaxQueued)
	if err != nil {
		return nil, err
	}
	if s.kind.record != nil {
		if err := s.kind.record(ctx, b, page); err != nil {
			return nil, err
		}
	}
	next := s.at
	next.After = page[len(page)-1].room
	page.count(&next.Sweep, swept)
	if err := b.Commit(ctx, next); err != nil {
		return nil, fmt.Errorf("insert the jobs of a sweep: %w", err)
	}
	s.moved(next, time.Since(started))
	return swept.Accepted, nil
}

// wait yields until purges have ended.
func (s *Sweep) wait() error {
	return jobs.YieldError{Reason: jobs.YieldQueueFull, After: wait.Jitter(sweepWait)}
}

// moved takes over a committed checkpoint, and counts what it has changed.
func (s *Sweep) moved(next Checkpoint, took time.Duration) {
	metrics := s.sweeper.metrics
	kind := s.kind.name
	metrics.JobBatches.WithLabelValues(string(kind)).Inc()
	metrics.JobBatchSeconds.WithLabelValues(string(kind)).Observe(took.Seconds())
	before := s.kind.outcomes(&s.at.Sweep)
	for outcome, n := range s.kind.outcomes(&next.Sweep) {
		counter(metrics, kind).WithLabelValues(outcome).Add(float64(n - before[outcome]))
	}
	s.at = next
}

// enqueue enqueues the tasks of the accepted jobs. After the first failure it leaves
// the others to the reconciler.
func (s *Sweep) enqueue(ctx context.Context, made []journal.Job, accepted []string) {
	if len(accepted) == 0 {
		return
	}
	// The jobs are accepted, even if the sweep is ended now.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), enqueueAllTime)
	defer cancel()
	wanted := make(map[string]bool, len(accepted))
	for _, id := range accepted {
		wanted[id] = true
	}
	var (
		group    errgroup.Group
		stop     atomic.Bool
		mu       sync.Mutex
		enqueued []journal.Job
		failed   error
	)
	group.SetLimit(maxEnqueuers)
	for _, job := range made {
		if !wanted[job.ID] || stop.Load() {
			continue
		}
		group.Go(func() error {
			err := s.sweeper.dispatcher.Enqueue(ctx, job)
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				failed = err
				stop.Store(true)
				return nil
			}
			enqueued = append(enqueued, job)
			return nil
		})
	}
	_ = group.Wait() // no function returns an error
	log := s.sweeper.log
	if failed != nil {
		log.WarnContext(ctx, "jobs not enqueued: left to the reconciler", "jobs", len(accepted)-len(enqueued), "error", failed)
	}
	if len(enqueued) == 0 {
		return
	}
	if err := s.sweeper.journal.MarkTasksEnqueued(ctx, enqueued); err != nil {
		// The reconciler enqueues them again, which changes nothing.
		log.WarnContext(ctx, "jobs not marked as enqueued", "error", err)
	}
}
