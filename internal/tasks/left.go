package tasks

import (
	"context"
)

// checkLeft checks what the delete has left, unless the sweep that has made the delete
// checks that for all its rooms. The job's end stores the result: a worker that dies
// before checks again.
func (d *deleteRoom) checkLeft(ctx context.Context) {
	if d.parameters.Sweep == "" {
		d.at.Report = d.worker.check.Delete(ctx, d.request.Room, d.at.Sample, d.room.Asked())
	}
}
