package bench

import (
	"context"
	"math"
	"time"

	"lethe/internal/lock"
	"lethe/internal/redisdb"
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
	m := measurements{}
	const wait, batch = "wait, ms", "batch, commit to commit"
	err = r.byTurns(ctx, "readers", turn{"beside a purge", t, func(d database) error {
		waits, gaps, err := d.readBesidePurge(ctx, t.rooms[0])
		m.add(wait, "p50", quantile(waits, 0.5))
		m.add(wait, "p99", quantile(waits, 0.99))
		m.add(wait, "max", quantile(waits, 1))
		m.add(wait, batch, quantile(gaps, 0.5))
		return err
	}})
	return []Row{
		m.compare(wait, "p50", batch, ""), m.compare(wait, "p99", batch, ""), m.compare(wait, "max", batch, "≤ 2"),
	}, err
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
