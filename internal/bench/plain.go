package bench

import (
	"context"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"lethe/internal/bench/plainsql"
)

// purgePlainly purges a room with plain SQL: see [database.execPlainly]. It returns how
// long that took. Without triggers PostgreSQL does not cascade deletes, so purgePlainly
// deletes those rows itself.
func (d database) purgePlainly(ctx context.Context, r room, triggers bool) (time.Duration, error) {
	started := time.Now()
	statements := plainsql.Purge
	if !triggers {
		var cascading []string
		err := d.rig.query(ctx, d.name, func(conn *pgx.Conn) (err error) {
			cascading, err = plainsql.Cascades(ctx, conn)
			return err
		})
		if err != nil {
			return 0, err
		}
		statements = slices.Concat(plainsql.Purge, cascading)
	}
	err := d.execPlainly(ctx, triggers, statements, r.id, r.depth)
	return time.Since(started), err
}
