package pressure

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"lethe/internal/store/postgres"
)

// readStandbys reads how far the WAL is written, and how far each standby has come.
//
// A base backup receives WAL too, but follows nothing: it has another state. A program that
// archives WAL, as pg_receivewal does, replays nothing, and may tell that it has flushed a
// segment no earlier than at the segment's end: on a quiet server that can take hours, so
// what it has written counts. A logical receiver tells what it has flushed when it likes,
// perhaps no earlier than at the next change of a table that it wants, so the same holds
// for it. The role sees no more than the pid of a sender unless it is in pg_read_all_stats.
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
		SELECT r.application_name, (coalesce(CASE WHEN l.active_pid IS NULL THEN r.replay_lsn END, r.write_lsn, r.sent_lsn) - '0/0'::pg_lsn)::bigint, r.state
		FROM pg_stat_replication r
		LEFT JOIN pg_replication_slots l ON l.active_pid = r.pid AND l.slot_type = 'logical'
		WHERE r.state IS NULL OR r.state IN ('streaming', 'catchup')
		ORDER BY r.pid LIMIT 1000`)
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
