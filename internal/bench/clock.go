package bench

import (
	"context"
	"errors"
	"os"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"lethe/internal/wait"
)

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
