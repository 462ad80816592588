package observe

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"regexp"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"golang.org/x/sync/singleflight"
)

const (
	// checkTimeout is the longest time of a check.
	checkTimeout = 2 * time.Second
	// checkEvery is the shortest time between two runs of the checks. It protects
	// PostgreSQL from frequent probes.
	checkEvery = time.Second
)

// A Check returns why the process cannot do its work, or nil. It must return when
// its context ends, and it must be safe to run at the same time as other checks. Its
// error is for the log.
type Check func(ctx context.Context) error

// Health serves a process's liveness, readiness and metrics.
type Health struct {
	checks  map[string]Check
	log     *slog.Logger
	metrics http.Handler
	probes  singleflight.Group // has one key, ""
	running singleflight.Group // by name of check

	// Only one probe at a time uses these fields.
	failing map[string]string // error text by name of check
	ran     time.Time
}

// NewHealth returns a Health that serves the registry's metrics, and that is ready
// when every check passes. Without checks it is always ready. The map must not be
// changed afterwards. NewHealth adds the metric lethe_check_passing to the registry;
// a second call with the same registry panics.
func NewHealth(registry *prometheus.Registry, log *slog.Logger, checks map[string]Check) *Health {
	h := &Health{
		checks:  checks,
		log:     log,
		metrics: promhttp.HandlerFor(registry, promhttp.HandlerOpts{Registry: registry}),
	}
	registry.MustRegister(passingChecks{h})
	return h
}

// passingChecks runs the checks and shows which ones pass, when it is collected.
type passingChecks struct{ health *Health }

var checkPassing = prometheus.NewDesc("lethe_check_passing", "1 if the readiness check passes, else 0.", []string{"check"}, nil)

// Describe implements [prometheus.Collector].
func (passingChecks) Describe(to chan<- *prometheus.Desc) { to <- checkPassing }

// Collect implements [prometheus.Collector].
func (p passingChecks) Collect(to chan<- prometheus.Metric) {
	failing := p.health.check()
	for name := range p.health.checks {
		value := 1.0
		if _, fails := failing[name]; fails {
			value = 0
		}
		to <- prometheus.MustNewConstMetric(checkPassing, prometheus.GaugeValue, value, name)
	}
}

// Handler returns a handler of two paths, for GET and HEAD:
//
//   - /healthz answers 200.
//   - /readyz answers 200 if every check passes, and otherwise 503 with the names of
//     those that fail: the errors are in the log. The checks run at the same time, for at most 2 s. Their result is used for 1 s.
//
// Everybody may see them: neither names a user, a host or an address.
func (h *Health) Handler() http.Handler { return h.probesOn(http.NewServeMux()) }

// Metrics returns a handler of /metrics, for GET and HEAD, which answers in Prometheus's
// format. It uses the checks as /readyz does.
func (h *Health) Metrics() http.Handler { return h.metricsOn(http.NewServeMux()) }

// All returns a handler of the paths of both.
func (h *Health) All() http.Handler { return h.metricsOn(h.probesOn(http.NewServeMux())) }

func (h *Health) metricsOn(mux *http.ServeMux) *http.ServeMux {
	mux.Handle("GET /metrics", h.metrics)
	return mux
}

func (h *Health) probesOn(mux *http.ServeMux) *http.ServeMux {
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		answer(w, http.StatusOK, report{Status: "ok"})
	})
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		if failing := h.check(); len(failing) > 0 {
			answer(w, http.StatusServiceUnavailable, report{Failing: slices.Sorted(maps.Keys(failing)), Status: "unavailable"})
			return
		}
		answer(w, http.StatusOK, report{Status: "ok"})
	})
	return mux
}

// A report is the body of an answer about health.
type report struct {
	Failing []string `json:"failing,omitempty"`
	Status  string   `json:"status"`
}

func answer(w http.ResponseWriter, status int, body report) {
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(body) // only the client can be at fault
}

// check returns the errors of the checks that fail, at most checkEvery old. Probes
// that arrive while the checks run share their result. The checks do not use the
// context of a request, so that a probe that gives up does not fail the others.
func (h *Health) check() map[string]string {
	failing, _, _ := h.probes.Do("", func() (any, error) {
		if h.ran.IsZero() || time.Since(h.ran) >= checkEvery {
			failing := h.runAll()
			for name, text := range failing {
				if h.failing[name] != text { // a probe asks every few seconds
					h.log.Warn("a check fails: the process is not ready", "check", name, "error", text)
				}
			}
			h.failing, h.ran = failing, time.Now()
		}
		return h.failing, nil
	})
	return failing.(map[string]string)
}

// runAll runs all checks at the same time.
func (h *Health) runAll() map[string]string {
	type outcome struct {
		name string
		err  error
	}
	outcomes := make(chan outcome, len(h.checks))
	for name, check := range h.checks {
		go func() { outcomes <- outcome{name, h.run(name, check)} }()
	}
	failing := map[string]string{}
	for range h.checks {
		if o := <-outcomes; o.err != nil {
			failing[o.name] = redact(o.err.Error())
		}
	}
	return failing
}

// run runs one check, for at most checkTimeout. A check that ignores the end of its
// context continues in the background. Later runs wait for it instead of starting
// it a second time.
func (h *Health) run(name string, check Check) error {
	done := h.running.DoChan(name, func() (any, error) {
		ctx, cancel := context.WithTimeout(context.Background(), checkTimeout)
		defer cancel()
		return nil, check(ctx)
	})
	select {
	case result := <-done:
		return result.Err
	case <-time.After(checkTimeout):
		return fmt.Errorf("no answer within %s", checkTimeout)
	}
}

// userinfo matches the user and password of a URL.
var userinfo = regexp.MustCompile(`://[^/\s]*@`)

// redact hides the user and password of URLs in a text. Errors of our own have none,
// but errors of a library may.
func redact(text string) string { return userinfo.ReplaceAllString(text, "://…@") }
