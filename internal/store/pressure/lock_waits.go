package pressure

import (
	"context"
	"fmt"
)

// readLockWaits counts the sessions of others that wait for Lethe's. pg_blocking_pids looks
// at every lock of the server, so it is called for sessions that wait only.
func (r *Reader) readLockWaits(ctx context.Context, look *Look) error {
	if err := r.db.ReadRow(ctx, []any{&look.LockWaits}, `
		SELECT count(*)
		FROM (SELECT DISTINCT pid FROM pg_locks WHERE NOT granted) AS w
		JOIN pg_stat_activity a ON a.pid = w.pid
		WHERE a.datname = current_database()
		  AND coalesce(a.application_name, '') !~ '^lethe( |$)'
		  AND EXISTS (
			SELECT 1 FROM unnest(pg_blocking_pids(w.pid)) AS b (pid)
			JOIN pg_stat_activity l ON l.pid = b.pid
			WHERE l.application_name ~ '^lethe( |$)')`); err != nil {
		return fmt.Errorf("waits for locks: %w", err)
	}
	return nil
}
