package journal

import (
	"context"
	"fmt"
	"time"
)

// Prune deletes the rows of up to limit jobs that ended longer than keep ago, the
// oldest first, and returns their number. It keeps
//
//   - jobs that have not ended, held and absorbed ones included;
//   - the last sweep of each schedule;
//   - jobs that absorbed jobs wait for.
//
// Holds and schedules have tables of their own, which it does not touch. Any number of
// callers may prune at once.
func (j *Journal) Prune(ctx context.Context, keep time.Duration, limit int) (pruned int, err error) {
	tag, err := j.db.Exec(ctx, `
		DELETE FROM lethe.jobs WHERE id IN (
			SELECT id FROM lethe.jobs j
			WHERE ended_at < clock_timestamp() - $1::interval AND state IN ('complete', 'failed', 'cancelled')
			  AND NOT EXISTS (SELECT FROM lethe.schedules s WHERE s.sweep_id = j.id)
			  AND NOT EXISTS (
				SELECT FROM lethe.jobs a
				WHERE a.room_id = j.room_id AND a.state = 'absorbed' AND a.checkpoint ->> 'absorbed_by'::text = j.id)
			ORDER BY ended_at LIMIT $2 FOR UPDATE SKIP LOCKED)`, keep, limit)
	if err != nil {
		return 0, fmt.Errorf("prune the journal: %w", err)
	}
	return int(tag.RowsAffected()), nil
}
