package store

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"
)

// A StateGroupBatch is what one batch of collecting a room's state groups did.
type StateGroupBatch struct {
	// Looked and Deleted count the groups that were looked at, and deleted.
	Looked, Deleted int64

	// Written counts the rows that were written to give groups that stay the
	// state which they had by way of deleted ones.
	Written int64
}

// StateGroupCandidates reports whether the room has candidates for
// [Store.SortStateGroups], and groups for [Store.DeleteStateGroups].
func (s *Store) StateGroupCandidates(ctx context.Context, room string) (unsorted, unused bool, err error) {
	err = s.pool.QueryRow(ctx, `
		SELECT EXISTS (SELECT FROM lethe.state_group_candidates WHERE room_id = $1 AND NOT unused),
		       EXISTS (SELECT FROM lethe.state_group_candidates WHERE room_id = $1 AND unused)`, room).
		Scan(&unsorted, &unused)
	if err != nil {
		return false, false, fmt.Errorf("look for state groups to collect: %w", err)
	}
	return unsorted, unused, nil
}

// SortStateGroups looks at up to limit of the room's state group candidates.
// One that an event uses is no candidate; one that none uses is to be deleted,
// and makes candidates of the groups before and after it, for these may have
// been kept by nothing else. It may be repeated at will.
func (s *Store) SortStateGroups(ctx context.Context, batch Batch, catalog Catalog, limit int,
	checkpoint func(StateGroupBatch) any,
) (StateGroupBatch, error) {
	var done StateGroupBatch
	err := s.inBatch(ctx, batch, func(tx pgx.Tx) (any, error) {
		err := tx.QueryRow(ctx, `
			WITH frontier AS (
				SELECT c.state_group, `+stateGroupUsed(catalog)+` AS used
				FROM lethe.state_group_candidates c
				WHERE c.room_id = $1 AND NOT c.unused
				ORDER BY c.state_group LIMIT $2
			), dismissed AS (
				DELETE FROM lethe.state_group_candidates c USING frontier f
				WHERE c.room_id = $1 AND c.state_group = f.state_group AND f.used
			), doomed AS (
				UPDATE lethe.state_group_candidates c SET unused = true FROM frontier f
				WHERE c.room_id = $1 AND c.state_group = f.state_group AND NOT f.used
				RETURNING c.state_group
			), neighbours AS (
				SELECT e.prev_state_group AS state_group
				FROM state_group_edges e JOIN doomed d ON d.state_group = e.state_group
				UNION
				SELECT e.state_group
				FROM state_group_edges e JOIN doomed d ON d.state_group = e.prev_state_group
			), added AS (
				INSERT INTO lethe.state_group_candidates (room_id, state_group)
				SELECT $1, n.state_group FROM neighbours n
				WHERE n.state_group NOT IN (SELECT state_group FROM frontier)
				ON CONFLICT DO NOTHING
			)
			SELECT count(*) FROM frontier`, batch.Room, limit).Scan(&done.Looked)
		if err != nil {
			return nil, err
		}
		return checkpoint(done), nil
	})
	if err != nil {
		return StateGroupBatch{}, fmt.Errorf("sort state groups: %w", err)
	}
	return done, nil
}

