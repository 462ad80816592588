package observe

import (
	"runtime"
	"runtime/debug"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

// NewRegistry returns a registry with the metrics of every Go process: the runtime,
// the process and the build.
func NewRegistry() *prometheus.Registry {
	registry := prometheus.NewRegistry()
	registry.MustRegister(
		collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
		collectors.NewBuildInfoCollector(),
		buildInfo(),
	)
	return registry
}

// buildInfo returns lethe_build_info. Its value is 1. Its labels are version (of the
// module), revision (of the commit) and go_version.
func buildInfo() prometheus.Collector {
	version, revision := "unknown", "unknown"
	if info, ok := debug.ReadBuildInfo(); ok {
		if info.Main.Version != "" {
			version = info.Main.Version
		}
		for _, setting := range info.Settings {
			if setting.Key == "vcs.revision" {
				revision = setting.Value
			}
		}
	}
	return prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "lethe_build_info", Help: "1, with the version that was built.",
		ConstLabels: prometheus.Labels{"version": version, "revision": revision, "go_version": runtime.Version()},
	}, func() float64 { return 1 })
}

// Metrics is the metrics of Lethe; docs/metrics.md describes them for operators. Every
// label has few values: a room, a user or a job is never a label. The label schedule
// is the name of a retention job, of which the settings have few.
type Metrics struct {
	// AbandonedRooms (lethe_abandoned_rooms_total) is the number of rooms that sweeps
	// for abandoned rooms have decided about, by outcome.
	AbandonedRooms *prometheus.CounterVec

	// DeploymentInfo (lethe_deployment_info) is 1, with the id of the deployment.
	DeploymentInfo *prometheus.GaugeVec

	// EventsPurged (lethe_events_purged_total) is the number of events that committed
	// batches have deleted.
	EventsPurged prometheus.Counter

	// JobsPruned (lethe_jobs_pruned_total) is the number of ended jobs whose rows were
	// deleted from the journal.
	JobsPruned prometheus.Counter

	// FenceRejections (lethe_fence_rejections_total) is the number of batches that
	// were refused because another worker had taken the room's lock.
	FenceRejections prometheus.Counter

	// HTTPRequestSeconds (lethe_http_request_seconds) is the duration of requests in
	// seconds, by route, method and status. The route is the pattern, never the path.
	// The status is its class, such as 2xx.
	HTTPRequestSeconds *prometheus.HistogramVec

	// JobBatches (lethe_job_batches_total) is the number of committed batches, by the
	// job's kind.
	JobBatches *prometheus.CounterVec

	// JobBatchSeconds (lethe_job_batch_seconds) is the duration of batches in seconds,
	// from begin to commit, by the job's kind. Readers of the room wait about as long.
	JobBatchSeconds *prometheus.HistogramVec

	// JobRowWiseBatches (lethe_job_row_wise_batches_total) is the number of committed
	// batches whose references PostgreSQL had to check row by row, by the job's kind.
	JobRowWiseBatches *prometheus.CounterVec

	// HomeserverLockSeconds (lethe_homeserver_lock_seconds) is how long it took to lock a
	// room at the homeserver, or to give up, in seconds.
	HomeserverLockSeconds prometheus.Observer

	// HomeserverMessages (lethe_homeserver_messages_total) is the number of messages to
	// the homeserver's processes, by message and outcome.
	HomeserverMessages *prometheus.CounterVec

	// MappingsSwept (lethe_mappings_swept_total) is the number of rows of
	// event_to_state_groups that were deleted after their delay.
	MappingsSwept prometheus.Counter

	// JobRetries (lethe_job_retries_total) is the number of runs that failed and will
	// be repeated, by the job's kind.
	JobRetries *prometheus.CounterVec

	// JobsEnded (lethe_jobs_ended_total) is the number of jobs that have ended, by
	// kind and final state.
	JobsEnded *prometheus.CounterVec

	// JobsRunning (lethe_jobs_running) is the number of jobs that this worker runs, by
	// kind.
	JobsRunning *prometheus.GaugeVec

	// JobYields (lethe_job_yields_total) is how often a job stopped running before its
	// end without having failed, by kind and reason.
	JobYields *prometheus.CounterVec

	// LockHoldSeconds (lethe_lock_hold_seconds) is how long a room's lock was held in
	// seconds, by mode: read or write. Requests share the lock for reading.
	LockHoldSeconds *prometheus.HistogramVec

	// LockLosses (lethe_lock_losses_total) is the number of room locks that were lost
	// while they were held.
	LockLosses prometheus.Counter

	// LockWaitSeconds (lethe_lock_wait_seconds) is how long it took to get a room's
	// lock, or to give up, in seconds, by mode: read or write.
	LockWaitSeconds *prometheus.HistogramVec

	// PageSeconds (lethe_page_seconds) is how long it took to make a page of history,
	// or to fail, in seconds, by reader: user or admin. It includes the wait for the
	// room's lock, but not authentication or the network.
	PageSeconds *prometheus.HistogramVec

	// QueueJobs (lethe_queue_jobs) is the number of jobs that have not ended, or were
	// cancelled in the last hour, by queue and state. [Metrics.ClearQueueGauges] removes it.
	QueueJobs *prometheus.GaugeVec

	// QueueOldestSeconds (lethe_queue_oldest_seconds) is how long the oldest queued
	// job has waited for a worker, in seconds, by queue; 0 if no job waits. Jobs that
	// wait for another job of their room, or for the end of their purge delay, do not
	// count. [Metrics.ClearQueueGauges] removes it.
	QueueOldestSeconds *prometheus.GaugeVec

	// QueueStalledSeconds (lethe_queue_stalled_seconds) is the longest time for which
	// a running job has committed nothing, in seconds, by queue; 0 if no job runs.
	// [Metrics.ClearQueueGauges] removes it.
	QueueStalledSeconds *prometheus.GaugeVec

	// ReadsWithoutLease (lethe_reads_without_lease_total) is the number of pages that
	// were read without a lease of their room, because Redis could not be reached.
	ReadsWithoutLease prometheus.Counter

	// BrakePauseSeconds (lethe_brake_pause_seconds_total) is how long jobs have paused for
	// the brake, in seconds.
	BrakePauseSeconds prometheus.Counter

	// BrakeShare (lethe_brake_share) is for which share of its time the brake lets a job
	// work, from 0 to 1.
	BrakeShare prometheus.Gauge

	// RatePauseSeconds (lethe_rate_pause_seconds_total) is how long purges of sweeps
	// have paused to keep retention.rows_per_second, in seconds.
	RatePauseSeconds prometheus.Counter

	// ReconcilerActions (lethe_reconciler_actions_total) is the number of the
	// reconciler's actions, by action.
	ReconcilerActions *prometheus.CounterVec

	// RowsDeleted (lethe_rows_deleted_total) is the number of rows that committed
	// batches have deleted, by the job's kind. An event counts as one row, with
	// everything that belongs to it. A state group counts as one row, and so does, at
	// the end of a room's delete, a row of any other table.
	RowsDeleted *prometheus.CounterVec

	// RowsLeft (lethe_rows_left_total) is the number of rows that checks after deletes
	// have found and that the deletes should have deleted, by the job's kind.
	RowsLeft *prometheus.CounterVec

	// StatusFailures (lethe_status_failures_total) is the number of job statuses that
	// Redis failed to store or return, by operation: post or read.
	StatusFailures *prometheus.CounterVec

	// SweepRooms (lethe_sweep_rooms_total) is the number of rooms that retention
	// sweeps have decided about, by outcome.
	SweepRooms *prometheus.CounterVec

	// UnknownTasks (lethe_unknown_tasks_total) is the number of tasks that name no job of
	// the database.
	UnknownTasks prometheus.Counter

	// ScheduleLagSeconds (lethe_schedule_lag_seconds) is how long the oldest tick
	// without a decision has been due, in seconds, by schedule; 0 if there is no such
	// tick. It changes only when the scheduler has read the database.
	ScheduleLagSeconds *prometheus.GaugeVec

	// ScheduleLastTick (lethe_schedule_last_tick_seconds) is the time of the last tick
	// that was decided about, in Unix seconds, by schedule.
	ScheduleLastTick *prometheus.GaugeVec

	// ScheduleNextTick (lethe_schedule_next_tick_seconds) is the time of the next
	// tick, in Unix seconds, by schedule.
	ScheduleNextTick *prometheus.GaugeVec

	// ScheduleTicks (lethe_schedule_ticks_total) is the number of ticks that this
	// process has decided about, by schedule and outcome: noted, accepted or skipped.
	ScheduleTicks *prometheus.CounterVec
}

