package tasks

import (
	"context"
	"log/slog"
	"time"

	"lethe/internal/jobs"
	"lethe/internal/observe"
	"lethe/internal/store/journal"
	"lethe/internal/store/postgres"
	"lethe/internal/wait"
)

const (
	// queueWatchEvery is how often the queues are looked at.
	queueWatchEvery = 15 * time.Second

	// queueWatchTime bounds one look.
	queueWatchTime = 5 * time.Second
)

// A QueueWatch shows in the metrics how long the queues are, and how old what is in
// them. It asks PostgreSQL, which is the truth: what asynq has lost still waits.
// Every scheduler has one, and all show the same.
type QueueWatch struct {
	journal *journal.Journal
	log     *slog.Logger
	metrics *observe.Metrics
}

// NewQueueWatch returns a QueueWatch that shows nothing before [QueueWatch.Run].
func NewQueueWatch(db *postgres.DB, log *slog.Logger, metrics *observe.Metrics) *QueueWatch {
	return &QueueWatch{journal: journal.New(db), log: log, metrics: metrics}
}

// Run looks at once and then every 15 s until the context ends. A look that fails
// is logged, and until the next that does not, nothing is shown.
func (q *QueueWatch) Run(ctx context.Context) {
	q.look(ctx)
	wait.Every(ctx, queueWatchEvery, q.look)
}

func (q *QueueWatch) look(ctx context.Context) {
	if err := q.Look(ctx); err != nil && ctx.Err() == nil {
		q.log.WarnContext(ctx, "queues not looked at", "error", err)
	}
}

// Look looks once.
func (q *QueueWatch) Look(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, queueWatchTime)
	defer cancel()
	open, err := q.journal.Queues(ctx)
	if err != nil {
		q.metrics.ClearQueueGauges()
		return err
	}
	type queue struct {
		queued, running int
		oldest, stalled time.Duration
	}
	all := map[journal.Queue]queue{}
	for _, name := range jobs.Queues() {
		all[name] = queue{}
	}
	for _, o := range open {
		name := jobs.QueueOf(journal.Job{Queue: o.Queue, Kind: o.Kind})
		sum := all[name]
		sum.queued += o.Queued
		sum.running += o.Running
		sum.oldest, sum.stalled = max(sum.oldest, o.Oldest), max(sum.stalled, o.Stalled)
		all[name] = sum
	}
	for name, queue := range all {
		q.metrics.QueueJobs.WithLabelValues(string(name), string(journal.Queued)).Set(float64(queue.queued))
		q.metrics.QueueJobs.WithLabelValues(string(name), string(journal.Running)).Set(float64(queue.running))
		q.metrics.QueueOldestSeconds.WithLabelValues(string(name)).Set(queue.oldest.Seconds())
		q.metrics.QueueStalledSeconds.WithLabelValues(string(name)).Set(queue.stalled.Seconds())
	}
	return nil
}
