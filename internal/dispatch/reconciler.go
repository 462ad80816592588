package dispatch

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
	// reconcileInterval is the interval between two checks of a replica.
	reconcileInterval = 2 * time.Second

	// reconcileTime bounds one check.
	reconcileTime = 30 * time.Second

	// taskMissing is how long asynq must have had no task of a queued job before the
	// job gets another task.
	taskMissing = time.Minute

	// taskNever is that time for jobs whose generation never had a task.
	taskNever = 100 * 365 * 24 * time.Hour

	// maxReconciled bounds how many jobs of each sort one check processes. The next
	// check processes the rest.
	maxReconciled = 500
)

// A Reconciler enqueues again the jobs that a worker or asynq has lost, the jobs whose
// rooms are no longer held, those that are no longer paused, and those whose grace has
// ended. It settles absorbed jobs whose absorbing job has
// ended. Any number of replicas may run at once: each decision is one statement on the
// job's row.
type Reconciler struct {
	journal     *journal.Journal
	absorptions *journal.Absorptions
	pauses      *journal.Pauses
	redis       redis.UniversalClient
	board       *jobs.Board
	dispatcher  *Dispatcher
	log         *slog.Logger
	metrics     *observe.Metrics

	// after is the id of the last queued job that was searched for in asynq.
	after string
}

// NewReconciler returns a Reconciler that uses the Redis client, with the names of the
// board. The caller closes the client.
func NewReconciler(db *postgres.DB, client redis.UniversalClient, board *jobs.Board, log *slog.Logger,
	metrics *observe.Metrics,
) *Reconciler {
	showReconciler(metrics)
	return &Reconciler{
		journal: journal.New(db), absorptions: journal.NewAbsorptions(db), pauses: journal.NewPauses(db), redis: client,
		board: board, dispatcher: New(client, board.Names()).Keeping(board.TTL()),
		log: log, metrics: metrics,
	}
}

// Run checks every 2 s until the context ends. It logs a failed check, and the next
// one tries again.
func (r *Reconciler) Run(ctx context.Context) {
	wait.Every(ctx, reconcileInterval, func(ctx context.Context) {
		if err := r.Check(ctx); err != nil && ctx.Err() == nil {
			r.log.WarnContext(ctx, "reconciler's check failed", "error", err)
		}
	})
}

// Check checks the jobs once. Without Redis it changes nothing: a new generation
// that cannot be enqueued is of no use.
func (r *Reconciler) Check(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, reconcileTime)
	defer cancel()
	if err := r.showQueues(ctx); err != nil {
		return err
	}
	stale, err := r.journal.ReleaseStale(ctx, jobs.HeartbeatStale, MaxFailures, maxReconciled)
	if err != nil {
		return err
	}
	moved := map[string]bool{}
	for _, job := range stale {
		moved[job.ID] = true
		r.count(ctx, job, jobs.ActionReleased)
		r.board.Post(ctx, jobs.StatusOf(job))
		if job.State == journal.Failed {
			r.metrics.JobsEnded.WithLabelValues(string(job.Kind), string(job.State)).Inc()
		}
	}
	// In this order a job passes all that keeps it waiting in one check.
	for _, move := range []struct {
		action jobs.Action
		jobs   func(ctx context.Context, limit int) ([]journal.Job, error)
	}{
		{jobs.ActionResumed, r.journal.ResumeHeld},
		{jobs.ActionResumed, r.pauses.Resume},
		{jobs.ActionDue, r.pauses.QueueDue},
		{jobs.ActionPaused, r.pauses.PauseQueued},
	} {
		these, err := move.jobs(ctx, maxReconciled)
		if err != nil {
			return err
		}
		for _, job := range these {
			moved[job.ID] = true
			r.count(ctx, job, move.action)
			r.board.Post(ctx, jobs.StatusOf(job))
		}
	}
	settled, err := r.absorptions.SettleAbsorbed(ctx, maxReconciled)
	if err != nil {
		return err
	}
	for _, job := range settled {
		moved[job.ID] = true
		r.count(ctx, job, jobs.ActionSettled)
		PostSettled(ctx, r.board, r.metrics, job)
	}
	if err := r.findMissing(ctx); err != nil {
		return err
	}
	// The jobs that were just moved are among those that never had a task. If others have a
	// later generation, an operator has queued them again.
	never, err := r.journal.RequeueMissing(ctx, taskNever, maxReconciled)
	if err != nil {
		return err
	}
	for _, job := range never {
		if job.Generation > 1 && !moved[job.ID] {
			r.count(ctx, job, jobs.ActionReopened)
		}
	}
	if err := r.enqueue(ctx, never); err != nil {
		return err
	}
	lost, err := r.journal.RequeueMissing(ctx, taskMissing, maxReconciled)
	if err != nil {
		return err
	}
	return r.enqueue(ctx, lost)
}

