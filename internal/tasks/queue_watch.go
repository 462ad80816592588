package tasks

import (
	"context"
	"log/slog"
	"time"

	"lethe/internal/observe"
	"lethe/internal/store"
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
	store   *store.Store
	log     *slog.Logger
	metrics *observe.Metrics
}

// NewQueueWatch returns a QueueWatch that shows nothing before [QueueWatch.Run].
func NewQueueWatch(db *store.Store, log *slog.Logger, metrics *observe.Metrics) *QueueWatch {
	return &QueueWatch{store: db, log: log, metrics: metrics}
}

// Run looks at once and then every 15 s until the context ends. A look that fails
// is logged, and until the next that does not, nothing is shown.
func (q *QueueWatch) Run(ctx context.Context) {
	ticker := time.NewTicker(queueWatchEvery)
	defer ticker.Stop()
	for {
		if err := q.Look(ctx); err != nil && ctx.Err() == nil {
			q.log.WarnContext(ctx, "queues not looked at", "error", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

// Look looks once.
func (q *QueueWatch) Look(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, queueWatchTime)
	defer cancel()
	open, err := q.store.Queues(ctx)
	if err != nil {
		q.metrics.ClearQueueGauges()
		return err
	}
	type queue struct {
		queued, running int
		oldest, stalled time.Duration
	}
	all := map[string]queue{queueCritical: {}, queueDefault: {}, queueLow: {}}
	for _, o := range open {
		name := queueOf(store.Job{Queue: o.Queue, Kind: o.Kind})
		sum := all[name]
		sum.queued += o.Queued
		sum.running += o.Running
		sum.oldest, sum.stalled = max(sum.oldest, o.Oldest), max(sum.stalled, o.Stalled)
		all[name] = sum
	}
	for name, queue := range all {
		q.metrics.QueueJobs.WithLabelValues(name, store.JobQueued).Set(float64(queue.queued))
		q.metrics.QueueJobs.WithLabelValues(name, store.JobRunning).Set(float64(queue.running))
		q.metrics.QueueOldestSeconds.WithLabelValues(name).Set(queue.oldest.Seconds())
		q.metrics.QueueStalledSeconds.WithLabelValues(name).Set(queue.stalled.Seconds())
	}
	return nil
}
