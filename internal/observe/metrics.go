package observe

import (
	"runtime"
	"runtime/debug"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

// NewRegistry returns a registry with what every process shows: Go's runtime,
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

// buildInfo is lethe_build_info, which is 1 and tells by its labels what was built:
// version, the module's; revision, the commit's; and go_version.
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
		Name: "lethe_build_info", Help: "1, with what was built.",
		ConstLabels: prometheus.Labels{"version": version, "revision": revision, "go_version": runtime.Version()},
	}, func() float64 { return 1 })
}

// Metrics is what Lethe counts; docs/metrics.md tells operators. Every label has few
// values: no room, user or job may be one. A schedule is the name of a job of
// retention, of which the settings have few.
type Metrics struct {
	// AbandonedRooms (lethe_abandoned_rooms_total) counts the rooms that sweeps for
	// abandoned rooms have decided about, by outcome.
	AbandonedRooms *prometheus.CounterVec

	// EventsPurged (lethe_events_purged_total) counts events deleted by batches
	// that were committed.
	EventsPurged prometheus.Counter

	// FenceRejections (lethe_fence_rejections_total) counts batches that were
	// refused because another worker had taken the room's lock.
	FenceRejections prometheus.Counter

	// HTTPRequestSeconds (lethe_http_request_seconds) is how long requests took
	// in seconds, by route (the pattern, never the path), method and status
	// (its class, such as 2xx).
	HTTPRequestSeconds *prometheus.HistogramVec

	// JobBatches (lethe_job_batches_total) counts committed batches, by the
	// job's kind.
	JobBatches *prometheus.CounterVec

	// JobBatchSeconds (lethe_job_batch_seconds) is how long batches took from
	// begin to commit in seconds, by the job's kind. It is about as long as
	// readers had to wait.
	JobBatchSeconds *prometheus.HistogramVec

	// JobRowWiseBatches (lethe_job_row_wise_batches_total) counts those committed
	// batches whose references the server had to check row by row, by the job's
	// kind.
	JobRowWiseBatches *prometheus.CounterVec

	// JobRetries (lethe_job_retries_total) counts attempts that failed and will
	// be repeated, by the job's kind.
	JobRetries *prometheus.CounterVec

	// JobsEnded (lethe_jobs_ended_total) counts jobs that ended, by kind and by
	// the state they ended in.
	JobsEnded *prometheus.CounterVec

	// JobsRunning (lethe_jobs_running) is how many jobs this worker runs, by kind.
	JobsRunning *prometheus.GaugeVec

	// JobYields (lethe_job_yields_total) counts how often a job gave up its
	// place without having failed, by kind and reason.
	JobYields *prometheus.CounterVec

	// LockHoldSeconds (lethe_lock_hold_seconds) is for how long a room's lock was
	// held in seconds, by mode: read or write. Requests share a lock for reading.
	LockHoldSeconds *prometheus.HistogramVec

	// LockLosses (lethe_lock_losses_total) counts room locks that were lost
	// while they were held.
	LockLosses prometheus.Counter

	// LockWaitSeconds (lethe_lock_wait_seconds) is how long it took to get a
	// room's lock, or to give up, in seconds, by mode: read or write.
	LockWaitSeconds *prometheus.HistogramVec

	// PageSeconds (lethe_page_seconds) is how long it took to make a page of a
	// room's history, or fail to, in seconds, by who gets it: user or admin. The
	// wait for the room's lock is part of it, authentication and the network are
	// not.
	PageSeconds *prometheus.HistogramVec

	// QueueJobs (lethe_queue_jobs) is how many jobs there are that have not ended,
	// by queue and state: queued or running. [Metrics.LookAway] removes it, as it
	// does QueueOldestSeconds and QueueStalledSeconds.
	QueueJobs *prometheus.GaugeVec

	// QueueOldestSeconds (lethe_queue_oldest_seconds) is how long the job that
	// waits longest has been waiting for a worker, in seconds, by queue; 0 if none
	// does. A job that waits for another one of its room, or out its purge delay,
	// does not count.
	QueueOldestSeconds *prometheus.GaugeVec

	// QueueStalledSeconds (lethe_queue_stalled_seconds) is for how long the running
	// job that stands still longest has committed nothing, in seconds, by queue; 0
	// if none runs.
	QueueStalledSeconds *prometheus.GaugeVec

	// ReadsWithoutLease (lethe_reads_without_lease_total) counts pages that were
	// read without a lease of their room, since Redis was away.
	ReadsWithoutLease prometheus.Counter

	// RatePauseSeconds (lethe_rate_pause_seconds_total) is how long purges of
	// sweeps have paused, in seconds, since the fleet deletes no more rows per
	// second.
	RatePauseSeconds prometheus.Counter

	// ReconcilerActions (lethe_reconciler_actions_total) counts what the
	// reconciler did, by action.
	ReconcilerActions *prometheus.CounterVec

	// RowsDeleted (lethe_rows_deleted_total) counts what committed batches deleted,
	// by the job's kind: an event with all that belongs to it is one, and so are a
	// state group and, at the end of a room, a row of any other table.
	RowsDeleted *prometheus.CounterVec

	// StatusFailures (lethe_status_failures_total) counts the statuses of jobs that
	// Redis did not take or give, by operation: post or read.
	StatusFailures *prometheus.CounterVec

	// SweepRooms (lethe_sweep_rooms_total) counts the rooms that retention sweeps
	// have decided about, by outcome.
	SweepRooms *prometheus.CounterVec

	// ScheduleLagSeconds (lethe_schedule_lag_seconds) is for how long a tick has
	// been due that nobody has decided about, in seconds, by schedule; 0 while all
	// is well. Only a look at the database changes it.
	ScheduleLagSeconds *prometheus.GaugeVec

	// ScheduleLastTick and ScheduleNextTick (lethe_schedule_last_tick_seconds,
	// lethe_schedule_next_tick_seconds) are the last tick that was decided about
	// and the next, in Unix seconds, by schedule.
	ScheduleLastTick, ScheduleNextTick *prometheus.GaugeVec

	// ScheduleTicks (lethe_schedule_ticks_total) counts the ticks that this process
	// decided about, by schedule and outcome: noted, accepted or skipped.
	ScheduleTicks *prometheus.CounterVec
}

