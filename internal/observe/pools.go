package observe

import "github.com/prometheus/client_golang/prometheus"

// A Pool is the state of a connection pool.
type Pool struct {
	// Open is the number of connections.
	Open int

	// InUse is the number of connections in use.
	InUse int

	// Max is the largest number of connections, or 0 if it is not limited or not
	// known.
	Max int

	// Waits is how often a caller had to wait for a connection.
	Waits float64

	// WaitSeconds is the total time of these waits, in seconds.
	WaitSeconds float64

	// GivenUp is how many of these waits ended without a connection.
	GivenUp float64
}

var (
	poolConnections = prometheus.NewDesc("lethe_pool_connections",
		"Connections of a pool, by state.", []string{"pool", "state"}, nil)
	poolMax = prometheus.NewDesc("lethe_pool_connections_max",
		"The largest number of connections of a pool.", []string{"pool"}, nil)
	poolWaits = prometheus.NewDesc("lethe_pool_waits_total",
		"How often a caller waited for a connection of a pool.", []string{"pool"}, nil)
	poolWaitSeconds = prometheus.NewDesc("lethe_pool_wait_seconds_total",
		"How long these callers have waited.", []string{"pool"}, nil)
	poolGivenUp = prometheus.NewDesc("lethe_pool_waits_given_up_total",
		"How many of these waits ended without a connection.", []string{"pool"}, nil)
)

// pools shows the state of pools, when it is collected.
type pools map[string]func() Pool

// ShowPools adds pools to the registry, by name: database for PostgreSQL, redis_jobs
// and redis_locks for Redis. Each request for the metrics calls the functions, which
// must return at once. A second call with the same registry panics.
func ShowPools(registry prometheus.Registerer, show map[string]func() Pool) {
	registry.MustRegister(pools(show))
}

// Describe implements [prometheus.Collector].
func (pools) Describe(to chan<- *prometheus.Desc) {
	for _, desc := range []*prometheus.Desc{poolConnections, poolMax, poolWaits, poolWaitSeconds, poolGivenUp} {
		to <- desc
	}
}

// Collect implements [prometheus.Collector].
func (p pools) Collect(to chan<- prometheus.Metric) {
	for name, state := range p {
		pool := state()
		gauge := func(desc *prometheus.Desc, value int, labels ...string) {
			to <- prometheus.MustNewConstMetric(desc, prometheus.GaugeValue, float64(value), append([]string{name}, labels...)...)
		}
		counter := func(desc *prometheus.Desc, value float64) {
			to <- prometheus.MustNewConstMetric(desc, prometheus.CounterValue, value, name)
		}
		gauge(poolConnections, pool.InUse, "in_use")
		gauge(poolConnections, max(0, pool.Open-pool.InUse), "idle")
		if pool.Max > 0 {
			gauge(poolMax, pool.Max)
		}
		counter(poolWaits, pool.Waits)
		counter(poolWaitSeconds, pool.WaitSeconds)
		counter(poolGivenUp, pool.GivenUp)
	}
}
