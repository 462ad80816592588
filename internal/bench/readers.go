package bench

import (
	"context"
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
// wait with the time from one batch's commit to the next.
func measureReaders(ctx context.Context, r *rig) ([]Row, error) {
	t, err := r.template(ctx, "purge", r.options.Events)
	if err != nil {
		return nil, err
	}
	var p50, p99, longest, batches []float64
	for run := range r.options.Runs {
		r.say("readers, run %d", run+1)
		err := r.onCopy(ctx, t, func(d database) error {
			waits, gaps, err := d.readBesidePurge(ctx, t.rooms[0])
			p50, p99 = append(p50, quantile(waits, 0.5)), append(p99, quantile(waits, 0.99))
			longest, batches = append(longest, quantile(waits, 1)), append(batches, quantile(gaps, 0.5))
			return err
		})
		if err != nil {
			return nil, err
		}
	}
	batch := sample("batch, commit to commit", batches)
	return []Row{
		compare("readers", "wait, ms", sample("p50", p50), batch, ""),
		compare("readers", "wait, ms", sample("p99", p99), batch, ""),
		compare("readers", "wait, ms", sample("max", longest), batch, "≤ 2"),
	}, nil
}

// readBesidePurge returns the waits of the readers and the times between the
// commits of the purge, in milliseconds.
func (d database) readBesidePurge(ctx context.Context, r room) (waits, gaps []float64, err error) {
	client, err := redisdb.OpenForLocks(d.rig.redis.URL())
	if err != nil {
		return nil, nil, err
	}
	defer func() { _ = client.Close() }()
	locker := lock.New(client, nil, lock.Options{})

	var mu sync.Mutex
	read := func(ctx context.Context) error {
		started := time.Now()
		lease, err := locker.RLock(ctx, r.id)
		if err != nil {
			return err
		}
		waited := milliseconds(time.Since(started))
		mu.Lock()
		waits = append(waits, waited)
		mu.Unlock()
		return lease.Release(ctx)
	}
	err = d.atWork(ctx, d.url(), 1, func(ctx context.Context, _ []*os.Process) error {
		readers, ctx := errgroup.WithContext(ctx)
		reading, stop := context.WithCancel(ctx)
		defer stop()
		readers.Go(func() error {
			wait.Every(reading, readerEvery, func(context.Context) {
				readers.Go(func() error { return read(ctx) })
			})
			return nil
		})
		var last time.Time
		purged := d.purgeAtWork(ctx, r, func(commit time.Time) {
			if !last.IsZero() {
				gaps = append(gaps, milliseconds(commit.Sub(last)))
			}
			last = commit
		})
		stop()
		if err := readers.Wait(); purged == nil {
			return err
		}
		return purged
	})
	return waits, gaps, err
}
