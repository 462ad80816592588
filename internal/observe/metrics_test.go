package observe

import (
	"net/http"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
)

func TestMetrics(t *testing.T) {
	t.Parallel()
	registry := NewRegistry()
	metrics := NewMetrics(registry)
	metrics.EventsPurged.Add(7)
	metrics.HTTPRequestSeconds.WithLabelValues("/rooms/{room}", "GET", "200").Observe(.3)
	metrics.JobBatches.WithLabelValues("purge_history").Inc()
	metrics.JobBatchSeconds.WithLabelValues("purge_history").Observe(.2)
	metrics.JobRetries.WithLabelValues("purge_history").Inc()
	metrics.JobsEnded.WithLabelValues("purge_history", "complete").Inc()
	metrics.JobYields.WithLabelValues("purge_history", "drain").Inc()
	metrics.LockWaitSeconds.WithLabelValues("write").Observe(0)
	metrics.PageSeconds.WithLabelValues("user").Observe(.002)
	metrics.ReadsWithoutLease.Inc()
	metrics.ReconcilerActions.WithLabelValues("enqueue").Inc()
	metrics.ScheduleLagSeconds.WithLabelValues("daily").Set(1.5)
	metrics.ScheduleLastTick.WithLabelValues("daily").Set(1e9)
	metrics.ScheduleNextTick.WithLabelValues("daily").Set(1e9 + 86400)
	metrics.ScheduleTicks.WithLabelValues("daily", "skipped").Inc()

	response := get(NewHealth(registry, nil).Handler(), "/metrics")
	require.Equal(t, http.StatusOK, response.Code)
	lines := strings.Split(response.Body.String(), "\n")
	for _, want := range []string{
		"lethe_events_purged_total 7",
		"lethe_fence_rejections_total 0",
		`lethe_http_request_seconds_bucket{method="GET",route="/rooms/{room}",status="200",le="0.25"} 0`,
		`lethe_http_request_seconds_bucket{method="GET",route="/rooms/{room}",status="200",le="0.5"} 1`,
		`lethe_job_batch_seconds_count{kind="purge_history"} 1`,
		`lethe_job_batches_total{kind="purge_history"} 1`,
		`lethe_job_retries_total{kind="purge_history"} 1`,
		`lethe_job_yields_total{kind="purge_history",reason="drain"} 1`,
		`lethe_jobs_ended_total{kind="purge_history",state="complete"} 1`,
		"lethe_lock_losses_total 0",
		`lethe_lock_wait_seconds_count{mode="write"} 1`,
		`lethe_page_seconds_bucket{reader="user",le="0.0025"} 1`,
		"lethe_reads_without_lease_total 1",
		`lethe_reconciler_actions_total{action="enqueue"} 1`,
		`lethe_schedule_lag_seconds{schedule="daily"} 1.5`,
		`lethe_schedule_last_tick_seconds{schedule="daily"} 1e+09`,
		`lethe_schedule_next_tick_seconds{schedule="daily"} 1.0000864e+09`,
		`lethe_schedule_ticks_total{outcome="skipped",schedule="daily"} 1`,
	} {
		require.Contains(t, lines, want)
	}
	for _, want := range []string{"go_goroutines ", "go_build_info{", "process_start_time_seconds "} {
		require.Contains(t, response.Body.String(), "\n"+want)
	}

	require.Panics(t, func() { NewMetrics(registry) })
	require.NotPanics(t, func() { NewMetrics(prometheus.NewRegistry()) })
}
