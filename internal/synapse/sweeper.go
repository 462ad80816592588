package synapse

import (
	"context"
	"time"

	"lethe/internal/store/beside"
	"lethe/internal/wait"
)

const (
	// sweepInterval is the interval between two looks for mappings that are due.
	sweepInterval = time.Second

	// sweepTime bounds one look.
	sweepTime = time.Minute

	// reapInterval is the interval at which stale locks are deleted.
	reapInterval = 12 * time.Second
)

// Sweep deletes the mappings of purged events that are due, whatever has become of the
// jobs that have purged them, and whatever the settings say by now, until the context ends. It also places receipts for these
// events, and deletes the locks of processes that were killed. Any number of processes may do so at once.
func (s *Synapse) Sweep(ctx context.Context) {
	var reaped time.Time
	failing := false
	wait.Every(ctx, sweepInterval, func(ctx context.Context) {
		if !s.made.Load() {
			return
		}
		err := s.SweepDue(ctx, "")
		if err == nil {
			_, err = beside.PlaceReceipts(ctx, s.db)
		}
		if err == nil && time.Since(reaped) > reapInterval {
			if err = s.tidy(ctx); err == nil {
				reaped = time.Now()
			}
		}
		if err != nil && ctx.Err() == nil && !failing {
			s.options.Log.WarnContext(ctx, "mappings of purged events not swept: they will be", "error", err)
		}
		failing = err != nil
	})
}

// tidy ends what processes and jobs have left that will not come back.
func (s *Synapse) tidy(ctx context.Context) error {
	_, err := beside.ReapLocks(ctx, s.db)
	if err == nil {
		_, err = beside.EndUnconfirmed(ctx, s.db)
	}
	return err
}

// SweepDue deletes the mappings of purged events that are due, of one room, or of all
// if room is "", and tells Synapse if it has to know.
func (s *Synapse) SweepDue(ctx context.Context, room string) error {
	ctx, cancel := context.WithTimeout(ctx, sweepTime)
	defer cancel()
	for ctx.Err() == nil {
		done, err := beside.SweepMappings(ctx, s.db, room)
		if err != nil {
			return err
		}
		s.Tell(ctx, done.Position, false)
		s.options.Metrics.MappingsSwept.Add(float64(done.Mappings))
		if done.Batches == 0 {
			return nil
		}
	}
	return context.Cause(ctx)
}