// DeleteStateGroups deletes up to limit of the room's state groups that
// [Store.SortStateGroups] found unused, the newest first. A group that stays and
// was stored as a difference to a deleted one is stored in full from then on. It
// may be repeated at will.
func (s *Store) DeleteStateGroups(ctx context.Context, batch Batch, catalog Catalog, limit int,
	checkpoint func(StateGroupBatch) any,
) (StateGroupBatch, error) {
	var done StateGroupBatch
	err := s.inBatch(ctx, batch, func(tx pgx.Tx) (any, error) {
		if _, err := tx.Exec(ctx, `
			CREATE TEMPORARY TABLE IF NOT EXISTS lethe_groups (state_group bigint NOT NULL) ON COMMIT DELETE ROWS`); err != nil {
			return nil, err
		}
		if _, err := tx.Exec(ctx, `
			CREATE TEMPORARY TABLE IF NOT EXISTS lethe_group_state (
				state_group bigint NOT NULL,
				type        text   NOT NULL,
				state_key   text   NOT NULL,
				event_id    text   NOT NULL
			) ON COMMIT DELETE ROWS`); err != nil {
			return nil, err
		}
		// The newest go first. A group comes after the one that it is a
		// difference to, so the chain that a group's state is read from is whole
		// as long as the group is there.
		err := tx.QueryRow(ctx, `
			WITH chunk AS (
				DELETE FROM lethe.state_group_candidates c
				WHERE c.room_id = $1 AND c.unused AND c.state_group IN (
					SELECT n.state_group FROM lethe.state_group_candidates n
					WHERE n.room_id = $1 AND n.unused
					ORDER BY n.state_group DESC LIMIT $2)
				RETURNING c.state_group
			), filled AS (
				INSERT INTO lethe_groups SELECT state_group FROM chunk
			)
			SELECT count(*) FROM chunk`, batch.Room, limit).Scan(&done.Looked)
		if err != nil || done.Looked == 0 {
			return checkpoint(done), err
		}
		// Whoever takes a group into use locks its row first. So from here on a
		// group is either used, and seen to be by the next statement, which has
		// a snapshot of its own, or it is not and will not be.
		if _, err := tx.Exec(ctx, `
			SELECT FROM state_groups WHERE id IN (SELECT state_group FROM lethe_groups) ORDER BY id FOR UPDATE`); err != nil {
			return nil, fmt.Errorf("lock the groups: %w", err)
		}
		if _, err := tx.Exec(ctx, `
			DELETE FROM lethe_groups c WHERE `+stateGroupUsed(catalog), batch.Room); err != nil {
			return nil, fmt.Errorf("spare the groups in use: %w", err)
		}
		if err := tx.QueryRow(ctx, `SELECT count(*) FROM lethe_groups`).Scan(&done.Deleted); err != nil {
			return nil, err
		}
		if err := runSteps(ctx, tx, stateGroupSteps(catalog), batch.Room); err != nil {
			return nil, err
		}
		if err := tx.QueryRow(ctx, `SELECT count(*) FROM lethe_group_state`).Scan(&done.Written); err != nil {
			return nil, err
		}
		return checkpoint(done), nil
	})
	if err != nil {
		return StateGroupBatch{}, fmt.Errorf("delete state groups: %w", err)
	}
	return done, nil
}

// stateGroupUsed is the condition under which a candidate c stays: an event
// uses it, somebody is about to, or it is not one of room $1's groups at all.
func stateGroupUsed(catalog Catalog) string {
	condition := `(
		EXISTS (SELECT FROM event_to_state_groups u WHERE u.state_group = c.state_group)
		OR NOT EXISTS (SELECT FROM state_groups g WHERE g.id = c.state_group AND g.room_id = $1)`
	if catalog.has("state_groups_persisting") {
		condition += `
		OR EXISTS (SELECT FROM state_groups_persisting p WHERE p.state_group = c.state_group)`
	}
	return condition + `)`
}

// stateGroupSteps delete the groups in lethe_groups.
func stateGroupSteps(catalog Catalog) []step {
	steps := []step{
		// A group's state is that of its chain of predecessors, where the
		// highest-numbered group that has an entry wins. UNION, not UNION ALL:
		// it ends on a chain that bites its tail.
		{"resolve the groups that stay", `
			WITH RECURSIVE chain (root, state_group) AS (
				SELECT e.state_group, e.state_group
				FROM state_group_edges e JOIN lethe_groups d ON d.state_group = e.prev_state_group
				WHERE e.state_group NOT IN (SELECT state_group FROM lethe_groups)
				UNION
				SELECT chain.root, e.prev_state_group
				FROM chain JOIN state_group_edges e ON e.state_group = chain.state_group
			)
			INSERT INTO lethe_group_state
			SELECT DISTINCT ON (chain.root, t.type, t.state_key) chain.root, t.type, t.state_key, t.event_id
			FROM chain JOIN state_groups_state t ON t.state_group = chain.state_group
			ORDER BY chain.root, t.type, t.state_key, chain.state_group DESC`},
		{"clear their differences", `
			DELETE FROM state_groups_state t
			WHERE t.state_group IN (SELECT state_group FROM lethe_group_state)`},
		{"store them in full", `
			INSERT INTO state_groups_state (state_group, room_id, type, state_key, event_id)
			SELECT f.state_group, coalesce(g.room_id, $1), f.type, f.state_key, f.event_id
			FROM lethe_group_state f LEFT JOIN state_groups g ON g.id = f.state_group`},
		// Those of the groups that stay, and those of the groups that go.
		{"delete from state_group_edges", `
			DELETE FROM state_group_edges e
			WHERE e.prev_state_group IN (SELECT state_group FROM lethe_groups)
			   OR e.state_group IN (SELECT state_group FROM lethe_groups)
			   OR e.state_group IN (SELECT state_group FROM lethe_group_state)`},
		{"delete from state_groups_state", `
			DELETE FROM state_groups_state t USING lethe_groups d WHERE t.state_group = d.state_group`},
		{"delete from state_groups", `
			DELETE FROM state_groups t USING lethe_groups d WHERE t.id = d.state_group`},
	}
	if catalog.has("state_groups_pending_deletion") {
		steps = append(steps, step{"delete from state_groups_pending_deletion", `
			DELETE FROM state_groups_pending_deletion t USING lethe_groups d WHERE t.state_group = d.state_group`})
	}
	return steps
}
