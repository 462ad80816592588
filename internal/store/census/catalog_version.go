package census

import (
	"context"
	"fmt"
	"sync"
	"time"

	"lethe/internal/store/postgres"
)

// firstOwnID is the first id of a table that is not one of the server's own.
const firstOwnID = 16384

// CatalogVersion returns a text that changes whenever a catalog changes in what
// [Differences] or a purge depends on, except for the rights of the role. Reading it is
// much faster than comparing.
func CatalogVersion(ctx context.Context, db *postgres.DB) (string, error) {
	var version string
	// A changed row gets a new xmin, and a new row a new oid.
	if err := db.QueryRow(ctx, `
		SELECT pg_catalog.concat_ws(' ',
			(SELECT count(*)::text || '/' || sum(oid::bigint # xmin::text::bigint)::text FROM pg_constraint WHERE contype = 'f'),
			(SELECT count(*)::text || '/' || sum(oid::bigint # xmin::text::bigint)::text FROM pg_trigger WHERE NOT tgisinternal),
			(SELECT count(*)::text || '/' || sum(oid::bigint # xmin::text::bigint)::text FROM pg_rewrite),
			(SELECT count(*)::text || '/' || sum(inhrelid::bigint # inhparent::bigint)::text FROM pg_inherits),
			(SELECT count(*)::text || '/' || sum((oid::bigint # xmin::text::bigint) * (1 + relrowsecurity::int))::text FROM pg_class
			 WHERE relkind IN ('r', 'p', 'i', 'f', 'm') AND relpersistence <> 't'),
			(SELECT count(*)::text || '/' || sum((a.attrelid::bigint # a.xmin::text::bigint) + a.attnum)::text
			 FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid
			 WHERE c.oid >= $1 AND c.relkind IN ('r', 'p', 'f', 'm') AND c.relpersistence <> 't' AND a.attnum > 0))`, firstOwnID).
		Scan(&version); err != nil {
		return "", fmt.Errorf("read the catalog's version: %w", err)
	}
	compat, err := Compat(ctx, db)
	if err != nil {
		return "", fmt.Errorf("read the catalog's version: %w", err)
	}
	return fmt.Sprintf("%s %d", version, compat), nil
}

// A RecentVersion remembers the result of [CatalogVersion]. It is safe for concurrent
// use.
type RecentVersion struct {
	db  *postgres.DB
	age time.Duration

	mu      sync.Mutex
	version string
	readAt  time.Time
}

// NewRecentVersion returns a RecentVersion whose results may be as old as age.
func NewRecentVersion(db *postgres.DB, age time.Duration) *RecentVersion {
	return &RecentVersion{db: db, age: age}
}

// Get returns the version.
func (v *RecentVersion) Get(ctx context.Context) (string, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.version != "" && time.Since(v.readAt) < v.age {
		return v.version, nil
	}
	readAt := time.Now()
	version, err := CatalogVersion(ctx, v.db)
	if err != nil {
		return "", err
	}
	v.version, v.readAt = version, readAt
	return version, nil
}
