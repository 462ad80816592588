package tasks

import (
	"context"
	"fmt"
	"time"

	"lethe/internal/jobs"
	"lethe/internal/retention"
	"lethe/internal/store/journal"
	"lethe/internal/sweep"
)

// RetentionSweep is a request to sweep all rooms.
type RetentionSweep struct {
	// Job is the name of the retention job whose rooms are purged.
	Job string

	// Tick is the time at which the sweep was due.
	Tick time.Time
}

// SubmitRetentionSweep accepts a sweep and returns its job's id. After an error it
// is not accepted. A second call makes a second sweep, which handles what the first
// one has left.
func (c *Client) SubmitRetentionSweep(ctx context.Context, sweep RetentionSweep) (id string, err error) {
	id, err = c.submit(ctx, jobs.RetentionSweep, "", retention.Requester,
		retention.SweepParameters{Job: sweep.Job, Tick: sweep.Tick.UTC()}, false)
	if err != nil {
		return "", fmt.Errorf("submit a retention sweep: %w", err)
	}
	return id, nil
}

// sweepWork is the work of a sweep, of either kind.
type sweepWork struct{ *sweep.Sweep }

func (s sweepWork) next(ctx context.Context) (done bool, err error) { return s.Next(ctx) }

func (s sweepWork) progress() any { return s.Checkpoint() }

func (s sweepWork) leave(context.Context, bool) {}

func (w *Worker) newRetentionSweep(ctx context.Context, job journal.Job, run journal.Run) (work, error) {
	s, err := w.sweeper.Retention(ctx, job, run)
	if err != nil {
		return nil, err
	}
	return sweepWork{s}, nil
}

func (w *Worker) newAbandonedSweep(ctx context.Context, job journal.Job, run journal.Run) (work, error) {
	s, err := w.sweeper.Abandoned(ctx, job, run)
	if err != nil {
		return nil, err
	}
	return sweepWork{s}, nil
}

// sweptPurge returns the parameters of a purge that a sweep makes.
func sweptPurge(purge sweep.Purge) any {
	return purgeHistoryParameters{
		Token: purge.Token, DeleteLocalEvents: true, RetentionJob: purge.RetentionJob, ExpiredBefore: &purge.ExpiredBefore,
	}
}

// sweptDelete returns the parameters of a delete that a sweep makes.
func sweptDelete(del sweep.Delete) any {
	return deleteRoomParameters{Purge: true, Abandoned: true, Sweep: del.Sweep}
}