// seconds are the buckets of all durations, from a request that only needs Redis to
// a batch that has gone wrong.
var seconds = []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30}

// NewMetrics returns metrics that are registered on reg. A second call with the
// same reg panics.
func NewMetrics(reg prometheus.Registerer) *Metrics {
	factory := promauto.With(reg)
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		return factory.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, labels)
	}
	gauge := func(name, help string, labels ...string) *prometheus.GaugeVec {
		return factory.NewGaugeVec(prometheus.GaugeOpts{Name: name, Help: help}, labels)
	}
	histogram := func(name, help string, labels ...string) *prometheus.HistogramVec {
		return factory.NewHistogramVec(prometheus.HistogramOpts{Name: name, Help: help, Buckets: seconds}, labels)
	}
	return &Metrics{
		// A metric without labels shows 0 from the start. So the first increase
		// is visible as one.
		EventsPurged:      counter("lethe_events_purged_total", "Events deleted by committed batches.").WithLabelValues(),
		FenceRejections:   counter("lethe_fence_rejections_total", "Batches refused because another worker had taken the room's lock.").WithLabelValues(),
		JobsPruned:        counter("lethe_jobs_pruned_total", "Ended jobs whose rows were deleted from the journal.").WithLabelValues(),
		MappingsSwept:     counter("lethe_mappings_swept_total", "Rows of event_to_state_groups deleted after their delay.").WithLabelValues(),
		LockLosses:        counter("lethe_lock_losses_total", "Room locks lost while held.").WithLabelValues(),
		ReadsWithoutLease: counter("lethe_reads_without_lease_total", "Pages read without a lease of their room.").WithLabelValues(),
		UnknownTasks:      counter("lethe_unknown_tasks_total", "Tasks that name no job of the database.").WithLabelValues(),
		BrakePauseSeconds: counter("lethe_brake_pause_seconds_total", "How long jobs have paused for the brake.").WithLabelValues(),
		BrakeShare:        gauge("lethe_brake_share", "The share of its time for which the brake lets a job work.").WithLabelValues(),
		RatePauseSeconds:  counter("lethe_rate_pause_seconds_total", "How long purges of sweeps have paused to keep retention.rows_per_second.").WithLabelValues(),

		AbandonedRooms:        counter("lethe_abandoned_rooms_total", "Rooms that sweeps for abandoned rooms have decided about.", "outcome"),
		DeploymentInfo:        gauge("lethe_deployment_info", "1, with the id of the deployment.", "deployment"),
		HTTPRequestSeconds:    histogram("lethe_http_request_seconds", "How long HTTP requests took.", "route", "method", "status"),
		HomeserverLockSeconds: histogram("lethe_homeserver_lock_seconds", "How long it took to lock a room at the homeserver, or to give up.").WithLabelValues(),
		HomeserverMessages:    counter("lethe_homeserver_messages_total", "Messages to the homeserver's processes.", "message", "outcome"),
		JobBatches:            counter("lethe_job_batches_total", "Committed batches.", "kind"),
		JobBatchSeconds:       histogram("lethe_job_batch_seconds", "How long batches took from begin to commit.", "kind"),
		JobRowWiseBatches:     counter("lethe_job_row_wise_batches_total", "Committed batches whose references were checked row by row.", "kind"),
		JobRetries:            counter("lethe_job_retries_total", "Runs that failed and will be repeated.", "kind"),
		JobsEnded:             counter("lethe_jobs_ended_total", "Jobs that ended, by final state.", "kind", "state"),
		JobsRunning:           gauge("lethe_jobs_running", "Jobs that this worker runs.", "kind"),
		JobYields:             counter("lethe_job_yields_total", "Times a job stopped running before its end without having failed.", "kind", "reason"),
		LockHoldSeconds:       histogram("lethe_lock_hold_seconds", "How long a room's lock was held.", "mode"),
		LockWaitSeconds:       histogram("lethe_lock_wait_seconds", "How long it took to get a room's lock, or to give up.", "mode"),
		PageSeconds:           histogram("lethe_page_seconds", "How long it took to make a page of a room's history.", "reader"),
		QueueJobs:             gauge("lethe_queue_jobs", "Jobs that have not ended.", "queue", "state"),
		QueueOldestSeconds:    gauge("lethe_queue_oldest_seconds", "How long the oldest queued job has waited for a worker.", "queue"),

		QueueStalledSeconds: gauge("lethe_queue_stalled_seconds", "The longest time for which a running job has committed nothing.", "queue"),

		ReconcilerActions:  counter("lethe_reconciler_actions_total", "Actions of the reconciler.", "action"),
		RowsDeleted:        counter("lethe_rows_deleted_total", "Events, state groups and other rows deleted by committed batches.", "kind"),
		RowsLeft:           counter("lethe_rows_left_total", "Rows that checks after deletes have found.", "kind"),
		StatusFailures:     counter("lethe_status_failures_total", "Job statuses that Redis failed to store or return.", "operation"),
		SweepRooms:         counter("lethe_sweep_rooms_total", "Rooms that retention sweeps have decided about.", "outcome"),
		ScheduleLagSeconds: gauge("lethe_schedule_lag_seconds", "How long the oldest tick without a decision has been due.", "schedule"),
		ScheduleLastTick:   gauge("lethe_schedule_last_tick_seconds", "Time of the last tick that was decided about, in Unix seconds.", "schedule"),
		ScheduleNextTick:   gauge("lethe_schedule_next_tick_seconds", "Time of the next tick, in Unix seconds.", "schedule"),
		ScheduleTicks:      counter("lethe_schedule_ticks_total", "Ticks that this process has decided about, by outcome.", "schedule", "outcome"),
	}
}

// ClearQueueGauges removes the gauges of the queues. Call it when their values are
// not known any more, so that an old value does not look current.
func (m *Metrics) ClearQueueGauges() {
	m.QueueJobs.Reset()
	m.QueueOldestSeconds.Reset()
	m.QueueStalledSeconds.Reset()
}