// seconds are the buckets of all durations: from a request that Redis answers
// to a batch that went wrong.
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
		// With no label their zero shows from the start, so that a first
		// increase is one.
		EventsPurged:      counter("lethe_events_purged_total", "Events deleted by committed batches.").WithLabelValues(),
		FenceRejections:   counter("lethe_fence_rejections_total", "Batches refused because another worker had taken the lock.").WithLabelValues(),
		LockLosses:        counter("lethe_lock_losses_total", "Room locks lost while held.").WithLabelValues(),
		ReadsWithoutLease: counter("lethe_reads_without_lease_total", "Pages read without a lease of their room.").WithLabelValues(),
		RatePauseSeconds:  counter("lethe_rate_pause_seconds_total", "How long purges of sweeps have paused for the limit of rows per second.").WithLabelValues(),

		AbandonedRooms:     counter("lethe_abandoned_rooms_total", "Rooms that sweeps for abandoned rooms decided about.", "outcome"),
		HTTPRequestSeconds: histogram("lethe_http_request_seconds", "How long HTTP requests took.", "route", "method", "status"),
		JobBatches:         counter("lethe_job_batches_total", "Committed batches.", "kind"),
		JobBatchSeconds:    histogram("lethe_job_batch_seconds", "How long batches took from begin to commit.", "kind"),
		JobRowWiseBatches:  counter("lethe_job_row_wise_batches_total", "Committed batches whose references were checked row by row.", "kind"),
		JobRetries:         counter("lethe_job_retries_total", "Attempts that failed and will be repeated.", "kind"),
		JobsEnded:          counter("lethe_jobs_ended_total", "Jobs that ended, by final state.", "kind", "state"),
		JobsRunning:        gauge("lethe_jobs_running", "Jobs that this worker runs.", "kind"),
		JobYields:          counter("lethe_job_yields_total", "Times a job gave up its place without failing.", "kind", "reason"),
		LockHoldSeconds:    histogram("lethe_lock_hold_seconds", "For how long a room's lock was held.", "mode"),
		LockWaitSeconds:    histogram("lethe_lock_wait_seconds", "How long it took to get a room's lock, or to give up.", "mode"),
		PageSeconds:        histogram("lethe_page_seconds", "How long it took to make a page of a room's history.", "reader"),
		QueueJobs:          gauge("lethe_queue_jobs", "Jobs that have not ended.", "queue", "state"),
		QueueOldestSeconds: gauge("lethe_queue_oldest_seconds", "How long the job that waits longest has been waiting for a worker.", "queue"),

		QueueStalledSeconds: gauge("lethe_queue_stalled_seconds", "For how long the running job that stands still longest has committed nothing.", "queue"),

		ReconcilerActions:  counter("lethe_reconciler_actions_total", "What the reconciler did.", "action"),
		RowsDeleted:        counter("lethe_rows_deleted_total", "Events, state groups and other rows deleted by committed batches.", "kind"),
		StatusFailures:     counter("lethe_status_failures_total", "Statuses of jobs that Redis did not take or give.", "operation"),
		SweepRooms:         counter("lethe_sweep_rooms_total", "Rooms that retention sweeps decided about.", "outcome"),
		ScheduleLagSeconds: gauge("lethe_schedule_lag_seconds", "For how long a tick has been due undecided.", "schedule"),
		ScheduleLastTick:   gauge("lethe_schedule_last_tick_seconds", "The last tick that was decided about, in Unix seconds.", "schedule"),
		ScheduleNextTick:   gauge("lethe_schedule_next_tick_seconds", "The next tick, in Unix seconds.", "schedule"),
		ScheduleTicks:      counter("lethe_schedule_ticks_total", "Ticks that this process decided about, by outcome.", "schedule", "outcome"),
	}
}

// LookAway removes what is known about the queues, for when it is known no more:
// an old figure would pass for a present one.
func (m *Metrics) LookAway() {
	m.QueueJobs.Reset()
	m.QueueOldestSeconds.Reset()
	m.QueueStalledSeconds.Reset()
}
