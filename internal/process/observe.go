package process

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/redis/go-redis/v9"

	"lethe/internal/observe"
)

// show shows in the metrics what the process has whatever it is for: its pools of
// connections, and how Redis does with statuses.
func (p *process) show(registry *prometheus.Registry) {
	for _, operation := range []string{"post", "read"} {
		p.metrics.StatusFailures.WithLabelValues(operation)
	}
	p.board.OnFailure(func(operation string) { p.metrics.StatusFailures.WithLabelValues(operation).Inc() })
	observe.ShowPools(registry, map[string]func() observe.Pool{
		"database": func() observe.Pool {
			c := p.db.Connections()
			return observe.Pool{
				Open: c.Open, InUse: c.InUse, Most: c.Max,
				Waits: float64(c.Waits), WaitSeconds: c.Waited.Seconds(), GivenUp: float64(c.GivenUp),
			}
		},
		"redis_jobs":  func() observe.Pool { return redisPool(p.redis) },
		"redis_locks": func() observe.Pool { return redisPool(p.locks...) },
	})
}

// redisPool is the pools of clients together.
func redisPool(clients ...redis.UniversalClient) (sum observe.Pool) {
	for _, client := range clients {
		stats := client.PoolStats()
		sum.Open += int(stats.TotalConns)
		sum.InUse += int(stats.TotalConns) - int(stats.IdleConns)
		sum.Waits += float64(stats.WaitCount)
		sum.WaitSeconds += time.Duration(stats.WaitDurationNs).Seconds()
		sum.GivenUp += float64(stats.Timeouts)
	}
	return sum
}

// observeRead tells a histogram of durations by a lock's mode of those of readers.
func (p *process) observeRead(histogram *prometheus.HistogramVec) func(time.Duration) {
	ofReaders := histogram.WithLabelValues("read")
	return func(d time.Duration) { ofReaders.Observe(d.Seconds()) }
}

func (p *process) observe(route, method string, status int, duration time.Duration) {
	// Every code would be a histogram of its own, and a homeserver may have any.
	p.metrics.HTTPRequestSeconds.WithLabelValues(route, method, fmt.Sprintf("%dxx", status/100)).Observe(duration.Seconds())
}

// observePage returns what takes down how long pages took, of which there are none
// yet.
func (p *process) observePage() func(admin bool, duration time.Duration) {
	users, admins := p.metrics.PageSeconds.WithLabelValues("user"), p.metrics.PageSeconds.WithLabelValues("admin")
	return func(admin bool, duration time.Duration) {
		if admin {
			admins.Observe(duration.Seconds())
		} else {
			users.Observe(duration.Seconds())
		}
	}
}

// closeTracer sends the last traces. That it cannot is nobody's failure.
func closeTracer(ctx context.Context, log *slog.Logger, tracer *observe.Tracer) {
	if err := tracer.Close(ctx); err != nil {
		log.WarnContext(ctx, "last traces not sent", "error", err)
	}
}
