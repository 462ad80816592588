package purge

import (
	"context"
	"errors"
	"fmt"

	"lethe/internal/store/journal"
)

// A StateGroupBatch is what one batch of collecting a room's state groups did.
type StateGroupBatch struct {
	// Looked and Deleted count the groups that were looked at, and deleted.
	Looked, Deleted int64

	// Written counts the rows that groups which stay took over from deleted
	// ones.
	Written int64
}

// A StateGroupStep is a step by which a room's state groups are collected. Its name
// is the state of the candidates that it deals with.
type StateGroupStep string

// The steps, in order. There is nothing to collect after the last.
const (
	// sortStateGroups looks at candidates. One that an event uses is dismissed. One
	// that no event uses is to be deleted, and makes candidates of the groups before
	// and after it, for these may have been kept by nothing else.
	sortStateGroups StateGroupStep = "found"

	// deleteStateGroups deletes groups that are not used, the newest first. A group
	// that stays and was stored as a difference to a deleted one takes that one's
	// difference over. Where several would have to, the group is left to the next
	// step.
	deleteStateGroups StateGroupStep = "unused"

	// settleStateGroups decides about groups that are not used and that several
	// groups which stay are stored as differences to, the newest first. One is
	// deleted if all of these can take its difference over without storing more than
	// before. Otherwise it stays: what a purge leaves is never stored in more rows
	// than what it found.
	settleStateGroups StateGroupStep = "shared"

	// StateGroupsCollected says that the room has no candidates.
	StateGroupsCollected StateGroupStep = ""
)

// NextStateGroups returns the step that the room's candidates call for.
func (h *History) NextStateGroups(ctx context.Context) (StateGroupStep, error) {
	var next StateGroupStep
	err := h.purger.db.QueryRow(ctx, `
		WITH states AS NOT MATERIALIZED (SELECT state FROM lethe.state_group_candidates WHERE room_id = $1)
		SELECT CASE WHEN EXISTS (SELECT FROM states WHERE state = 'found') THEN 'found'
		            WHEN EXISTS (SELECT FROM states WHERE state = 'unused') THEN 'unused'
		            WHEN EXISTS (SELECT FROM states WHERE state = 'shared') THEN 'shared' ELSE '' END`,
		h.Room).Scan(&next)
	if err != nil {
		return "", fmt.Errorf("look for state groups to collect: %w", err)
	}
	return next, nil
}

// CollectStateGroups deals with up to limit candidates of the step. It may be
// repeated at will. It fails as [journal.Batch] does. Then the batch is to be rolled
// back.
func (h *History) CollectStateGroups(ctx context.Context, b *journal.Batch, step StateGroupStep, limit int) (done StateGroupBatch, err error) {
	batch := h.batch(b)
	switch step {
	case sortStateGroups:
		done, err = batch.sortStateGroups(ctx, limit)
	case deleteStateGroups:
		done, err = batch.deleteStateGroups(ctx, step, limit, leaveShared)
	case settleStateGroups:
		done, err = batch.deleteStateGroups(ctx, step, limit, keepCostly)
	default:
		err = errors.New("there is no such step")
	}
	if err != nil {
		return StateGroupBatch{}, fmt.Errorf("collect state groups that are %q: %w", step, err)
	}
	return done, nil
}

func (b *batch) sortStateGroups(ctx context.Context, limit int) (done StateGroupBatch, err error) {
	err = b.QueryRow(ctx, `
		WITH frontier AS (
			SELECT c.state_group, `+stateGroupUsed(b.catalog)+` AS used
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
		SELECT count(*) FROM frontier`, b.Room(), limit).Scan(&done.Looked)
	return done, err
}

// deleteStateGroups deletes groups of the step, but for those that spare takes out.
func (b *batch) deleteStateGroups(ctx context.Context, of StateGroupStep, limit int, spare []step) (done StateGroupBatch, err error) {
	for _, table := range []temporary{theGroups, theChains} {
		if err := table.empty(ctx, b); err != nil {
			return done, err
		}
	}
	// The newest go first. A group comes after the one that it is a difference to, so
	// the group that is to take its difference over is there.
	if err := b.QueryRow(ctx, `
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
		SELECT count(*) FROM chunk`, b.Room(), limit, of).Scan(&done.Looked); err != nil || done.Looked == 0 {
		return done, err
	}
	// A process that takes a group into use locks its row first. So from here on a
	// group is either used, and seen to be by the next statement, which has a snapshot
	// of its own, or it is not and will not be.
	steps := append([]step{
		{"lock the groups", `
			SELECT FROM state_groups WHERE id = ` + theDoomed + ` AND $1 <> '' ORDER BY id FOR UPDATE`},
		{"spare the groups in use", spareUsed(b.catalog)},
	}, spare...)
	if _, err := b.run(ctx, steps); err != nil {
		return done, err
	}
	if err := b.QueryRow(ctx, `SELECT count(*) FROM lethe_groups`).Scan(&done.Deleted); err != nil {
		return done, err
	}
	if _, err := b.exec(ctx, "find the groups that stay", findChains); err != nil {
		return done, err
	}
	if done.Written, err = b.exec(ctx, "take differences over", takeOver, b.Room()); err != nil {
		return done, err
	}
	_, err = b.run(ctx, stateGroupSteps(b.catalog))
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
