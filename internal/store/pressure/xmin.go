package pressure

import (
	"context"
	"fmt"
)

// readXmin reads the age of the oldest snapshot. Lethe's own batches hold snapshots too,
// which are young.
func (r *Reader) readXmin(ctx context.Context, look *Look) error {
	if err := r.db.ReadRow(ctx, []any{&look.XminAge}, `
		SELECT max(age)::bigint FROM (
			SELECT age(backend_xmin) FROM pg_stat_activity
			WHERE backend_xmin IS NOT NULL AND pid <> pg_backend_pid()
			UNION ALL
			SELECT greatest(age(xmin), age(catalog_xmin)) FROM pg_replication_slots
			UNION ALL
			SELECT age(transaction) FROM pg_prepared_xacts
		) AS snapshots (age)`); err != nil {
		return fmt.Errorf("oldest snapshot: %w", err)
	}
	return nil
}
