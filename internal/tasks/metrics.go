package tasks

import (
	"log/slog"

	"github.com/prometheus/client_golang/prometheus"

	"lethe/internal/jobs"
	"lethe/internal/observe"
	"lethe/internal/store/journal"
)

// modeWrite is the mode of a room's lock that a job takes.
const modeWrite = "write"

// showWorker shows the zeros of what a worker counts. A series that begins with its
// first event has no increase that an alert could see.
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
		for _, outcome := range definition.Sweep {
			sweepCounter(metrics, definition.Kind).WithLabelValues(outcome)
		}
	}
	metrics.LockWaitSeconds.WithLabelValues(modeWrite)
	metrics.LockHoldSeconds.WithLabelValues(modeWrite)
}

// sweepCounter is the counter of the rooms that sweeps of the kind decided about.
func sweepCounter(metrics *observe.Metrics, kind journal.Kind) *prometheus.CounterVec {
	if kind == jobs.AbandonedSweep {
		return metrics.AbandonedRooms
	}
	return metrics.SweepRooms
}

// showReconciler shows the zeros of what a reconciler counts.
func showReconciler(metrics *observe.Metrics) {
	for _, action := range jobs.Actions() {
		metrics.ReconcilerActions.WithLabelValues(string(action))
	}
	for _, definition := range jobs.Registry() {
		metrics.JobsEnded.WithLabelValues(string(definition.Kind), string(journal.Failed))
	}
}

// about is what the log and the traces say of a job wherever they speak of it.
func about(job journal.Job) []slog.Attr {
	return []slog.Attr{slog.String("job", job.ID), slog.String("room", job.Room), slog.String("kind", string(job.Kind))}
}
