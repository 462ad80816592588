package purge

import (
	"context"
	"errors"
	"fmt"

	"lethe/internal/store/journal"
	"lethe/internal/store/postgres"
)

// A StateGroupBatch is the result of one batch of collecting a room's state groups.
type StateGroupBatch struct {
	// Checked and Deleted are the numbers of groups that were checked, and deleted.
	Checked, Deleted int64

	// Written is the number of rows that remaining groups have taken over from deleted
	// groups.
	Written int64
}

// A StateGroupStep is a step in collecting a room's state groups. Its name is the
// state of the candidates that it processes.
type StateGroupStep string

// The steps, in order. After the last there is nothing to collect.
const (
	// classifyStateGroups checks candidates. It dismisses a group that an event uses.
	// An unused group becomes a group to delete, and the groups before and after it
	// become candidates, since perhaps nothing else used them.
	classifyStateGroups StateGroupStep = "found"

	// deleteStateGroups deletes unused groups, the newest first. If a remaining group
	// is stored as a difference to a deleted group, it takes over that group's
	// difference. If several groups would have to, the deleted group is left to the
	// next step instead.
	deleteStateGroups StateGroupStep = "unused"

	// decideSharedGroups decides about unused groups to which several remaining groups
	// are stored as differences, the newest first. Such a group is deleted if all of
	// these can take over its difference without storing more rows than before.
	// Otherwise it stays, so a purge never leaves states in more rows than before.
	decideSharedGroups StateGroupStep = "shared"

	// StateGroupsCollected says that the room has no candidates.
	StateGroupsCollected StateGroupStep = ""
)

// Deletes reports whether the step deletes groups.
func (s StateGroupStep) Deletes() bool { return s == deleteStateGroups || s == decideSharedGroups }

// NextStateGroups returns the step that the room's candidates need next.
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

// CollectStateGroups processes up to limit candidates of the step. It may be
// repeated. It fails as [journal.Batch] does. Then the caller must roll the batch
// back.
func (h *History) CollectStateGroups(ctx context.Context, b *journal.Batch, step StateGroupStep, limit int) (done StateGroupBatch, err error) {
	batch := h.batch(b)
	switch step {
	case classifyStateGroups:
		done, err = batch.classifyStateGroups(ctx, limit)
	case deleteStateGroups:
		done, err = batch.deleteStateGroups(ctx, step, limit, deferShared)
	case decideSharedGroups:
		done, err = batch.deleteStateGroups(ctx, step, limit, keepCheaperShared)
	default:
		err = errors.New("unknown step")
	}
	if err != nil {
		return StateGroupBatch{}, fmt.Errorf("collect state groups that are %q: %w", step, err)
	}
	return done, nil
}

