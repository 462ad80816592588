package observe

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"regexp"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"golang.org/x/sync/singleflight"
)

const (
	// checkTimeout is how long a check may take.
	checkTimeout = 2 * time.Second
	// checkEvery is the least time between two runs of the checks, so that a
	// flood of probes is no flood for PostgreSQL.
	checkEvery = time.Second
)

// A Check says why the process cannot do its work, or nil. It must be done when
// its context is, and be safe for use beside other checks. Its error's text is
// shown to whoever asks, so it must hold no secret.
type Check func(ctx context.Context) error

// Health serves a process's liveness, readiness and metrics.
type Health struct {
	checks  map[string]Check
	metrics http.Handler
	probes  singleflight.Group // has one key, ""
	running singleflight.Group // by name of check

	// Only the one probe that runs uses these.
	failing map[string]string // error text by name of check
	ran     time.Time
}

// NewHealth returns a Health that shows the registry's metrics and is ready
// when every check passes. With no checks it is always ready. The map must not
// be changed afterwards. It adds the checks to the registry, as
// lethe_check_passing; a second call with the same registry panics.
func NewHealth(registry *prometheus.Registry, checks map[string]Check) *Health {
	h := &Health{
		checks:  checks,
		metrics: promhttp.HandlerFor(registry, promhttp.HandlerOpts{Registry: registry}),
	}
	registry.MustRegister(passingChecks{h})
	return h
}

// passingChecks shows which of the checks pass, when it is asked.
type passingChecks struct{ health *Health }

var checkPassing = prometheus.NewDesc("lethe_check_passing", "1 if the check of readiness passes, else 0.", []string{"check"}, nil)

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

// Handler returns a handler of three paths, for GET and HEAD:
//
//   - /healthz answers 200 as long as the process answers at all;
//   - /readyz answers 200 if every check passes, else 503 with the error of each
//     that fails. All checks run at once, with 2 s for each, and their outcome
//     stands for 1 s;
//   - /metrics answers in Prometheus's format, and runs the checks as /readyz does.
func (h *Health) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		answer(w, http.StatusOK, report{Status: "ok"})
	})
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		if failing := h.check(); len(failing) > 0 {
			answer(w, http.StatusServiceUnavailable, report{Failing: failing, Status: "unavailable"})
			return
		}
		answer(w, http.StatusOK, report{Status: "ok"})
	})
	mux.Handle("GET /metrics", h.metrics)
	return mux
}

// A report is the body of an answer about health.
type report struct {
	Failing map[string]string `json:"failing,omitempty"`
	Status  string            `json:"status"`
}

func answer(w http.ResponseWriter, status int, body report) {
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(body) // only the client can be at fault
}

// check returns the errors of the checks that fail, at most checkEvery old.
// Probes that come while the checks run share their outcome. It is nobody's
// request that they run for: one that gives up must not fail the others.
func (h *Health) check() map[string]string {
	failing, _, _ := h.probes.Do("", func() (any, error) {
		if h.ran.IsZero() || time.Since(h.ran) >= checkEvery {
			h.failing = h.runAll()
			h.ran = time.Now()
		}
		return h.failing, nil
	})
	return failing.(map[string]string)
}

// runAll runs every check, all at once.
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

// run runs one check, for at most checkTimeout even if the check does not heed
// its context. Such a check goes on, and later runs wait for it rather than
// start it again, so that there is never more than one.
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

// redact hides the user and password of a URL. Checks promise not to show any;
// this is for the library below that breaks the promise for them.
func redact(text string) string { return userinfo.ReplaceAllString(text, "://…@") }
