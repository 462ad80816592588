package process

import (
	"fmt"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/redis/go-redis/v9"

	"lethe/internal/observe"
)

// showPools adds the metrics that every process has: its pools of connections, and
// the statuses that Redis failed to store or return.
func (p *process) showPools() {
	for _, operation := range []string{"post", "read"} {
		p.metrics.StatusFailures.WithLabelValues(operation)
	}
	p.board.OnFailure(func(operation string) { p.metrics.StatusFailures.WithLabelValues(operation).Inc() })
	observe.ShowPools(p.registry, map[string]func() observe.Pool{
		"database": func() observe.Pool {
			c := p.db.Connections()
			return observe.Pool{
				Open: c.Open, InUse: c.InUse, Max: c.Max,
				Waits: float64(c.Waits), WaitSeconds: c.Waited.Seconds(), GivenUp: float64(c.GivenUp),
			}
		},
		"redis_jobs":  func() observe.Pool { return redisPool(p.redis) },
		"redis_locks": func() observe.Pool { return redisPool(p.locks...) },
	})
}

// redisPool returns the sum of the pools of the clients.
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

// observeRead returns a function that adds the duration of a reader's lock to a
// histogram.
func (p *process) observeRead(histogram *prometheus.HistogramVec) func(time.Duration) {
	ofReaders := histogram.WithLabelValues("read")
	return func(d time.Duration) { ofReaders.Observe(d.Seconds()) }
}

// observe adds a request to the metrics.
func (p *process) observe(route, method string, status int, duration time.Duration) {
	// The class of the status keeps the number of histograms small: a homeserver
	// may answer with any status.
	p.metrics.HTTPRequestSeconds.WithLabelValues(route, method, fmt.Sprintf("%dxx", status/100)).Observe(duration.Seconds())
}

// observePage returns a function that adds a page of history to the metrics.
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