func (b *batch) classifyStateGroups(ctx context.Context, limit int) (done StateGroupBatch, err error) {
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
		SELECT count(*) FROM frontier`, b.Room(), limit).Scan(&done.Checked)
	return done, err
}

// deleteStateGroups deletes groups of the step, except for those that spare takes
// out of lethe_groups.
func (b *batch) deleteStateGroups(ctx context.Context, of StateGroupStep, limit int, spare []statement) (done StateGroupBatch, err error) {
	for _, table := range []postgres.TempTable{groupsTable, chainsTable} {
		if err := b.empty(ctx, table); err != nil {
			return done, err
		}
	}
	// The newest go first. A group is newer than the group to which it is a difference,
	// so the group that takes over its difference still exists.
	if err := b.QueryRow(ctx, `
		WITH chunk AS (
			DELETE FROM lethe.state_group_candidates c
			-- An array is looked up by the index, even if the table was empty
			-- when it was last analyzed.
			WHERE c.room_id = $1 AND c.state = $3 AND c.state_group = ANY (ARRAY(
				SELECT n.state_group FROM lethe.state_group_candidates n
				WHERE n.room_id = $1 AND n.state = $3
				ORDER BY n.state_group DESC LIMIT $2))
			RETURNING c.state_group
		), filled AS (
			INSERT INTO pg_temp.lethe_groups SELECT state_group FROM chunk
		)
		SELECT count(*) FROM chunk`, b.Room(), limit, of).Scan(&done.Checked); err != nil || done.Checked == 0 {
		return done, err
	}
	// A process that begins to use a group locks its row first. So after the lock a
	// group is either used, and the next statement sees that, since it has a snapshot
	// of its own; or it is unused and stays so.
	statements := append([]statement{
		{what: "lock the groups", sql: `
			SELECT FROM state_groups WHERE id = ` + anyGroupToDelete + ` AND $1 <> '' ORDER BY id FOR UPDATE`},
		{what: "spare the groups in use", sql: spareUsed(b.catalog)},
	}, spare...)
	if _, err := b.run(ctx, statements); err != nil {
		return done, err
	}
	if err := b.QueryRow(ctx, `SELECT count(*) FROM pg_temp.lethe_groups`).Scan(&done.Deleted); err != nil {
		return done, err
	}
	if _, err := b.exec(ctx, "find the groups that stay", findChains); err != nil {
		return done, err
	}
	if err := b.checkEdges(ctx); err != nil {
		return done, err
	}
	if done.Written, err = b.exec(ctx, "take differences over", takeOver, b.Room()); err != nil {
		return done, err
	}
	_, err = b.run(ctx, stateGroupStatements(b.catalog))
	return done, err
}

// The ids of the groups to delete, and of the groups in their chains, as arrays, for
// the reason given at anySelectedID: the planner knows nothing of the temporary
// tables, and with a join it would read the edges or the states of all rooms to find
// those of a few groups.
const (
	anyGroupToDelete = `ANY (ARRAY(SELECT d.state_group FROM pg_temp.lethe_groups d))`
	anyChainedGroup  = `ANY (ARRAY(SELECT c.state_group FROM pg_temp.lethe_chains c))`
	anyChainRoot     = `ANY (ARRAY(SELECT c.root FROM pg_temp.lethe_chains c))`

	groupsToDelete = `(SELECT d.state_group FROM pg_temp.lethe_groups d)`
)

// outside is the condition that the group of an edge e is not to be deleted.
const outside = `NOT EXISTS (SELECT FROM pg_temp.lethe_groups x WHERE x.state_group = e.state_group)`

// deferShared takes those groups out of lethe_groups on which several remaining
// groups depend: at least two of their successors stay, or lead to groups that stay.
// They become candidates for decideSharedGroups. On each group that is left in
// lethe_groups, at most one remaining group depends.
var deferShared = []statement{
	{what: "leave shared groups", sql: `
		WITH RECURSIVE lead (state_group) AS (
			SELECT e.prev_state_group FROM state_group_edges e
			WHERE e.prev_state_group = ` + anyGroupToDelete + ` AND ` + outside + `
			UNION
			SELECT e.prev_state_group
			FROM lead
			JOIN state_group_edges e ON e.state_group = lead.state_group
			WHERE e.prev_state_group = ` + anyGroupToDelete + `
		), shared AS (
			DELETE FROM pg_temp.lethe_groups d
			WHERE d.state_group IN (
				SELECT e.prev_state_group FROM state_group_edges e
				WHERE e.prev_state_group = ` + anyGroupToDelete + ` AND e.state_group <> e.prev_state_group
				  AND (` + outside + ` OR e.state_group IN (SELECT state_group FROM lead))
				GROUP BY e.prev_state_group HAVING count(*) > 1)
			RETURNING state_group
		)
		INSERT INTO lethe.state_group_candidates (room_id, state_group, state)
		SELECT $1, state_group, 'shared' FROM shared`},
}

// keepCheaperShared takes those groups out of lethe_groups whose difference would
// take more rows in their successors than it takes now. It also puts groups back
// that another group to delete follows, since that one is deleted first.
var keepCheaperShared = []statement{
	{what: "put back groups that others to be deleted follow", sql: `
		WITH later AS (
			DELETE FROM pg_temp.lethe_groups d
			WHERE d.state_group IN (
				SELECT e.prev_state_group FROM state_group_edges e
				WHERE e.prev_state_group = ` + anyGroupToDelete + ` AND e.state_group = ` + anyGroupToDelete + `
				  AND e.state_group > e.prev_state_group)
			RETURNING state_group
		)
		INSERT INTO lethe.state_group_candidates (room_id, state_group, state)
		SELECT $1, state_group, 'shared' FROM later`},
	{what: "keep groups that are cheaper shared", sql: `
		DELETE FROM pg_temp.lethe_groups d
		WHERE (SELECT count(*) FROM state_groups_state t WHERE t.state_group = d.state_group) < (
			SELECT count(*)
			FROM state_group_edges e
			JOIN state_groups_state t ON t.state_group = d.state_group
			WHERE e.prev_state_group = d.state_group AND ` + outside + `
			  AND NOT EXISTS (
				SELECT FROM state_groups_state own
				WHERE own.state_group = e.state_group AND own.type = t.type AND own.state_key = t.state_key))`},
}

// findChains fills lethe_chains: for each remaining group that follows a group to
// delete, the chain of groups to delete that it follows. UNION, not UNION ALL, so
// that it also ends if a chain is circular.
const findChains = `
	WITH RECURSIVE chain (root, state_group) AS (
		SELECT e.state_group, e.prev_state_group
		FROM state_group_edges e
		WHERE e.prev_state_group = ` + anyGroupToDelete + ` AND ` + outside + `
		UNION
		SELECT chain.root, e.prev_state_group
		FROM chain
		JOIN state_group_edges e ON e.state_group = chain.state_group
		WHERE e.prev_state_group = ` + anyGroupToDelete + `
	)
	INSERT INTO pg_temp.lethe_chains SELECT root, state_group FROM chain`

// takeOver gives each remaining group the entries of its chain that it does not have
// itself. If several groups have an entry, the highest number wins, which is the
// nearest group.
const takeOver = `
	INSERT INTO state_groups_state (state_group, room_id, type, state_key, event_id)
	SELECT DISTINCT ON (c.root, t.type, t.state_key) c.root, coalesce(g.room_id, $1), t.type, t.state_key, t.event_id
	FROM pg_temp.lethe_chains c
	JOIN state_groups_state t ON t.state_group = c.state_group
	LEFT JOIN state_groups g ON g.id = c.root AND g.id = ` + anyChainRoot + `
	WHERE t.state_group = ` + anyChainedGroup + ` AND NOT EXISTS (
		SELECT FROM state_groups_state own
		WHERE own.state_group = ` + anyChainRoot + ` AND own.state_group = c.root AND own.type = t.type AND own.state_key = t.state_key)
	ORDER BY c.root, t.type, t.state_key, c.state_group DESC`

// spareUsed takes the groups out of lethe_groups for which [stateGroupUsed] holds.
func spareUsed(catalog Catalog) string {
	used := `
		SELECT u.state_group FROM event_to_state_groups u WHERE u.state_group = ` + anyGroupToDelete
	if catalog.has("state_groups_persisting") {
		used += `
		UNION
		SELECT p.state_group FROM state_groups_persisting p WHERE p.state_group = ` + anyGroupToDelete
	}
	used += `
		UNION
		` + groupsAtBoundary
	return `
		DELETE FROM pg_temp.lethe_groups c
		WHERE c.state_group IN (` + used + `)
		   OR c.state_group NOT IN (SELECT g.id FROM state_groups g WHERE g.id = ` + anyGroupToDelete + ` AND g.room_id = $1)`
}

// groupsAtBoundary are the state groups of the events that follow purged ones, and of
// the newest events. A group that a purged and a remaining event share, and a group
// whose state derives from a purged event's group, is among them. They are found by
// the event, and so confirm what was found by the group: an index that has lost an
// entry does not show that a group is in use.
const groupsAtBoundary = `SELECT u.state_group
		FROM event_backward_extremities x
		JOIN event_edges g ON g.prev_event_id = x.event_id
		JOIN event_to_state_groups u ON u.event_id = g.event_id
		WHERE x.room_id = $1
		UNION
		SELECT u.state_group
		FROM event_forward_extremities x JOIN event_to_state_groups u ON u.event_id = x.event_id
		WHERE x.room_id = $1`

// edgesDisagree is the condition that the two indexes of state_group_edges show
// different edges of the groups to delete, or lack an edge that leads from the
// boundary to one. A + 0 keeps the planner from using the other index.
var edgesDisagree = statement{what: "compare the edges of the groups to delete", sql: `
	WITH by_prev AS MATERIALIZED (
		SELECT e.state_group, e.prev_state_group FROM state_group_edges e WHERE e.prev_state_group = ` + anyGroupToDelete + `
	), by_group AS MATERIALIZED (
		SELECT e.state_group, e.prev_state_group FROM state_group_edges e WHERE e.state_group = ` + anyGroupToDelete + `
	), at_boundary AS MATERIALIZED (
		SELECT e.state_group, e.prev_state_group
		FROM (` + groupsAtBoundary + `) AS w JOIN state_group_edges e ON e.state_group = w.state_group
		WHERE e.prev_state_group + 0 IN ` + groupsToDelete + `
	)
	SELECT EXISTS (SELECT FROM by_prev WHERE prev_state_group NOT IN ` + groupsToDelete + `)
	    OR EXISTS (SELECT FROM by_group WHERE state_group NOT IN ` + groupsToDelete + `)
	    OR EXISTS (SELECT * FROM by_prev WHERE state_group IN ` + groupsToDelete + ` EXCEPT SELECT * FROM by_group)
	    OR EXISTS (SELECT * FROM by_group WHERE prev_state_group IN ` + groupsToDelete + ` EXCEPT SELECT * FROM by_prev)
	    OR EXISTS (SELECT * FROM at_boundary EXCEPT SELECT * FROM by_prev)`}

// checkEdges fails with [ErrCorrupt] if [edgesDisagree] holds. A remaining group
// would lose the part of its state that derives from a group to delete.
func (b *batch) checkEdges(ctx context.Context) error {
	var disagree bool
	if err := b.QueryRow(ctx, edgesDisagree.sql, b.Room()).Scan(&disagree); err != nil {
		return fmt.Errorf("%s: %w", edgesDisagree.what, err)
	}
	if disagree {
		return b.corrupt(ctx, nil, edgesDisagree, []any{b.Room()})
	}
	return nil
}

// stateGroupUsed is the condition to keep a candidate c: an event uses it, a process
// is about to use it, or it is not a group of room $1.
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

// stateGroupStatements delete the groups in lethe_groups.
func stateGroupStatements(catalog Catalog) []statement {
	statements := []statement{
		// What it adds counts against what is deleted.
		{what: "connect the remaining groups", table: "state_group_edges", counts: true, sql: `
			WITH connected AS (
				INSERT INTO state_group_edges (state_group, prev_state_group)
				SELECT DISTINCT c.root, e.prev_state_group
				FROM pg_temp.lethe_chains c JOIN state_group_edges e ON e.state_group = c.state_group
				WHERE e.state_group = ` + anyChainedGroup + ` AND e.prev_state_group <> c.root
				  AND NOT EXISTS (SELECT FROM pg_temp.lethe_groups x WHERE x.state_group = e.prev_state_group)
				ON CONFLICT DO NOTHING RETURNING 1
			)
			SELECT -count(*), 0 FROM connected`},
		checked("delete from state_group_edges", `
			DELETE FROM state_group_edges e
			WHERE e.prev_state_group = `+anyGroupToDelete+` OR e.state_group = `+anyGroupToDelete,
			`e.prev_state_group IN `+groupsToDelete+` OR e.state_group IN `+groupsToDelete).of("state_group_edges"),
		checked("delete from state_groups_state", `
			DELETE FROM state_groups_state t WHERE t.state_group = `+anyGroupToDelete,
			`t.room_id = $1 AND t.state_group IN `+groupsToDelete).of("state_groups_state"),
		checked("delete from state_groups", `
			DELETE FROM state_groups t WHERE t.id = `+anyGroupToDelete, `t.room_id = $1 AND t.id IN `+groupsToDelete).of("state_groups"),
	}
	if catalog.has("state_groups_pending_deletion") {
		statements = append(statements, checked("delete from state_groups_pending_deletion", `
			DELETE FROM state_groups_pending_deletion t WHERE t.state_group = `+anyGroupToDelete, `t.state_group IN `+groupsToDelete).of("state_groups_pending_deletion"))
	}
	return statements
}
