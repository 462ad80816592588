package synapse

import (
	"context"
	"errors"
	"time"

	"lethe/internal/store/beside"
	"lethe/internal/wait"
)

const (
	// sweepInterval is the interval between two looks for mappings that are due.
	sweepInterval = time.Second

	// sweepTime bounds one look.
	sweepTime = time.Minute

	// placeTime bounds one look for receipts, which may wait for rows that Synapse has
	// locked. A look reads all receipts of the rooms that are purged, so the next one is
	// only after placePause times as long as it took.
	placeTime  = 5 * time.Second
	placePause = 20

	// reapInterval is the interval at which stale locks are deleted.
	reapInterval = 12 * time.Second
)

// Sweep deletes the mappings of purged events that are due, whatever has become of the
// jobs that have purged them, and whatever the settings say by now, until the context ends. It also places receipts for these
// events, and deletes the locks of processes that were killed. Any number of processes may do so at once.
func (s *Synapse) Sweep(ctx context.Context) {
	var reaped, place time.Time
	failing := false
	wait.Every(ctx, sweepInterval, func(ctx context.Context) {
		if !s.made.Load() {
			return
		}
		// One failure must not keep the others from their turn.
		err := errors.Join(s.SweepDue(ctx, ""), s.releaseEnded(ctx))
		if started := time.Now(); started.After(place) {
			err = errors.Join(err, s.placeReceipts(ctx))
			place = time.Now().Add(placePause * time.Since(started))
		}
		if time.Since(reaped) > reapInterval {
			tidied := s.tidy(ctx)
			if tidied == nil {
				reaped = time.Now()
			}
			err = errors.Join(err, tidied)
		}
		if err != nil && ctx.Err() == nil && !failing {
			s.options.Log.WarnContext(ctx, "mappings of purged events not swept: they will be", "error", err)
		}
		failing = err != nil
	})
}

func (s *Synapse) placeReceipts(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, placeTime)
	defer cancel()
	_, err := beside.PlaceReceipts(ctx, s.db)
	return err
}

// releaseEnded releases the rooms that cancelled jobs have locked at Synapse.
func (s *Synapse) releaseEnded(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, placeTime)
	defer cancel()
	_, err := beside.ReleaseEnded(ctx, s.db)
	return err
}

// tidy ends what processes and jobs have left that will not come back.
func (s *Synapse) tidy(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, sweepTime)
	defer cancel()
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
