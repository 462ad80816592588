package purge

import (
	"context"
	"sync"
	"time"

	"lethe/internal/store/postgres"
)

// Options tune a [Purger]. The defaults are right everywhere but in tests.
type Options struct {
	// SearchFrom is the number of events from which a batch that checks references
	// all at once has another connection search for their rows, and reads small
	// tables instead of searching them. Defaults to 1000.
	SearchFrom int

	// SetWiseFrom is the number of events from which a batch checks references all
	// at once, where the role may. Turning the server's own checks off and on makes
	// it plan every statement anew, which takes as long as checking about so many
	// events one by one. Defaults to 100.
	SetWiseFrom int
}

// A Purger deletes from one database. It is safe for concurrent use.
type Purger struct {
	db          *postgres.DB
	setWiseFrom int64
	searchFrom  int64

	history, room catalogCache
}

// New returns a Purger that has read nothing yet.
func New(db *postgres.DB, options Options) *Purger {
	if options.SearchFrom == 0 {
		options.SearchFrom = 1000
	}
	if options.SetWiseFrom == 0 {
		options.SetWiseFrom = 100
	}
	p := &Purger{db: db, setWiseFrom: int64(options.SetWiseFrom), searchFrom: int64(options.SearchFrom)}
	p.history.read, p.room.read = p.HistoryCatalog, p.RoomCatalog
	return p
}

// catalogAge is how long a catalog is believed while its version stays the same.
// The version does not cover what the role may do.
const catalogAge = 10 * time.Second

// A catalogCache keeps a catalog as long as nothing changes: reading one takes as
// long as a small purge.
type catalogCache struct {
	read func(context.Context) (Catalog, error)

	mu      sync.Mutex
	catalog Catalog
	version string
	readAt  time.Time
}

// get returns the catalog as it is now.
func (c *catalogCache) get(ctx context.Context, p *Purger) (Catalog, error) {
	// Before the catalog: a change in between is then seen the next time.
	version, err := p.catalogVersion(ctx)
	if err != nil {
		return Catalog{}, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.version == version && time.Since(c.readAt) < catalogAge {
		return c.catalog, nil
	}
	readAt := time.Now()
	catalog, err := c.read(ctx)
	if err != nil {
		return Catalog{}, err
	}
	c.catalog, c.version, c.readAt = catalog, version, readAt
	return catalog, nil
}
