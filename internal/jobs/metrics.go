package jobs

import "lethe/internal/observe"

// ModeWrite is the lock mode in the metrics of jobs.
const ModeWrite = "write"

// ShowWorker shows a worker's counters at 0. A series that begins with its first
// event has no increase that an alert could see.
func ShowWorker(metrics *observe.Metrics) {
	for _, definition := range Registry() {
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
	metrics.LockWaitSeconds.WithLabelValues(ModeWrite)
	metrics.LockHoldSeconds.WithLabelValues(ModeWrite)
}
