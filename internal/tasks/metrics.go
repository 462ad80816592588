package tasks

import (
	"log/slog"

	"lethe/internal/jobs"
	"lethe/internal/observe"
	"lethe/internal/store"
)

// kinds are the kinds of jobs.
var kinds = []jobs.Kind{jobs.PurgeHistory, jobs.DeleteRoom, jobs.RetentionSweep}

// modeWrite is the mode of a room's lock that a job takes.
const modeWrite = "write"

// The reasons for which a run gives its job back to the queue.
const (
	yieldDrain       = "drain"
	yieldLowQueue    = "low queue"
	yieldPurgeDelay  = "purge delay"
	yieldQueueFull   = "queue full"
	yieldRate        = "rate"
	yieldRoomBusy    = "room busy"
	yieldRoomLocked  = "room locked"
	yieldSlice       = "slice"
	yieldTimeout     = "timeout"
	yieldUnreachable = "database unreachable"
)

// The actions of the reconciler: a job is taken from a worker that has vanished,
// found to have no task in asynq that waits, or given a new one.
const (
	actionReleased = "released"
	actionMissed   = "missed"
	actionEnqueued = "enqueued"
)

// showWorker shows the zeros of what a worker counts: what begins to be there with
// its first event has no increase that could be seen.
func showWorker(metrics *observe.Metrics) {
	reasons := []string{
		yieldDrain, yieldLowQueue, yieldPurgeDelay, yieldQueueFull, yieldRate, yieldRoomBusy, yieldRoomLocked, yieldSlice,
		yieldTimeout, yieldUnreachable,
	}
	for _, kind := range kinds {
		kind := string(kind)
		metrics.JobBatches.WithLabelValues(kind)
		metrics.JobBatchSeconds.WithLabelValues(kind)
		metrics.JobRetries.WithLabelValues(kind)
		metrics.JobRowWiseBatches.WithLabelValues(kind)
		metrics.JobsRunning.WithLabelValues(kind)
		metrics.RowsDeleted.WithLabelValues(kind)
		for _, state := range []jobs.State{jobs.Complete, jobs.Failed} {
			metrics.JobsEnded.WithLabelValues(kind, string(state))
		}
		for _, reason := range reasons {
			metrics.JobYields.WithLabelValues(kind, reason)
		}
	}
	metrics.LockWaitSeconds.WithLabelValues(modeWrite)
	metrics.LockHoldSeconds.WithLabelValues(modeWrite)
	for outcome := range new(sweepResult).outcomes() {
		metrics.SweepRooms.WithLabelValues(outcome)
	}
}

// showReconciler does so for what a reconciler counts.
func showReconciler(metrics *observe.Metrics) {
	for _, action := range []string{actionReleased, actionMissed, actionEnqueued} {
		metrics.ReconcilerActions.WithLabelValues(action)
	}
	for _, kind := range kinds {
		metrics.JobsEnded.WithLabelValues(string(kind), string(jobs.Failed))
	}
}

// showSchedules does so for what a scheduler counts.
func showSchedules(metrics *observe.Metrics, due []scheduled) {
	for _, job := range due {
		for _, outcome := range []string{store.TickNoted, store.TickAccepted, store.TickSkipped} {
			metrics.ScheduleTicks.WithLabelValues(job.Name, outcome)
		}
	}
}

// countDeleted counts what a committed batch has deleted, and whether its
// references were checked row by row.
func (w *Worker) countDeleted(kind jobs.Kind, events, stateGroups, others, rowWise int64) {
	w.metrics.EventsPurged.Add(float64(events))
	w.metrics.RowsDeleted.WithLabelValues(string(kind)).Add(float64(events + stateGroups + others))
	w.metrics.JobRowWiseBatches.WithLabelValues(string(kind)).Add(float64(rowWise))
}

// about is what the log and the traces say of a job wherever they speak of it.
func about(job store.Job) []slog.Attr {
	return []slog.Attr{slog.String("job", job.ID), slog.String("room", job.Room), slog.String("kind", job.Kind)}
}
