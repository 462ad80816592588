package tasks

import (
	"context"
	"errors"
	"time"

	"github.com/redis/go-redis/v9"

	"lethe/internal/jobs"
	"lethe/internal/redisdb"
	"lethe/internal/store/journal"
	"lethe/internal/wait"
)

const (
	// throttleTime bounds a look into the bucket. Without an answer nobody pauses.
	throttleTime = time.Second

	// maxPause is how long a purge pauses for the bucket and keeps its place.
	// If more is needed it yields, for no longer than maxYield at a time.
	maxPause = 5 * time.Second
	maxYield = time.Minute

	// lowWait is how long a job of the low queue waits, in its place, until it may
	// run, and lowLook how often it looks whether it may. Were it put back at once,
	// all that wait would be, one after the other, and nobody would be there when
	// another may run.
	lowWait = 10 * time.Second
	lowLook = 200 * time.Millisecond
)

// takeRows takes rows from the bucket, which may then owe some, and tells how long
// it will be until it owes none. O(1).
//
//	KEYS[1]  the bucket, redisdb.RetentionRows
//	ARGV[1]  how many rows to take, 0 to ask
//	ARGV[2]  how many flow in per second, and how many it holds at most
//	returns  the wait in milliseconds, 0 for none
var takeRows = redis.NewScript(`
	local time = redis.call('TIME')
	local now = time[1] * 1000 + math.floor(time[2] / 1000)
	local rate = tonumber(ARGV[2])
	local there = redis.call('HMGET', KEYS[1], 'tokens', 'at')
	local tokens, at = tonumber(there[1] or ''), tonumber(there[2] or '')
	if not tokens or not at or tokens ~= tokens or at ~= at then
		tokens, at = rate, now
	end
	-- After a failover the clock may be behind. Of a debt, an hour is enough.
	tokens = math.min(rate, tokens + math.max(0, now - at) * rate / 1000) - tonumber(ARGV[1])
	tokens = math.max(tokens, -3600 * rate)
	redis.call('HSET', KEYS[1], 'tokens', string.format('%.17g', tokens), 'at', string.format('%.0f', now))
	local wait = math.max(0, math.ceil(-tokens * 1000 / rate))
	redis.call('PEXPIRE', KEYS[1], wait + 60000)
	return wait`)

// throttle takes rows that were deleted from what the sweeps of the fleet may
// delete, and pauses, with no lock held, until more may be. It returns an errYield
// if that is long. A Redis that is down stops nobody.
func (w *Worker) throttle(ctx context.Context, rows int64) error {
	rate := w.options.RowsPerSecond
	if rate <= 0 {
		return nil
	}
	debt := w.takeRows(ctx, rows, rate)
	if debt <= 0 {
		return nil
	}
	started := time.Now()
	pausing, stop := w.untilDrain(ctx)
	defer stop()
	_ = wait.For(pausing, min(debt, maxPause)) // if it ends early, the loop sees why
	w.metrics.RatePauseSeconds.Add(time.Since(started).Seconds())
	if debt > maxPause {
		return errYield{reason: jobs.YieldRate, after: min(debt-maxPause, maxYield)}
	}
	return nil
}

func (w *Worker) takeRows(ctx context.Context, rows int64, rate int) time.Duration {
	ctx, cancel := context.WithTimeout(ctx, throttleTime)
	defer cancel()
	wait, err := takeRows.Run(ctx, w.redis, []string{redisdb.RetentionRows()}, rows, rate).Int64()
	if err != nil {
		w.log.WarnContext(ctx, "rows not taken from the bucket: the purge does not pause", "error", err)
		return 0
	}
	return time.Duration(wait) * time.Millisecond
}

// claim claims a job, and waits a while if as many jobs of sweeps run as may.
func (w *Worker) claim(ctx context.Context, task payload) (job journal.Job, err error) {
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
