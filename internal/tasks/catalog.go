package tasks

import (
	"context"
	"sync"
	"time"

	"lethe/internal/store"
)

// catalogAge is for how long a catalog is believed while its version stays: what
// the role may do is no part of that.
const catalogAge = 10 * time.Second

// A cachedCatalog is a catalog that the runs of a worker share as long as nothing
// changes: for a tiny job, reading it takes as long as the work.
type cachedCatalog struct {
	version func(context.Context) (string, error)
	read    func(context.Context) (store.Catalog, error)

	mu      sync.Mutex
	catalog store.Catalog
	of      string // the catalog's version
	readAt  time.Time
}

// get returns the catalog as it is now.
func (c *cachedCatalog) get(ctx context.Context) (store.Catalog, error) {
	// Before the catalog: what changes in between is then seen the next time.
	version, err := c.version(ctx)
	if err != nil {
		return store.Catalog{}, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.of == version && time.Since(c.readAt) < catalogAge {
		return c.catalog, nil
	}
	readAt := time.Now()
	catalog, err := c.read(ctx)
	if err != nil {
		return store.Catalog{}, err
	}
	c.catalog, c.of, c.readAt = catalog, version, readAt
	return catalog, nil
}
