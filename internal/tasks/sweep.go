package tasks

import (
	"cmp"
	"context"
	"fmt"
	"time"

	"lethe/internal/retention"
	"lethe/internal/store/journal"
	"lethe/internal/sweep"
)

// A Sweep is a request to sweep all rooms.
type Sweep struct {
	// Kind is [jobs.RetentionSweep] or [jobs.AbandonedSweep].
	Kind journal.Kind

	// Job is the name of the retention job whose rooms are purged.
	Job string

	// Tick is the time at which the sweep was due.
	Tick time.Time

	// Requester is the user id of the admin who requests it. Defaults to the name of the
	// schedule.
	Requester string

	Acceptance
}

// SubmitSweep accepts a sweep and returns its job's id. After an error it is not
// accepted. A second call makes a second sweep, which handles what the first one has left.
func (c *Client) SubmitSweep(ctx context.Context, sweep Sweep) (id string, err error) {
	id, err = c.submit(ctx, sweep.Kind, "", cmp.Or(sweep.Requester, retention.Requester),
		retention.SweepParameters{Job: sweep.Job, Tick: sweep.Tick.UTC()}, false, sweep.Acceptance)
	if err != nil {
		return "", fmt.Errorf("submit a sweep: %w", err)
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
