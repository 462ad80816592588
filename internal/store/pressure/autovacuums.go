package pressure

import (
	"context"
	"fmt"
)

// readAutovacuums reads which of the homeserver's tables autovacuum is at. A role that is
// not in pg_read_all_stats sees neither the table nor the kind of the session: then the
// number is unknown as long as any vacuum runs in the database.
func (r *Reader) readAutovacuums(ctx context.Context, look *Look) error {
	var hidden bool
	if err := r.db.ReadRow(ctx, []any{&hidden, &look.Autovacuums, &look.Vacuumed}, `
		SELECT coalesce(bool_or(p.relid IS NULL), false),
		       count(c.oid),
		       coalesce(array_agg(c.relname::text ORDER BY c.relname) FILTER (WHERE c.oid IS NOT NULL), '{}')
		FROM pg_stat_progress_vacuum p
		JOIN pg_stat_activity a ON a.pid = p.pid AND (a.backend_type IS NULL OR a.backend_type = 'autovacuum worker')
		LEFT JOIN pg_class c ON c.oid = p.relid
			AND c.relnamespace = (SELECT relnamespace FROM pg_class WHERE oid = to_regclass('events'))
		WHERE p.datname = current_database()`); err != nil {
		return fmt.Errorf("autovacuum: %w", err)
	}
	if hidden {
		look.Autovacuums = nil
	}
	return nil
}
