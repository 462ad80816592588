package tasks

import (
	"cmp"
	"context"
	"fmt"
	"time"

	"lethe/internal/jobs"
	"lethe/internal/retention"
	"lethe/internal/store/extent"
	"lethe/internal/store/journal"
	"lethe/internal/sweep"
)

// RetentionSweep is a request to sweep all rooms.
type RetentionSweep struct {
	// Job is the name of the retention job whose rooms are purged.
	Job string

	// Tick is the time at which the sweep was due.
	Tick time.Time

	// Requester is who has requested it. Defaults to "", the settings.
	Requester string

	Acceptance
}

// SubmitAbandonedSweep accepts a sweep for abandoned rooms now and returns its job's id.
// After an error it is not accepted. A second call makes a second sweep.
func (c *Client) SubmitAbandonedSweep(ctx context.Context, requester string, accepted Acceptance) (id string, err error) {
	job := journal.Job{Kind: jobs.AbandonedSweep, Requester: requester}
	id, err = c.submit(ctx, job, accepted, retention.SweepParameters{Job: retention.AbandonedJob, Tick: time.Now().UTC()}, false)
	if err != nil {
		return "", fmt.Errorf("submit a sweep for abandoned rooms: %w", err)
	}
	return id, nil
}

// SubmitRetentionSweep accepts a sweep and returns its job's id. After an error it
// is not accepted. A second call makes a second sweep, which handles what the first
// one has left.
func (c *Client) SubmitRetentionSweep(ctx context.Context, sweep RetentionSweep) (id string, err error) {
	job := journal.Job{Kind: jobs.RetentionSweep, Requester: cmp.Or(sweep.Requester, retention.Requester)}
	id, err = c.submit(ctx, job, sweep.Acceptance, retention.SweepParameters{Job: sweep.Job, Tick: sweep.Tick.UTC()}, false)
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
	_ = extent.RecordSweep(ctx, w.db, job, run) // nothing depends on it
	return sweepWork{s}, nil
}

func (w *Worker) newAbandonedSweep(ctx context.Context, job journal.Job, run journal.Run) (work, error) {
	s, err := w.sweeper.Abandoned(ctx, job, run)
	if err != nil {
		return nil, err
	}
	_ = extent.RecordSweep(ctx, w.db, job, run) // nothing depends on it
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
