package schedule

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"time"

	"lethe/internal/jobs"
	"lethe/internal/observe"
	"lethe/internal/retention"
	"lethe/internal/store/audit"
	"lethe/internal/store/journal"
	"lethe/internal/store/postgres"
	"lethe/internal/tasks"
)

// An OpenError says that a job already has a sweep that has not ended.
type OpenError struct {
	// Sweep is the id of that sweep, and State its state.
	Sweep string
	State journal.State
}

// Error implements [error].
func (e *OpenError) Error() string {
	return fmt.Sprintf("the schedule has a sweep that has not ended: %s is %s", e.Sweep, e.State)
}

// A Runner makes sweeps that users ask for between two ticks. It is safe for concurrent
// use.
type Runner struct {
	schedules *journal.Schedules
	log       *slog.Logger
	enqueuer
}

// An enqueuer enqueues accepted sweeps.
type enqueuer struct {
	journal *journal.Journal
	client  *tasks.Client
}

// NewRunner returns a Runner that enqueues sweeps through the client.
func NewRunner(db *postgres.DB, client *tasks.Client, log *slog.Logger) *Runner {
	return &Runner{journal.NewSchedules(db), log, enqueuer{journal.New(db), client}}
}

// A Request asks for a sweep now.
type Request struct {
	// Entry is the job to sweep. When is not read.
	Entry

	// Requester is the user who asks, and Reason why, for the job's log. Reason defaults
	// to "".
	Requester, Reason string

	// Grace is how long the sweep waits, in which it can be cancelled. Defaults to 0, no
	// wait.
	Grace time.Duration
}

// Run accepts a sweep now, as a tick does, and returns its row. It fails with an
// [*OpenError] while a sweep of the same job has not ended. A second call fails so until the
// sweep of the first has ended. The next tick comes at its time. It is skipped if the sweep
// has not ended by then.
func (r *Runner) Run(ctx context.Context, request Request) (journal.Job, error) {
	const operation = "run a schedule"
	parameters, err := json.Marshal(retention.SweepParameters{Job: request.Name, Tick: time.Now().UTC()})
	if err != nil {
		return journal.Job{}, fmt.Errorf("%s: encode the job's parameters: %w", operation, err)
	}
	origin := observe.OriginOf(ctx)
	sweep, accepted, err := r.schedules.RunNow(ctx, request.Name, journal.Job{
		ID: jobs.NewID(), Kind: request.Kind, Parameters: parameters, Requester: request.Requester, Grace: request.Grace, Way: audit.WayOf(ctx),
		Reason: postgres.Sanitize(request.Reason), TraceParent: origin.TraceParent, RequestID: origin.RequestID,
	})
	switch {
	case err != nil:
		return journal.Job{}, err
	case !accepted:
		return journal.Job{}, fmt.Errorf("%s: %w", operation, &OpenError{sweep.ID, sweep.State})
	}
	log := r.log.With("schedule", request.Name)
	log.InfoContext(ctx, "job accepted", "job", sweep.ID, "kind", sweep.Kind, "requester", sweep.Requester, "grace", request.Grace.String())
	if request.Grace == 0 { // otherwise the reconciler enqueues it at the end of the grace
		r.enqueue(ctx, sweep, log)
	}
	return sweep, nil
}

// enqueue enqueues an accepted sweep. The sweep's row counts as never enqueued
// until it is marked, so the reconciler repairs every failure here.
func (e enqueuer) enqueue(ctx context.Context, sweep journal.Job, log *slog.Logger) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), enqueueTime)
	defer cancel()
	if err := e.client.Enqueue(ctx, sweep); err != nil {
		log.WarnContext(ctx, "job not enqueued: left to the reconciler", "job", sweep.ID, "error", err)
		return
	}
	if err := e.journal.MarkTaskEnqueued(ctx, sweep.ID, sweep.Generation); err != nil {
		log.WarnContext(ctx, "job not marked as enqueued", "job", sweep.ID, "error", err)
	}
}
