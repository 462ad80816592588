package tasks

import (
	"context"
	"errors"

	"lethe/internal/jobs"
	"lethe/internal/selfcheck"
	"lethe/internal/store/journal"
	"lethe/internal/wait"
)

// checkLeft checks what the delete has left. The sweep that has made the delete checks
// once for all its rooms.
func (d *deleteRoom) checkLeft(ctx context.Context) error {
	if d.parameters.Sweep != "" || d.at.Report != nil {
		return nil
	}
	next := d.at
	next.Report = d.worker.check.Delete(ctx, d.request.Room, d.at.Sample)
	switch err := d.worker.journal.Record(ctx, d.run, next); {
	case errors.Is(err, journal.ErrSuperseded):
		return err
	case err != nil: // the room is deleted all the same
		d.worker.log.WarnContext(ctx, "what the delete has left was not recorded", "error", err)
		return nil
	}
	d.at = next
	return nil
}

// checkLeft waits until the sweep's deletes have ended, and then checks what they have
// left.
func (s *retentionSweep) checkLeft(ctx context.Context) error {
	if s.at.Sweep.Enqueued == 0 || s.at.Sweep.Report != nil {
		return nil
	}
	next := s.at
	var err error
	next.Sweep.Report, next.Sweep.RoomsChecked, err = s.worker.check.Sweep(ctx, s.run.JobID)
	if errors.Is(err, selfcheck.ErrDeletesOpen) {
		return errYield{reason: jobs.YieldDeletes, after: wait.Jitter(sweepWait)}
	}
	if err == nil && next.Sweep.Report != nil {
		err = s.worker.journal.Record(ctx, s.run, next)
	}
	if err == nil {
		s.at = next
	}
	return err
}
