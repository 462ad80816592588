package timeline

import (
	"context"
	"fmt"

	"lethe/internal/store/postgres"

	"github.com/jackc/pgx/v5"
)

// longestChain bounds how many differences a state group is put together from. A
// homeserver stores one in full after a hundred.
const longestChain = 1000

// WholeState returns the ids of the events of a state group's state, up to limit of
// them: those that are no memberships first, and both in the order of their types
// and state keys. If members is not nil, only the memberships of these users are
// among them. An unknown group has no state.
func (s *Snapshot) WholeState(ctx context.Context, group int64, members []string, limit int) ([]string, error) {
	// A group is a difference to the one before it, so what is nearest counts. The
	// chain is followed by one group at a time, and not for ever, whatever the table
	// of edges holds.
	ids, err := postgres.Collect(ctx, s.tx, pgx.RowTo[string], `
		WITH RECURSIVE chain (state_group, distance) AS (
			SELECT $1::bigint, 0
			UNION ALL
			SELECT (SELECT min(g.prev_state_group) FROM state_group_edges g WHERE g.state_group = c.state_group), distance + 1
			FROM chain c
			WHERE c.state_group IS NOT NULL AND distance < $4
		)
		SELECT event_id
		FROM (
			SELECT DISTINCT ON (t.type = 'm.room.member', t.type, t.state_key) t.event_id, t.type, t.state_key
			FROM chain c JOIN state_groups_state t ON t.state_group = c.state_group
			WHERE $2::text[] IS NULL OR t.type <> 'm.room.member' OR t.state_key = ANY ($2::text[])
			ORDER BY t.type = 'm.room.member', t.type, t.state_key, c.distance
			LIMIT $3
		) AS nearest
		ORDER BY type = 'm.room.member', type, state_key`, group, members, limit, longestChain)
	if err != nil {
		return nil, fmt.Errorf("read the state of a state group: %w", err)
	}
	return ids, nil
}
