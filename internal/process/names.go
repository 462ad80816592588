package process

import (
	"context"
	"net/http"
	"time"

	"lethe/internal/store/migrate"
	"lethe/internal/wait"
)

const (
	// boundWait is how long a request waits for the names of a process that starts.
	boundWait = 5 * time.Second

	// boundLook is the interval at which such a request looks for them.
	boundLook = 20 * time.Millisecond
)

// bindNames reads the id of the deployment, with which the names in Redis can be used. It
// fails with [migrate.ErrCopied] in a database for which the id was not made. A second
// call changes nothing.
func (p *process) bindNames(ctx context.Context) error {
	id, err := migrate.Deployment(ctx, p.db)
	if err != nil {
		return err
	}
	if p.names.Bound() {
		return nil
	}
	p.names.Bind(id)
	p.log.InfoContext(ctx, "deployment", "id", id)
	if p.metrics != nil {
		p.metrics.DeploymentInfo.WithLabelValues(id).Set(1)
	}
	return nil
}

// whenBound returns a handler that lets requests wait until the names are bound, which
// takes milliseconds unless the database cannot be reached. Then it answers 503. Health is
// asked at once.
func (p *process) whenBound(health, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case p.names.Bound():
			next.ServeHTTP(w, r)
		case r.URL.Path == "/healthz" || r.URL.Path == "/readyz":
			health.ServeHTTP(w, r)
		case p.awaitNames(r.Context()):
			next.ServeHTTP(w, r)
		default:
			w.Header().Set("Content-Type", "application/json")
			w.Header().Set("Retry-After", "1")
			w.WriteHeader(http.StatusServiceUnavailable)
			// It fails only if the connection is broken.
			_, _ = w.Write([]byte(`{"errcode":"M_UNKNOWN","error":"Lethe is starting: its database cannot be reached yet"}`))
		}
	})
}

// awaitNames waits until the names are bound, and reports whether they are.
func (p *process) awaitNames(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, boundWait)
	defer cancel()
	for !p.names.Bound() {
		if wait.For(ctx, boundLook) != nil {
			return false
		}
	}
	return true
}
