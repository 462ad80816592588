package vacuum

import (
	"context"
	"errors"
	"fmt"

	"lethe/internal/store/postgres"
)

// Horizon returns a transaction id that is above those of all transactions that have
// begun to write.
func (q *Queries) Horizon(ctx context.Context) (xid string, err error) {
	if err := q.db.ReadRow(ctx, []any{&xid}, `SELECT pg_snapshot_xmax(pg_current_snapshot())::text`); err != nil {
		return "", fmt.Errorf("read the next transaction id: %w", err)
	}
	return xid, nil
}

// holder selects what still sees rows that transactions below $1 have deleted, the oldest
// first: as long as there is something, neither a VACUUM nor an index scan can remove them.
// An autovacuum has a snapshot too, but it does not count for the server.
const holder = `
	SELECT h.what FROM (
		SELECT pg_catalog.format('session %s of the role %s (%s)', a.pid, coalesce(a.usename::text, '?'), coalesce(a.application_name, '')) AS what,
		       greatest(age(a.backend_xmin), age(a.backend_xid)) AS age
		FROM pg_stat_activity a
		WHERE a.pid <> pg_backend_pid() AND (a.datid IS NULL OR a.datname = current_database())
		  AND a.backend_type IS DISTINCT FROM 'autovacuum worker'
		UNION ALL
		SELECT pg_catalog.format('prepared transaction %s', p.gid), age(p.transaction)
		FROM pg_prepared_xacts p WHERE p.database = current_database()
		UNION ALL
		SELECT pg_catalog.format('replication slot %s', s.slot_name), age(s.xmin) FROM pg_replication_slots s
	) h
	WHERE h.age > age($1::text::xid8::xid)
	ORDER BY h.age DESC LIMIT 1`

// Holder names what still sees rows that were deleted below the horizon, "" if nothing
// does.
func (q *Queries) Holder(ctx context.Context, horizon string) (what string, err error) {
	err = q.db.ReadRow(ctx, []any{&what}, holder, horizon)
	switch {
	case errors.Is(err, postgres.ErrNotFound):
		return "", nil
	case err != nil:
		return "", fmt.Errorf("look for old snapshots: %w", err)
	}
	return what, nil
}
