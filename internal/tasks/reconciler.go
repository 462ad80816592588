package tasks

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/hibiken/asynq"
	"github.com/redis/go-redis/v9"

	"lethe/internal/jobs"
	"lethe/internal/observe"
	"lethe/internal/store/journal"
	"lethe/internal/store/postgres"
	"lethe/internal/wait"
)

const (
	// reconcileInterval is how often a replica looks.
	reconcileInterval = 2 * time.Second

	// reconcileTime bounds one look.
	reconcileTime = 30 * time.Second

	// taskMissing is for how long asynq must have had no task of a queued job
	// before the job gets another.
	taskMissing = time.Minute

	// maxReconciled bounds how many jobs one look deals with, of each sort. The
	// rest is seen in the next.
	maxReconciled = 500
)

// A Reconciler finds the jobs that a worker or asynq has lost, and those whose
// rooms are not held any more, and enqueues them again. Any number of replicas may look at once: each step is decided by one
// statement on the job's row.
type Reconciler struct {
	journal  *journal.Journal
	redis    redis.UniversalClient
	board    *jobs.Board
	dispatch dispatcher
	inspect  *asynq.Inspector
	log      *slog.Logger
	metrics  *observe.Metrics

	// after is the id of the last queued job that was looked for in asynq.
	after string
}

// NewReconciler returns a Reconciler that looks through the Redis client, which
// stays the caller's to close.
func NewReconciler(db *postgres.DB, client redis.UniversalClient, board *jobs.Board, log *slog.Logger,
	metrics *observe.Metrics,
) *Reconciler {
	showReconciler(metrics)
	return &Reconciler{
		journal: journal.New(db), redis: client, board: board, dispatch: newDispatcher(client),
		inspect: asynq.NewInspectorFromRedisClient(client), log: log, metrics: metrics,
	}
}

// Run looks every 2 s until the context ends. A look that fails is logged, and
// the next one tries again.
func (r *Reconciler) Run(ctx context.Context) {
	wait.Every(ctx, reconcileInterval, func(ctx context.Context) {
		if err := r.Look(ctx); err != nil && ctx.Err() == nil {
			r.log.WarnContext(ctx, "reconciler could not look", "error", err)
		}
	})
}

// Look looks once. Without Redis it changes nothing: there is no use in a new
// generation that cannot be enqueued.
func (r *Reconciler) Look(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, reconcileTime)
	defer cancel()
	if err := r.showQueues(ctx); err != nil {
		return err
	}
	stale, err := r.journal.ReleaseStale(ctx, jobs.HeartbeatStale, maxFailures, maxReconciled)
	if err != nil {
		return err
	}
	for _, job := range stale {
		r.count(ctx, job, jobs.ActionReleased)
		r.board.Post(ctx, jobs.StatusOf(job))
		if job.State == journal.Failed {
			r.metrics.JobsEnded.WithLabelValues(string(job.Kind), string(job.State)).Inc()
		}
	}
	resumed, err := r.journal.ResumeHeld(ctx, maxReconciled)
	if err != nil {
		return err
	}
	for _, job := range resumed {
		r.count(ctx, job, jobs.ActionResumed)
		r.board.Post(ctx, jobs.StatusOf(job))
	}
	if err := r.findMissing(ctx); err != nil {
		return err
	}
	// Those released or resumed just now are among these.
	missing, err := r.journal.RequeueMissing(ctx, taskMissing, maxReconciled)
	if err != nil {
		return err
	}
	for _, job := range missing {
		if err := r.dispatch.enqueue(ctx, job); err != nil {
			return err // the rest stays marked
		}
		r.count(ctx, job, jobs.ActionEnqueued)
		if err := r.journal.MarkTaskEnqueued(ctx, job.ID, job.Generation); err != nil {
			return err
		}
	}
	return nil
}

// showQueues makes sure that asynq's inspector finds the queues.
func (r *Reconciler) showQueues(ctx context.Context) error {
	var names []any
	for _, queue := range jobs.Queues() {
		names = append(names, string(queue))
	}
	if err := r.redis.SAdd(ctx, asynqQueues, names...).Err(); err != nil {
		return fmt.Errorf("show the queues: %w", err)
	}
	return nil
}

// findMissing looks for the tasks of some queued jobs, and marks the jobs that
// have none. Successive looks go through all jobs.
func (r *Reconciler) findMissing(ctx context.Context) error {
	queued, err := r.journal.QueuedJobs(ctx, r.after, maxReconciled)
	if err != nil {
		return err
	}
	r.after = ""
	if len(queued) == maxReconciled {
		r.after = queued[len(queued)-1].ID
	}
	for _, job := range queued {
		has, err := r.hasTask(job)
		if err != nil {
			return err
		}
		switch {
		case !has && !job.TaskMissing:
			r.count(ctx, job, jobs.ActionMissed)
			err = r.journal.MarkTaskMissing(ctx, job.ID, job.Generation)
		case has && job.TaskMissing:
			err = r.journal.MarkTaskEnqueued(ctx, job.ID, job.Generation)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// hasTask reports whether asynq has a task that will come to the job. One that
// is active will not, or the job would run by now: its worker has died, or its
// lease was lost, and asynq may never give it out again.
func (r *Reconciler) hasTask(job journal.Job) (bool, error) {
	task, err := r.inspect.GetTaskInfo(string(jobs.QueueOf(job)), taskID(job.ID, job.Generation))
	if errors.Is(err, asynq.ErrTaskNotFound) || errors.Is(err, asynq.ErrQueueNotFound) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("look for the task of job %s: %w", job.ID, err)
	}
	waiting := []asynq.TaskState{asynq.TaskStatePending, asynq.TaskStateScheduled, asynq.TaskStateRetry}
	return slices.Contains(waiting, task.State), nil
}

func (r *Reconciler) count(ctx context.Context, job journal.Job, action jobs.Action) {
	r.metrics.ReconcilerActions.WithLabelValues(string(action)).Inc()
	level := slog.LevelInfo
	if action == jobs.ActionMissed {
		// Mostly a worker is just looking whether it may run. If nothing comes of it,
		// the job is enqueued.
		level = slog.LevelDebug
	}
	r.log.Log(ctx, level, "job "+string(action)+" by the reconciler", "job", job.ID, "room", job.Room, "kind", job.Kind,
		"generation", job.Generation, "state", job.State)
}
