package bench

import (
	"context"
	"errors"
	"math"
	"os"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"lethe/internal/lock"
	"lethe/internal/redisdb"
	"lethe/internal/wait"
)

// readerEvery is the interval at which readers start. They do not wait for each
// other: otherwise one long wait would hide the waits of the readers after it.
const readerEvery = 10 * time.Millisecond

// measureReaders purges a room while readers take the room's lock. It compares their
// wait with the time from one batch's commit to the next, and with the longest such time
// of a purge without readers.
func measureReaders(ctx context.Context, r *rig) ([]Row, error) {
	t, err := r.template(ctx, "purge", r.options.Events)
	if err != nil {
		return nil, err
	}
	m := measurements{}
	const wait, batch, longest, seconds = "wait, ms", "batch, commit to commit", "longest batch without readers", "purge, s"
	err = r.byTurns(ctx, "readers", turn{"no readers", t, func(d database) error {
		gaps, err := d.purgeAlone(ctx, t.rooms[0])
		m.add(wait, longest, quantile(gaps, 1))
		m.add(seconds, "without readers", sum(gaps)/1000)
		return err
	}}, turn{"beside a purge", t, func(d database) error {
		waits, gaps, err := d.readBesidePurge(ctx, t.rooms[0])
		m.add(wait, "p50", quantile(waits, 0.5))
		m.add(wait, "p99", quantile(waits, 0.99))
		m.add(wait, "max", quantile(waits, 1))
		m.add(wait, batch, quantile(gaps, 0.5))
		m.add(seconds, "beside readers", sum(gaps)/1000)
		return err
	}})
	return []Row{
		m.compare(wait, "p50", batch, ""), m.compare(wait, "p99", batch, ""), m.compare(wait, "max", batch, ""),
		m.compare(wait, "p99", longest, "≤ 0.5"), m.compare(wait, "max", longest, ""),
		m.compare(seconds, "beside readers", "without readers", ""),
	}, err
}

// purgeAlone purges a room without readers. It returns the times between the commits, in
// milliseconds.
func (d database) purgeAlone(ctx context.Context, r room) (gaps []float64, err error) {
	_, gaps, err = d.besidePurge(ctx, r, clock{
		every: readerEvery, atOnce: -1, calls: math.MaxInt,
		do: func(context.Context, int) (time.Duration, error) { return 0, nil },
	})
	return gaps, err
}

func sum(values []float64) (sum float64) {
	for _, value := range values {
		sum += value
	}
	return sum
}

// readBesidePurge returns the waits of the readers and the times between the
// commits of the purge, in milliseconds.
func (d database) readBesidePurge(ctx context.Context, r room) (waits, gaps []float64, err error) {
	client, err := redisdb.OpenForLocks(d.rig.redis.URL())
	if err != nil {
		return nil, nil, err
	}
	defer func() { _ = client.Close() }()
	names, err := d.names(ctx)
	if err != nil {
		return nil, nil, err
	}
	locker := lock.New(client, nil, lock.Options{Names: names})
	return d.besidePurge(ctx, r, clock{
		every: readerEvery, atOnce: -1, calls: math.MaxInt,
		do: func(ctx context.Context, _ int) (time.Duration, error) {
			started := time.Now()
			lease, err := locker.RLock(ctx, r.id)
			if err != nil {
				return 0, err
			}
			waited := time.Since(started)
			return waited, lease.Release(ctx)
		},
	})
}

// A clock calls do at each interval, without waiting for the calls before it: otherwise
// one long call would hide those after it.
type clock struct {
	every  time.Duration
	atOnce int // the largest number of calls at once, -1 without a limit
	calls  int // the largest number of calls

	// do returns the time that is measured.
	do func(ctx context.Context, i int) (time.Duration, error)
}

// run calls do until over is closed or all calls have begun. It returns the measured
// times in milliseconds.
func (c clock) run(ctx context.Context, over <-chan struct{}) ([]float64, error) {
	var mu sync.Mutex
	var times []float64
	calls, ctx := errgroup.WithContext(ctx)
	calls.SetLimit(c.atOnce)
	ticking, stop := context.WithCancel(ctx)
	defer stop()
	begun := 0
	wait.Every(ticking, c.every, func(context.Context) {
		select {
		case <-over:
			stop()
			return
		default:
		}
		i := begun
		calls.Go(func() error {
			took, err := c.do(ctx, i)
			mu.Lock()
			defer mu.Unlock()
			times = append(times, milliseconds(took))
			return err
		})
		if begun++; begun >= c.calls {
			stop()
		}
	})
	ended := ctx.Err() // before Wait, which ends ctx
	return times, errors.Join(calls.Wait(), ended)
}

// besidePurge runs the clock while a worker purges a room. It also returns the times
// between the commits of the purge, in milliseconds.
func (d database) besidePurge(ctx context.Context, of room, c clock) (times, gaps []float64, err error) {
	err = d.atWork(ctx, d.url(), 1, func(ctx context.Context, _ []*os.Process) error {
		over := make(chan struct{})
		clocks, ctx := errgroup.WithContext(ctx)
		clocks.Go(func() (err error) { times, err = c.run(ctx, over); return err })
		var last time.Time
		purged := d.runJob(ctx, of, submitPurge, func(commit time.Time) {
			if !last.IsZero() {
				gaps = append(gaps, milliseconds(commit.Sub(last)))
			}
			last = commit
		})
		close(over)
		return errors.Join(purged, clocks.Wait())
	})
	return times, gaps, err
}

func milliseconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
