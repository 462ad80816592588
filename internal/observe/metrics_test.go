package observe

import (
	"context"
	"errors"
	"log/slog"
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
	metrics.HTTPRequestSeconds.WithLabelValues("/rooms/{room}", "GET", "2xx").Observe(.3)
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

	metrics.QueueJobs.WithLabelValues("low", "queued").Set(3)
	metrics.QueueOldestSeconds.WithLabelValues("low").Set(7)
	ShowPools(registry, map[string]func() Pool{
		"database": func() Pool {
			return Pool{Open: 5, InUse: 2, Max: 16, Waits: 9, WaitSeconds: 1.5, GivenUp: 1}
		},
		"redis_jobs": func() Pool { return Pool{Open: 1, InUse: 2} },
	})
	ShowCaches(registry, map[string]func() Cache{
		"events": func() Cache { return Cache{Hits: 9, Misses: 3, Evictions: 1, Bytes: 1000} },
	})

	health := NewHealth(registry, slog.New(slog.DiscardHandler), map[string]Check{
		"database": passing,
		"redis":    func(context.Context) error { return errors.New("") },
	}).Metrics()
	response := get(health, "/metrics")
	require.Equal(t, http.StatusOK, response.Code)
	lines := strings.Split(response.Body.String(), "\n")
	for _, want := range []string{
		`lethe_cache_bytes{cache="events"} 1000`,
		`lethe_cache_evictions_total{cache="events"} 1`,
		`lethe_cache_hits_total{cache="events"} 9`,
		`lethe_cache_misses_total{cache="events"} 3`,
		`lethe_check_passing{check="database"} 1`,
		`lethe_check_passing{check="redis"} 0`,
		"lethe_events_purged_total 7",
		"lethe_fence_rejections_total 0",
		`lethe_http_request_seconds_bucket{method="GET",route="/rooms/{room}",status="2xx",le="0.25"} 0`,
		`lethe_http_request_seconds_bucket{method="GET",route="/rooms/{room}",status="2xx",le="0.5"} 1`,
		`lethe_job_batch_seconds_count{kind="purge_history"} 1`,
		`lethe_job_batches_total{kind="purge_history"} 1`,
		`lethe_job_retries_total{kind="purge_history"} 1`,
		`lethe_job_yields_total{kind="purge_history",reason="drain"} 1`,
		`lethe_jobs_ended_total{kind="purge_history",state="complete"} 1`,
		"lethe_lock_losses_total 0",
		`lethe_lock_wait_seconds_count{mode="write"} 1`,
		`lethe_page_seconds_bucket{reader="user",le="0.0025"} 1`,
		`lethe_pool_connections{pool="database",state="idle"} 3`,
		`lethe_pool_connections{pool="database",state="in_use"} 2`,
		`lethe_pool_connections{pool="redis_jobs",state="idle"} 0`,
		`lethe_pool_connections_max{pool="database"} 16`,
		`lethe_pool_wait_seconds_total{pool="database"} 1.5`,
		`lethe_pool_waits_given_up_total{pool="database"} 1`,
		`lethe_pool_waits_total{pool="database"} 9`,
		`lethe_queue_jobs{queue="low",state="queued"} 3`,
		`lethe_queue_oldest_seconds{queue="low"} 7`,
		"lethe_reads_without_lease_total 1",
		`lethe_reconciler_actions_total{action="enqueue"} 1`,
		`lethe_schedule_lag_seconds{schedule="daily"} 1.5`,
		`lethe_schedule_last_tick_seconds{schedule="daily"} 1e+09`,
		`lethe_schedule_next_tick_seconds{schedule="daily"} 1.0000864e+09`,
		`lethe_schedule_ticks_total{outcome="skipped",schedule="daily"} 1`,
	} {
		require.Contains(t, lines, want)
	}
	for _, want := range []string{"lethe_build_info{", "go_goroutines ", "go_build_info{", "process_start_time_seconds "} {
		require.Contains(t, response.Body.String(), "\n"+want)
	}

	require.NotContains(t, response.Body.String(), `connections_max{pool="redis_jobs"}`)
	metrics.ClearQueueGauges()
	require.NotContains(t, get(health, "/metrics").Body.String(), "lethe_queue_")

	require.Panics(t, func() { NewMetrics(registry) })
	require.NotPanics(t, func() { NewMetrics(prometheus.NewRegistry()) })
}
