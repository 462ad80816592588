package pressure

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"lethe/internal/store/postgres"
)

// readStandbys reads how far the WAL is written, and how far each standby has come.
//
// A base backup receives WAL too, but follows nothing: it has another state. The role sees
// no more than the pid of a sender unless it is in pg_read_all_stats.
func (r *Reader) readStandbys(ctx context.Context, look *Look) error {
	if err := r.db.ReadRow(ctx, []any{&look.Written}, `
		SELECT CASE WHEN NOT pg_is_in_recovery() THEN (pg_current_wal_lsn() - '0/0'::pg_lsn)::bigint END`); err != nil {
		return fmt.Errorf("written WAL: %w", err)
	}
	type sender struct {
		Name     *string
		Replayed *int64
		State    *string
	}
	senders, err := postgres.ReadAll(ctx, r.db, pgx.RowToStructByPos[sender], `
		SELECT application_name, (coalesce(replay_lsn, flush_lsn, write_lsn, sent_lsn) - '0/0'::pg_lsn)::bigint, state
		FROM pg_stat_replication
		WHERE state IS NULL OR state IN ('streaming', 'catchup')
		ORDER BY pid LIMIT 1000`)
	if err != nil {
		return fmt.Errorf("standbys: %w", err)
	}
	for _, s := range senders {
		if s.Name == nil || s.Replayed == nil || s.State == nil {
			look.Hidden = true
			continue
		}
		look.Standbys = append(look.Standbys, Standby{Name: *s.Name, Replayed: *s.Replayed})
	}
	return nil
}
