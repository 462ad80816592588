package store

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"
)

// OtherStateAt returns the ids of the events that the state of a state group has
// besides members, by type and state key, and no more than limit. A group that is
// not there has none.
func (s *Snapshot) OtherStateAt(ctx context.Context, stateGroup int64, limit int) ([]string, error) {
	// Two ranges of the index, so that the members of a large room are not read.
	// OFFSET 0 has every group looked up by itself. The highest group wins, which
	// is the nearest.
	rows, err := s.tx.Query(ctx, `
		WITH RECURSIVE `+chainsOf("ARRAY[$1::bigint]")+`
		SELECT DISTINCT ON (s.type, s.state_key) s.event_id
		FROM (SELECT DISTINCT state_group FROM chain) c
		CROSS JOIN LATERAL (
			(SELECT * FROM state_groups_state WHERE state_group = c.state_group AND type < 'm.room.member' OFFSET 0)
			UNION ALL
			(SELECT * FROM state_groups_state WHERE state_group = c.state_group AND type > 'm.room.member' OFFSET 0)
		) s
		ORDER BY s.type, s.state_key, s.state_group DESC
		LIMIT $2`, stateGroup, limit)
	var ids []string
	if err == nil {
		ids, err = pgx.CollectRows(rows, pgx.RowTo[string])
	}
	if err != nil {
		return nil, fmt.Errorf("read a state without members: %w", err)
	}
	return ids, nil
}
