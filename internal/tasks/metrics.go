package tasks

import (
	"log/slog"

	"lethe/internal/jobs"
	"lethe/internal/observe"
	"lethe/internal/store/journal"
)

// modeWrite is the lock mode in the metrics of jobs.
const modeWrite = "write"

// showWorker shows a worker's counters at 0. A series that begins with its first
// event has no increase that an alert could see.
func showWorker(metrics *observe.Metrics) {
	for _, definition := range jobs.Registry() {
		kind := string(definition.Kind)
		metrics.JobBatches.WithLabelValues(kind)
		metrics.JobBatchSeconds.WithLabelValues(kind)
		metrics.JobRetries.WithLabelValues(kind)
		metrics.JobRowWiseBatches.WithLabelValues(kind)
		metrics.JobsRunning.WithLabelValues(kind)
		metrics.RowsDeleted.WithLabelValues(kind)
		for _, state := range definition.Ends {
			metrics.JobsEnded.WithLabelValues(kind, string(state))
		}
		for _, reason := range definition.Yields {
			metrics.JobYields.WithLabelValues(kind, string(reason))
		}
	}
	metrics.LockWaitSeconds.WithLabelValues(modeWrite)
	metrics.LockHoldSeconds.WithLabelValues(modeWrite)
}

// about returns a job's attributes for logs and traces.
func about(job journal.Job) []slog.Attr {
	return []slog.Attr{slog.String("job", job.ID), slog.String("room", job.Room), slog.String("kind", string(job.Kind))}
}
