package purge

import (
	"cmp"
	"context"
	"sync"
	"time"

	"lethe/internal/schema"
	"lethe/internal/store/census"
	"lethe/internal/store/postgres"
)

// Options are the options of a [Purger]. Only tests set SearchFrom, SetWiseFrom and
// VersionAge.
type Options struct {
	// SearchFrom is the number of events from which a set-wise batch searches for their
	// rows on another connection, and reads small tables instead of using their
	// indexes. Defaults to 1000.
	SearchFrom int

	// SetWiseFrom is the number of events from which a batch checks references
	// set-wise, if the role has the right. Turning the server's own checks off and on
	// makes the server plan every statement again, which takes as long as checking
	// about 100 events one by one. Defaults to 100.
	SetWiseFrom int

	// VersionAge is the time for which the catalog's version is believed: reading it
	// takes a tenth of the delete of a small room. Defaults to 1 second.
	VersionAge time.Duration

	// Compat is the highest compat_version of Synapse's schema that is accepted.
	// Defaults to [schema.NewestCompat], and is never less.
	Compat int

	// Tables are the rules for tables that Lethe does not know. Defaults to none: then
	// such a table stops purges and deletes.
	Tables schema.Rules
}

// A Purger deletes from one database. It is safe for concurrent use.
type Purger struct {
	db          *postgres.DB
	setWiseFrom int64
	searchFrom  int64
	rules       schema.Rules
	compat      int

	version                 *census.RecentVersion
	history, room, shutdown catalogCache
}

// New returns a Purger. It reads nothing from the database.
func New(db *postgres.DB, options Options) *Purger {
	if options.SearchFrom == 0 {
		options.SearchFrom = 1000
	}
	if options.SetWiseFrom == 0 {
		options.SetWiseFrom = 100
	}
	p := &Purger{
		db: db, setWiseFrom: int64(options.SetWiseFrom), searchFrom: int64(options.SearchFrom), rules: options.Tables,
		compat: max(options.Compat, schema.NewestCompat),
	}
	p.version = census.NewRecentVersion(db, cmp.Or(options.VersionAge, time.Second))
	p.history.read, p.room.read = p.HistoryCatalog, p.RoomCatalog
	p.shutdown.read = func(ctx context.Context) (Catalog, error) { return Catalog{}, p.checkShutdown(ctx) }
	return p
}

// catalogAge is the age up to which a catalog is used while its version stays the
// same. The version does not cover the rights of the role.
const catalogAge = 10 * time.Second

// A catalogCache keeps a catalog as long as nothing changes: reading a catalog takes
// as long as a small purge.
type catalogCache struct {
	read func(context.Context) (Catalog, error)

	mu      sync.Mutex
	catalog Catalog
	version string
	readAt  time.Time
}

// get returns the present catalog.
func (c *catalogCache) get(ctx context.Context, p *Purger) (Catalog, error) {
	// Read the version before the catalog: a change in between is then noticed next
	// time.
	version, err := p.version.Get(ctx)
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
