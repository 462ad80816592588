package tasks

import (
	"context"
	"sync"
	"time"

	"lethe/internal/store"
)

// catalogAge is for how long a catalog is believed. A run may use it for a time
// slice longer.
const catalogAge = 10 * time.Second

// A cachedCatalog is a catalog that all runs of a worker share for a while: for a
// tiny job, reading it takes as long as the work.
type cachedCatalog struct {
	read func(context.Context) (store.Catalog, error)

	mu      sync.Mutex
	catalog store.Catalog
	readAt  time.Time
}

// get returns the catalog, fresh if there was an error the last time.
func (c *cachedCatalog) get(ctx context.Context) (store.Catalog, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.readAt.IsZero() && time.Since(c.readAt) < catalogAge {
		return c.catalog, nil
	}
	catalog, err := c.read(ctx)
	if err != nil {
		return store.Catalog{}, err
	}
	c.catalog, c.readAt = catalog, time.Now()
	return catalog, nil
}
