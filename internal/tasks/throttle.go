package tasks

import (
	"context"
	"errors"
	"time"

	"lethe/internal/dispatch"
	"lethe/internal/jobs"
	"lethe/internal/pace"
	"lethe/internal/store/journal"
	"lethe/internal/wait"
)

const (
	// lowWait is how long a job of the low queue waits in its slot until it may
	// run, and lowLook how often it asks. A job that was put back at once would be
	// followed by every other waiting job, and when one may run, no worker would
	// have one in hand.
	lowWait = 10 * time.Second
	lowLook = 200 * time.Millisecond
)

// throttle counts the rows that a job has deleted, 0 before it begins, and pauses without
// a lock for the fleet's limit and the brake. It returns a [jobs.YieldError] after 5 s. The
// error is that of the batch. If there is one, throttle returns it at once.
func (w *Worker) throttle(ctx context.Context, kind journal.Kind, swept bool, rows int64, err error) error {
	if err != nil {
		return err
	}
	pausing, stop := w.untilDrain(ctx)
	defer stop()
	waited, err := jobs.Pause(pausing, w.limits.Take(ctx, kind, swept, rows), jobs.YieldRate)
	w.metrics.RatePauseSeconds.Add(waited.Seconds())
	if err != nil {
		return err
	}
	return w.options.Brake.Pause(pausing, rows > 0)
}

// claim claims a job. If the most jobs of sweeps that may run are running, it waits
// up to [lowWait].
func (w *Worker) claim(ctx context.Context, task dispatch.Task) (job journal.Job, err error) {
	waiting, stop := w.untilDrain(ctx)
	defer stop()
	waiting, cancel := context.WithTimeout(waiting, lowWait)
	defer cancel()
	full := func(err error) bool { return errors.Is(err, journal.ErrLowQueue) }
	err = wait.Retry(waiting, wait.Backoff{Min: lowLook}, full, func() (err error) {
		job, err = w.journal.ClaimJob(ctx, task.JobID, task.Generation, jobs.HeartbeatStale, w.options.MaxRunning)
		return err
	})
	return job, err
}

// size returns the size of the next batch in a room, which is at most the limit of rows per
// second of its job, and less while readers wait for the room.
func (w *Worker) size(work pace.Work, kind journal.Kind, swept bool, room string, planned int) int {
	size := w.pace.Size(work, room, planned)
	if rate := w.limits.Rate(kind, swept); rate > 0 {
		return min(size, rate)
	}
	return size
}