// enqueue enqueues the tasks of jobs. After an error the rest stays marked.
func (r *Reconciler) enqueue(ctx context.Context, missing []journal.Job) error {
	for _, job := range missing {
		if err := r.dispatcher.Enqueue(ctx, job); err != nil {
			return err
		}
		r.count(ctx, job, jobs.ActionEnqueued)
		if job.Generation > 1 {
			// It may have been retried after its end, which is all that the board shows.
			r.board.Post(ctx, jobs.StatusOf(job))
		}
		if err := r.journal.MarkTaskEnqueued(ctx, job.ID, job.Generation); err != nil {
			return err
		}
	}
	return nil
}

// showQueues makes the queues known to asynq's inspector.
func (r *Reconciler) showQueues(ctx context.Context) error {
	var names []any
	for _, queue := range jobs.Queues() {
		names = append(names, r.dispatcher.names.Queue(string(queue)))
	}
	if err := r.redis.SAdd(ctx, asynqQueues, names...).Err(); err != nil {
		return fmt.Errorf("show the queues: %w", err)
	}
	return nil
}

// findMissing searches asynq for the tasks of some queued jobs, and marks the jobs
// without a task. Successive checks go through all jobs.
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

// hasTask reports whether asynq has a task that will start the job. An active task
// will not, or the job would be running by now: its worker has died or has lost the
// lease, and asynq may never deliver it again.
func (r *Reconciler) hasTask(job journal.Job) (bool, error) {
	task, err := r.dispatcher.inspect.GetTaskInfo(r.dispatcher.queueOf(job), TaskID(job.ID, job.Generation))
	if errors.Is(err, asynq.ErrTaskNotFound) || errors.Is(err, asynq.ErrQueueNotFound) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("look for the task of job %s: %w", job.ID, err)
	}
	waiting := []asynq.TaskState{asynq.TaskStatePending, asynq.TaskStateScheduled, asynq.TaskStateRetry}
	return slices.Contains(waiting, task.State), nil
}

// PostSettled posts the status of an absorbed job that has been settled, and counts
// its end.
func PostSettled(ctx context.Context, board *jobs.Board, metrics *observe.Metrics, job journal.Job) {
	if job.State.Ended() {
		metrics.JobsEnded.WithLabelValues(string(job.Kind), string(job.State)).Inc()
	}
	board.Post(ctx, jobs.StatusOf(job))
}

// showReconciler shows a reconciler's counters at 0.
func showReconciler(metrics *observe.Metrics) {
	for _, action := range jobs.Actions() {
		metrics.ReconcilerActions.WithLabelValues(string(action))
	}
	for _, definition := range jobs.Registry() {
		metrics.JobsEnded.WithLabelValues(string(definition.Kind), string(journal.Failed))
	}
	for _, state := range []journal.State{journal.Complete, journal.Failed} { // of absorbed purges
		metrics.JobsEnded.WithLabelValues(string(jobs.PurgeHistory), string(state))
	}
}

func (r *Reconciler) count(ctx context.Context, job journal.Job, action jobs.Action) {
	r.metrics.ReconcilerActions.WithLabelValues(string(action)).Inc()
	level := slog.LevelInfo
	if action == jobs.ActionMissed {
		// Usually a worker is just trying to claim the job. If it does not, the job is
		// enqueued.
		level = slog.LevelDebug
	}
	r.log.Log(ctx, level, "job "+string(action)+" by the reconciler", "job", job.ID, "room", job.Room, "kind", job.Kind,
		"generation", job.Generation, "state", job.State)
}
