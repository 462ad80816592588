package timeline

import (
	"context"
	"fmt"

	"lethe/internal/store/postgres"

	"github.com/jackc/pgx/v5"
)

// maxChain bounds the number of differences that make up a state group. A homeserver
// stores a group in full after a hundred.
const maxChain = 1000

// WholeState returns up to limit ids of the events in the state of a state group.
// Events other than memberships come first, and both are in the order of their types
// and state keys. If members is not nil, only the memberships of these users are
// included. An unknown group has no state.
func (s *Snapshot) WholeState(ctx context.Context, group int64, members []string, limit int) ([]string, error) {
	// A group is a difference to its predecessor, so the nearest entry wins. The query
	// follows one group at a time and a bounded number of groups, whatever the table of
	// edges holds.
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
		ORDER BY type = 'm.room.member', type, state_key`, group, members, limit, maxChain)
	if err != nil {
		return nil, fmt.Errorf("read the state of a state group: %w", err)
	}
	return ids, nil
}
