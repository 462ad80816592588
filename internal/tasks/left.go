package tasks

import (
	"context"
	"errors"

	"lethe/internal/jobs"
	"lethe/internal/selfcheck"
	"lethe/internal/wait"
)

// checkLeft checks what the delete has left, unless the sweep that has made the delete
// checks that for all its rooms. The job's end stores the result: a worker that dies
// before checks again.
func (d *deleteRoom) checkLeft(ctx context.Context) {
	if d.parameters.Sweep == "" {
		d.at.Report = d.worker.check.Delete(ctx, d.request.Room, d.at.Sample, d.room.Asked())
	}
}

// checkLeft waits until the sweep's deletes have ended, and then checks what they have
// left.
func (s *retentionSweep) checkLeft(ctx context.Context) error {
	if s.at.Sweep.Enqueued == 0 {
		return nil
	}
	report, rooms, err := s.worker.check.Sweep(ctx, s.run.JobID)
	if errors.Is(err, selfcheck.ErrDeletesOpen) {
		return errYield{reason: jobs.YieldDeletes, after: wait.Jitter(sweepWait)}
	}
	s.at.Sweep.Report, s.at.Sweep.RoomsChecked = report, rooms
	return err
}
