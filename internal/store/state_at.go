package store

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"
)

// chainsOf is the common table expression chain: the state groups of an array,
// and all those that they are differences to, each with the group that it is a
// difference to itself, NULL if it is whole. UNION, not UNION ALL: groups of one
// page mostly share what is below them, and a chain that bites its tail ends.
//
// The planner takes the groups of a step for many, and would read the whole table
// of edges at each of up to a hundred steps; OFFSET 0 leaves it nothing but the
// index.
func chainsOf(groups string) string {
	const before = `
			LEFT JOIN LATERAL (
				SELECT e.prev_state_group FROM state_group_edges e WHERE e.state_group = g.id OFFSET 0
			) e ON true`
	return `chain (state_group, prev_state_group) AS (
			SELECT g.id, e.prev_state_group FROM unnest(` + groups + `) AS g (id)` + before + `
			UNION
			SELECT g.id, e.prev_state_group
			FROM (SELECT prev_state_group FROM chain WHERE prev_state_group IS NOT NULL) AS g (id)` + before + `
		)`
}

// MembersAt returns the ids of the member events that the state of a state group
// has for the users, in the order of these. Users without one are left out. A
// group that is not there has none.
func (s *Snapshot) MembersAt(ctx context.Context, stateGroup int64, users []string) ([]string, error) {
	// Each user is looked up in each group of the chain by all three columns of
	// the index. The planner takes every group for a small one, and would read all
	// members of a room of 100,000 at once. The highest group wins, which is the
	// nearest.
	rows, err := s.tx.Query(ctx, `
		WITH RECURSIVE `+chainsOf("ARRAY[$1::bigint]")+`
		SELECT m.event_id
		FROM (SELECT DISTINCT unnest($2::text[]) AS user_id) u
		CROSS JOIN LATERAL (
			SELECT s.event_id FROM state_groups_state s
			WHERE s.state_group = ANY (ARRAY(SELECT state_group FROM chain))
			  AND s.type = 'm.room.member' AND s.state_key = u.user_id
			ORDER BY s.state_group DESC LIMIT 1
		) m
		ORDER BY u.user_id COLLATE "C"`, stateGroup, users)
	if err != nil {
		return nil, fmt.Errorf("read members of a state: %w", err)
	}
	members, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return nil, fmt.Errorf("read members of a state: %w", err)
	}
	return members, nil
}
