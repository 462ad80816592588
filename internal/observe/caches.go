package observe

import "github.com/prometheus/client_golang/prometheus"

// A Cache is the state of a cache.
type Cache struct {
	// Hits is how often the cache had what was asked for, and Misses how often it did not.
	Hits, Misses float64

	// Evictions is how much was forgotten to make room.
	Evictions float64

	// Bytes is the memory that the cache takes.
	Bytes float64
}

var (
	cacheHits = prometheus.NewDesc("lethe_cache_hits_total",
		"How often a cache had what was asked for.", []string{"cache"}, nil)
	cacheMisses = prometheus.NewDesc("lethe_cache_misses_total",
		"How often a cache did not have what was asked for, or had it in another version.", []string{"cache"}, nil)
	cacheEvictions = prometheus.NewDesc("lethe_cache_evictions_total",
		"How many entries a cache has forgotten to make room.", []string{"cache"}, nil)
	cacheBytes = prometheus.NewDesc("lethe_cache_bytes",
		"The memory that a cache takes, in bytes.", []string{"cache"}, nil)
)

// caches shows the state of caches, when it is collected.
type caches map[string]func() Cache

// ShowCaches adds caches to the registry, by name: events and states. Each request for the
// metrics calls the functions, which must return at once. A second call with the same
// registry panics.
func ShowCaches(registry prometheus.Registerer, show map[string]func() Cache) {
	registry.MustRegister(caches(show))
}

// Describe implements [prometheus.Collector].
func (caches) Describe(to chan<- *prometheus.Desc) {
	for _, desc := range []*prometheus.Desc{cacheHits, cacheMisses, cacheEvictions, cacheBytes} {
		to <- desc
	}
}

// Collect implements [prometheus.Collector].
func (c caches) Collect(to chan<- prometheus.Metric) {
	for name, state := range c {
		cache := state()
		to <- prometheus.MustNewConstMetric(cacheHits, prometheus.CounterValue, cache.Hits, name)
		to <- prometheus.MustNewConstMetric(cacheMisses, prometheus.CounterValue, cache.Misses, name)
		to <- prometheus.MustNewConstMetric(cacheEvictions, prometheus.CounterValue, cache.Evictions, name)
		to <- prometheus.MustNewConstMetric(cacheBytes, prometheus.GaugeValue, cache.Bytes, name)
	}
}
