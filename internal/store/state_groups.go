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

	// Written counts the rows that groups which stay took over from deleted
	// ones.
	Written int64
}

// A StateGroupStep does one batch of one of the steps by which a room's state
// groups are collected: it deals with up to limit of the step's candidates, and
// makes the job's checkpoint what the function makes of the batch. Each may be
// repeated at will.
type StateGroupStep func(ctx context.Context, batch Batch, catalog Catalog, limit int,
	checkpoint func(StateGroupBatch) any) (StateGroupBatch, error)

// NextStateGroupStep returns the step that the room's candidates call for, or
// nil if there are none: [Store.SortStateGroups] while any is to be looked at,
// then [Store.DeleteStateGroups] while any is to be deleted, and then
// [Store.SettleStateGroups].
func (s *Store) NextStateGroupStep(ctx context.Context, room string) (StateGroupStep, error) {
	var next *string
	err := s.pool.QueryRow(ctx, `
		WITH states AS NOT MATERIALIZED (SELECT state FROM lethe.state_group_candidates WHERE room_id = $1)
		SELECT CASE WHEN EXISTS (SELECT FROM states WHERE state = 'found') THEN 'found'
		            WHEN EXISTS (SELECT FROM states WHERE state = 'unused') THEN 'unused'
		            WHEN EXISTS (SELECT FROM states WHERE state = 'shared') THEN 'shared' END`,
		room).Scan(&next)
	switch {
	case err != nil:
		return nil, fmt.Errorf("look for state groups to collect: %w", err)
	case next == nil:
		return nil, nil
	}
	return map[string]StateGroupStep{
		"found": s.SortStateGroups, "unused": s.DeleteStateGroups, "shared": s.SettleStateGroups,
	}[*next], nil
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
				WHERE c.room_id = $1 AND c.state = 'found'
				ORDER BY c.state_group LIMIT $2
			), dismissed AS (
				DELETE FROM lethe.state_group_candidates c USING frontier f
				WHERE c.room_id = $1 AND c.state_group = f.state_group AND f.used
			), doomed AS (
				UPDATE lethe.state_group_candidates c SET state = 'unused' FROM frontier f
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
// was stored as a difference to a deleted one takes that one's difference over.
// Where several would have to, the group is left to [Store.SettleStateGroups].
func (s *Store) DeleteStateGroups(ctx context.Context, batch Batch, catalog Catalog, limit int,
	checkpoint func(StateGroupBatch) any,
) (StateGroupBatch, error) {
	done, err := s.deleteStateGroups(ctx, batch, catalog, limit, checkpoint, "unused", leaveShared)
	if err != nil {
		return StateGroupBatch{}, fmt.Errorf("delete state groups: %w", err)
	}
	return done, nil
}

// SettleStateGroups decides about up to limit of the room's unused state groups
// that several groups which stay are stored as differences to, the newest first.
// One is deleted if all of these can take its difference over without storing
// more than before; otherwise it stays, for what a purge leaves is never stored
// in more rows than what it found.
func (s *Store) SettleStateGroups(ctx context.Context, batch Batch, catalog Catalog, limit int,
	checkpoint func(StateGroupBatch) any,
) (StateGroupBatch, error) {
	done, err := s.deleteStateGroups(ctx, batch, catalog, limit, checkpoint, "shared", keepCostly)
	if err != nil {
		return StateGroupBatch{}, fmt.Errorf("settle state groups: %w", err)
	}
	return done, nil
}

func (s *Store) deleteStateGroups(ctx context.Context, batch Batch, catalog Catalog, limit int,
	checkpoint func(StateGroupBatch) any, state string, spare []step,
) (StateGroupBatch, error) {
	var done StateGroupBatch
	err := s.inBatch(ctx, batch, func(tx pgx.Tx) (any, error) {
		for _, table := range []temporary{theGroups, theChains} {
			if err := table.empty(ctx, tx); err != nil {
				return nil, err
			}
		}
		// The newest go first. A group comes after the one that it is a
		// difference to, so whatever is to take its difference over is there.
		if err := tx.QueryRow(ctx, `
			WITH chunk AS (
				DELETE FROM lethe.state_group_candidates c
				-- An array is looked up by the index, whatever the planner
				-- thinks of a table that was empty when it was last analyzed.
				WHERE c.room_id = $1 AND c.state = $3 AND c.state_group = ANY (ARRAY(
					SELECT n.state_group FROM lethe.state_group_candidates n
					WHERE n.room_id = $1 AND n.state = $3
					ORDER BY n.state_group DESC LIMIT $2))
				RETURNING c.state_group
			), filled AS (
				INSERT INTO lethe_groups SELECT state_group FROM chunk
			)
			SELECT count(*) FROM chunk`, batch.Room, limit, state).Scan(&done.Looked); err != nil || done.Looked == 0 {
			return checkpoint(done), err
		}
		// Whoever takes a group into use locks its row first. So from here on a
		// group is either used, and seen to be by the next statement, which has
		// a snapshot of its own, or it is not and will not be.
		steps := append([]step{
			{"lock the groups", `
				SELECT FROM state_groups WHERE id = ` + theDoomed + ` AND $1 <> '' ORDER BY id FOR UPDATE`},
			{"spare the groups in use", spareUsed(catalog)},
		}, spare...)
		if _, err := runSteps(ctx, tx, steps, batch.Room); err != nil {
			return nil, err
		}
		if err := tx.QueryRow(ctx, `SELECT count(*) FROM lethe_groups`).Scan(&done.Deleted); err != nil {
			return nil, err
		}
		if _, err := tx.Exec(ctx, findChains); err != nil {
			return nil, fmt.Errorf("find the groups that stay: %w", err)
		}
		tag, err := tx.Exec(ctx, takeOver, batch.Room)
		if err != nil {
			return nil, fmt.Errorf("take differences over: %w", err)
		}
		done.Written = tag.RowsAffected()
		if _, err := runSteps(ctx, tx, stateGroupSteps(catalog), batch.Room); err != nil {
			return nil, err
		}
		return checkpoint(done), nil
	})
	return done, err
}

// The groups to be deleted, and those of their chains, as arrays, for the reason
// that [theSelected] is one: joined with our tables, of which the planner knows
// nothing, the edges or the state of all rooms are read to find those of a few
// groups.
const (
	theDoomed  = `ANY (ARRAY(SELECT d.state_group FROM lethe_groups d))`
	theChained = `ANY (ARRAY(SELECT c.state_group FROM lethe_chains c))`
	theRoots   = `ANY (ARRAY(SELECT c.root FROM lethe_chains c))`
)

// outside says that a group is not among those to be deleted.
const outside = `NOT EXISTS (SELECT FROM lethe_groups x WHERE x.state_group = e.state_group)`

// leaveShared takes from the groups to be deleted those that the state of
// several groups comes together in: of their successors, at least two are, or
// lead to, groups that stay. What remains hangs on one group that stays, or on
// none.
var leaveShared = []step{
	{"leave shared groups", `
		WITH RECURSIVE lead (state_group) AS (
			SELECT e.prev_state_group FROM state_group_edges e
			WHERE e.prev_state_group = ` + theDoomed + ` AND ` + outside + `
			UNION
			SELECT e.prev_state_group
			FROM lead
			JOIN state_group_edges e ON e.state_group = lead.state_group
			WHERE e.prev_state_group = ` + theDoomed + `
		), shared AS (
			DELETE FROM lethe_groups d
			WHERE d.state_group IN (
				SELECT e.prev_state_group FROM state_group_edges e
				WHERE e.prev_state_group = ` + theDoomed + ` AND e.state_group <> e.prev_state_group
				  AND (` + outside + ` OR e.state_group IN (SELECT state_group FROM lead))
				GROUP BY e.prev_state_group HAVING count(*) > 1)
			RETURNING state_group
		)
		INSERT INTO lethe.state_group_candidates (room_id, state_group, state)
		SELECT $1, state_group, 'shared' FROM shared`},
}

// keepCostly takes from the groups to be deleted those whose difference would
// take more rows with all that follow it than it takes now, and puts back those
// that are followed by another one to be deleted: that one goes first.
var keepCostly = []step{
	{"put back groups that others to be deleted follow", `
		WITH later AS (
			DELETE FROM lethe_groups d
			WHERE d.state_group IN (
				SELECT e.prev_state_group FROM state_group_edges e
				WHERE e.prev_state_group = ` + theDoomed + ` AND e.state_group = ` + theDoomed + `
				  AND e.state_group > e.prev_state_group)
			RETURNING state_group
		)
		INSERT INTO lethe.state_group_candidates (room_id, state_group, state)
		SELECT $1, state_group, 'shared' FROM later`},
	{"keep groups that are cheaper shared", `
		DELETE FROM lethe_groups d
		WHERE (SELECT count(*) FROM state_groups_state t WHERE t.state_group = d.state_group) < (
			SELECT count(*)
			FROM state_group_edges e
			JOIN state_groups_state t ON t.state_group = d.state_group
			WHERE e.prev_state_group = d.state_group AND ` + outside + `
			  AND NOT EXISTS (
				SELECT FROM state_groups_state own
				WHERE own.state_group = e.state_group AND own.type = t.type AND own.state_key = t.state_key))`},
}

// findChains fills lethe_chains: for each group that stays and follows one to be
// deleted, the chain of those that it follows. UNION, not UNION ALL: it ends on a
// chain that bites its tail.
const findChains = `
	WITH RECURSIVE chain (root, state_group) AS (
		SELECT e.state_group, e.prev_state_group
		FROM state_group_edges e
		WHERE e.prev_state_group = ` + theDoomed + ` AND ` + outside + `
		UNION
		SELECT chain.root, e.prev_state_group
		FROM chain
		JOIN state_group_edges e ON e.state_group = chain.state_group
		WHERE e.prev_state_group = ` + theDoomed + `
	)
	INSERT INTO lethe_chains SELECT root, state_group FROM chain`

// takeOver gives each group that stays the entries of its chain that it does
// not have itself. The highest-numbered group that has an entry wins, which is
// the nearest.
const takeOver = `
	INSERT INTO state_groups_state (state_group, room_id, type, state_key, event_id)
	SELECT DISTINCT ON (c.root, t.type, t.state_key) c.root, coalesce(g.room_id, $1), t.type, t.state_key, t.event_id
	FROM lethe_chains c
	JOIN state_groups_state t ON t.state_group = c.state_group
	LEFT JOIN state_groups g ON g.id = c.root AND g.id = ` + theRoots + `
	WHERE t.state_group = ` + theChained + ` AND NOT EXISTS (
		SELECT FROM state_groups_state own
		WHERE own.state_group = ` + theRoots + ` AND own.state_group = c.root AND own.type = t.type AND own.state_key = t.state_key)
	ORDER BY c.root, t.type, t.state_key, c.state_group DESC`

// spareUsed takes from the groups to be deleted those that [stateGroupUsed] finds.
func spareUsed(catalog Catalog) string {
	used := `
		SELECT u.state_group FROM event_to_state_groups u WHERE u.state_group = ` + theDoomed
	if catalog.has("state_groups_persisting") {
		used += `
		UNION
		SELECT p.state_group FROM state_groups_persisting p WHERE p.state_group = ` + theDoomed
	}
	return `
		DELETE FROM lethe_groups c
		WHERE c.state_group IN (` + used + `)
		   OR c.state_group NOT IN (SELECT g.id FROM state_groups g WHERE g.id = ` + theDoomed + ` AND g.room_id = $1)`
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
		{"follow what the chains followed", `
			INSERT INTO state_group_edges (state_group, prev_state_group)
			SELECT DISTINCT c.root, e.prev_state_group
			FROM lethe_chains c JOIN state_group_edges e ON e.state_group = c.state_group
			WHERE e.state_group = ` + theChained + ` AND e.prev_state_group <> c.root
			  AND NOT EXISTS (SELECT FROM lethe_groups x WHERE x.state_group = e.prev_state_group)
			ON CONFLICT DO NOTHING`},
		{"delete from state_group_edges", `
			DELETE FROM state_group_edges e
			WHERE e.prev_state_group = ` + theDoomed + ` OR e.state_group = ` + theDoomed},
		{"delete from state_groups_state", `
			DELETE FROM state_groups_state t WHERE t.state_group = ` + theDoomed},
		{"delete from state_groups", `
			DELETE FROM state_groups t WHERE t.id = ` + theDoomed},
	}
	if catalog.has("state_groups_pending_deletion") {
		steps = append(steps, step{"delete from state_groups_pending_deletion", `
			DELETE FROM state_groups_pending_deletion t WHERE t.state_group = ` + theDoomed})
	}
	return steps
}
