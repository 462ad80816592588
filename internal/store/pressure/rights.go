package pressure

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"
)

// Blind reports whether a role, or that of the connection if it is "", does not see the
// server's standbys and archive although there is something to see, and returns the GRANT
// that lets it.
func (r *Reader) Blind(ctx context.Context, role string) (grant string, blind bool, err error) {
	var sees, something bool
	if err := r.db.ReadRow(ctx, []any{&role, &sees, &something}, `
		SELECT r.rolname::text, pg_has_role(r.oid, 'pg_monitor', 'USAGE'),
		       EXISTS (SELECT FROM pg_stat_replication) OR EXISTS (SELECT FROM pg_replication_slots)
		       OR current_setting('archive_mode') <> 'off'
		FROM pg_roles r WHERE r.rolname = coalesce(nullif($1, ''), current_user)`, role); err != nil {
		return "", false, fmt.Errorf("read the rights to see the pressure on the server: %w", err)
	}
	return "GRANT pg_monitor TO " + pgx.Identifier{role}.Sanitize() + ";", !sees && something, nil
}
