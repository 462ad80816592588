package tasks

import (
	"context"
	"errors"
	"time"

	"lethe/internal/dispatch"
	"lethe/internal/jobs"
	"lethe/internal/redisdb"
	"lethe/internal/store/journal"
	"lethe/internal/wait"
)

const (
	// throttleTime bounds a call of the bucket. Without an answer a purge goes on.
	throttleTime = time.Second

	// maxPause is the longest pause in which a purge keeps its slot. A purge with
	// a longer pause yields, for at most maxYield at a time.
	maxPause = 5 * time.Second
	maxYield = time.Minute

	// lowWait is how long a job of the low queue waits in its slot until it may
	// run, and lowLook how often it asks. A job that was put back at once would be
	// followed by every other waiting job, and when one may run, no worker would
	// have one in hand.
	lowWait = 10 * time.Second
	lowLook = 200 * time.Millisecond
)

// throttle takes deleted rows from the bucket that the fleet's jobs of the kind share, or
// without a limit of the kind all that sweeps have made,
// and pauses, holding no lock, until its debt is paid. It returns a [jobs.YieldError] after
// [maxPause]. While Redis is down, jobs go on without pauses.
func (w *Worker) throttle(ctx context.Context, kind journal.Kind, swept bool, rows int64) error {
	rate, bucket := w.rate(kind, swept)
	if rate <= 0 {
		return nil
	}
	debt := w.takeRows(ctx, bucket, rows, rate)
	if debt <= 0 {
		return nil
	}
	started := time.Now()
	pausing, stop := w.untilDrain(ctx)
	defer stop()
	_ = wait.For(pausing, min(debt, maxPause)) // if it ends early, the loop sees why
	w.metrics.RatePauseSeconds.Add(time.Since(started).Seconds())
	if debt > maxPause {
		return jobs.YieldError{Reason: jobs.YieldRate, After: min(debt-maxPause, maxYield)}
	}
	return nil
}

func (w *Worker) takeRows(ctx context.Context, bucket string, rows int64, rate int) time.Duration {
	ctx, cancel := context.WithTimeout(ctx, throttleTime)
	defer cancel()
	debt, err := redisdb.TakeRows(ctx, w.redis, bucket, rows, rate)
	if err != nil {
		w.log.WarnContext(ctx, "rows not taken from the bucket: the job does not pause", "error", err)
		return 0
	}
	return debt
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
