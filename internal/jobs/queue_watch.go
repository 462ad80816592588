package jobs

import (
	"context"
	"log/slog"
	"time"

	"lethe/internal/observe"
	"lethe/internal/store/journal"
	"lethe/internal/store/postgres"
	"lethe/internal/wait"
)

const (
	// queueWatchEvery is the interval between two checks.
	queueWatchEvery = 15 * time.Second

	// queueWatchTime bounds one check.
	queueWatchTime = 5 * time.Second
)

// A QueueWatch shows the length of the queues and the age of their jobs in the
// metrics. It asks PostgreSQL and not asynq, which may have lost a waiting job.
// Every scheduler has one, and all show the same.
type QueueWatch struct {
	journal *journal.Journal
	log     *slog.Logger
	metrics *observe.Metrics
}

// NewQueueWatch returns a QueueWatch. It shows nothing before [QueueWatch.Run].
func NewQueueWatch(db *postgres.DB, log *slog.Logger, metrics *observe.Metrics) *QueueWatch {
	return &QueueWatch{journal: journal.New(db), log: log, metrics: metrics}
}

// Run checks at once and then every 15 s until the context ends. It logs a failed
// check, and the metrics then show nothing until the next successful one.
func (q *QueueWatch) Run(ctx context.Context) {
	check := func(ctx context.Context) {
		if err := q.Check(ctx); err != nil && ctx.Err() == nil {
			q.log.WarnContext(ctx, "queues not checked", "error", err)
		}
	}
	check(ctx)
	wait.Every(ctx, queueWatchEvery, check)
}

// Check checks the queues once.
func (q *QueueWatch) Check(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, queueWatchTime)
	defer cancel()
	open, err := q.journal.Queues(ctx)
	if err != nil {
		q.metrics.ClearQueueGauges()
		return err
	}
	type queue struct {
		jobs            map[journal.State]int
		oldest, stalled time.Duration
	}
	all := map[journal.Queue]*queue{}
	for _, name := range Queues() {
		all[name] = &queue{jobs: map[journal.State]int{}}
	}
	for _, o := range open {
		sum := all[QueueOf(journal.Job{Queue: o.Queue, Kind: o.Kind})]
		for state, jobs := range map[journal.State]int{
			journal.Scheduled: o.Scheduled, journal.Queued: o.Queued, journal.Running: o.Running,
			journal.Held: o.Held, journal.Paused: o.Paused, journal.Absorbed: o.Absorbed,
			journal.Cancelled: o.Cancelled,
		} {
			sum.jobs[state] += jobs
		}
		sum.oldest, sum.stalled = max(sum.oldest, o.Oldest), max(sum.stalled, o.Stalled)
	}
	for name, queue := range all {
		for _, state := range journal.States() {
			if !state.Ended() || state == journal.Cancelled {
				q.metrics.QueueJobs.WithLabelValues(string(name), string(state)).Set(float64(queue.jobs[state]))
			}
		}
		q.metrics.QueueOldestSeconds.WithLabelValues(string(name)).Set(queue.oldest.Seconds())
		q.metrics.QueueStalledSeconds.WithLabelValues(string(name)).Set(queue.stalled.Seconds())
	}
	return nil
}
