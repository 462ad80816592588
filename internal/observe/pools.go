package observe

import "github.com/prometheus/client_golang/prometheus"

// A Pool is how the connections of a pool are used.
type Pool struct {
	// Open is how many connections there are, InUse how many of them somebody has.
	Open, InUse int

	// Most is how many there may be; 0 for no bound, or an unknown one.
	Most int

	// Waits counts those who had to wait for a connection, WaitSeconds is for how
	// long in all, and GivenUp counts those who waited in vain.
	Waits, WaitSeconds, GivenUp float64
}

var (
	poolConnections = prometheus.NewDesc("lethe_pool_connections",
		"Connections of a pool, by state.", []string{"pool", "state"}, nil)
	poolMost = prometheus.NewDesc("lethe_pool_connections_max",
		"How many connections a pool may have.", []string{"pool"}, nil)
	poolWaits = prometheus.NewDesc("lethe_pool_waits_total",
		"How often somebody waited for a connection of a pool.", []string{"pool"}, nil)
	poolWaitSeconds = prometheus.NewDesc("lethe_pool_wait_seconds_total",
		"How long those have waited.", []string{"pool"}, nil)
	poolGivenUp = prometheus.NewDesc("lethe_pool_waits_given_up_total",
		"How many of those waited in vain.", []string{"pool"}, nil)
)

// pools shows pools, when it is asked.
type pools map[string]func() Pool

// ShowPools shows pools, by name, in the registry: database is PostgreSQL's,
// redis_jobs and redis_locks are Redis's. The functions are called at each look and
// must answer at once. A second call with the same registry panics.
func ShowPools(registry prometheus.Registerer, show map[string]func() Pool) {
	registry.MustRegister(pools(show))
}

// Describe implements [prometheus.Collector].
func (pools) Describe(to chan<- *prometheus.Desc) {
	for _, desc := range []*prometheus.Desc{poolConnections, poolMost, poolWaits, poolWaitSeconds, poolGivenUp} {
		to <- desc
	}
}

// Collect implements [prometheus.Collector].
func (p pools) Collect(to chan<- prometheus.Metric) {
	for name, look := range p {
		pool := look()
		gauge := func(desc *prometheus.Desc, value int, labels ...string) {
			to <- prometheus.MustNewConstMetric(desc, prometheus.GaugeValue, float64(value), append([]string{name}, labels...)...)
		}
		counter := func(desc *prometheus.Desc, value float64) {
			to <- prometheus.MustNewConstMetric(desc, prometheus.CounterValue, value, name)
		}
		gauge(poolConnections, pool.InUse, "in_use")
		gauge(poolConnections, max(0, pool.Open-pool.InUse), "idle")
		if pool.Most > 0 {
			gauge(poolMost, pool.Most)
		}
		counter(poolWaits, pool.Waits)
		counter(poolWaitSeconds, pool.WaitSeconds)
		counter(poolGivenUp, pool.GivenUp)
	}
}
