package monitor

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"strings"

	"github.com/hibiken/asynqmon"
	"github.com/redis/go-redis/v9"

	"lethe/internal/redisdb"
)

// Options are the options of [New].
type Options struct {
	// Root is the path of the first page, such as "/asynqmon". The other pages are
	// below it. Defaults to "", the root of the server.
	Root string

	// ReadOnly refuses requests that change something. Defaults to false.
	ReadOnly bool
}

// A Handler serves asynqmon's pages and their JSON API. Make one with [New].
type Handler struct {
	client redis.UniversalClient
	pages  http.Handler
	policy string
}

// New returns a Handler for the queues in the Redis of the URL, which is one for
// [redisdb.Open]. It does not connect. While Redis cannot be reached, the JSON API
// answers 500. The caller closes the Handler.
func New(redisURL string, options Options) (*Handler, error) {
	client, err := redisdb.Open(redisURL)
	if err != nil {
		return nil, fmt.Errorf("open asynqmon: %w", err)
	}
	h := &Handler{client: client, pages: asynqmon.New(asynqmon.Options{
		RootPath: options.Root, RedisConnOpt: connection{client}, ReadOnly: options.ReadOnly,
	})}
	if h.policy, err = contentPolicy(h.pages, options.Root); err != nil {
		return nil, errors.Join(fmt.Errorf("open asynqmon: %w", err), client.Close())
	}
	return h, nil
}

// Close closes the connections to Redis. A second call returns an error.
func (h *Handler) Close() error {
	// asynqmon's own Close would close the client twice.
	if err := h.client.Close(); err != nil {
		return fmt.Errorf("close asynqmon: %w", err)
	}
	return nil
}

// ServeHTTP implements [http.Handler].
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	header := w.Header()
	header.Set("Content-Security-Policy", h.policy)
	header.Set("Referrer-Policy", "no-referrer")
	header.Set("X-Content-Type-Options", "nosniff")
	header.Set("X-Frame-Options", "DENY")
	h.pages.ServeHTTP(w, r)
}

// connection passes our client to asynqmon, for any kind of Redis.
type connection struct{ client redis.UniversalClient }

// MakeRedisClient implements asynq's RedisConnOpt.
func (c connection) MakeRedisClient() any { return c.client }

var inlineScript = regexp.MustCompile(`(?s)<script>(.*?)</script>`)

// contentPolicy returns the Content-Security-Policy of the pages. A browser loads only
// what this handler serves, without the fonts that asynqmon loads from another site.
// Inline scripts run only if their hash is that of a script in the first page, so that
// the contents of a task can never run.
func contentPolicy(pages http.Handler, root string) (string, error) {
	request, err := http.NewRequestWithContext(context.Background(), http.MethodGet, root+"/", http.NoBody)
	if err != nil {
		return "", err
	}
	page := &document{header: http.Header{}}
	pages.ServeHTTP(page, request)
	scripts := "'self'"
	for _, script := range inlineScript.FindAllSubmatch(page.body.Bytes(), -1) {
		hash := sha256.Sum256(script[1])
		scripts += " 'sha256-" + base64.StdEncoding.EncodeToString(hash[:]) + "'"
	}
	if !strings.Contains(scripts, "sha256") {
		return "", errors.New("its first page has no scripts")
	}
	return "default-src 'none'; script-src " + scripts + "; style-src 'self' 'unsafe-inline'; img-src 'self' data:; " +
		"font-src 'self'; connect-src 'self'; manifest-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'", nil
}

// A document records what a handler writes.
type document struct {
	header http.Header
	body   bytes.Buffer
}

// Header implements [http.ResponseWriter].
func (d *document) Header() http.Header { return d.header }

// Write implements [http.ResponseWriter].
func (d *document) Write(text []byte) (int, error) { return d.body.Write(text) }

// WriteHeader implements [http.ResponseWriter].
func (d *document) WriteHeader(int) {}
