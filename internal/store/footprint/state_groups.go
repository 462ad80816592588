package footprint

import (
	"context"
	"slices"

	"github.com/jackc/pgx/v5"
)

// stateGroupTables are the tables of state groups.
var stateGroupTables = []string{"state_group_edges", "state_groups", "state_groups_pending_deletion", "state_groups_state"}

const (
	// groupsOfEvents are the groups that lose a mapping, with the number of mappings.
	groupsOfEvents = `
	SELECT u.state_group, count(*)
	FROM event_to_state_groups u WHERE u.event_id IN (SELECT event_id FROM selected) GROUP BY u.state_group`

	// noted are the groups that an earlier purge has left to check.
	noted = `SELECT c.state_group FROM lethe.state_group_candidates c WHERE c.room_id = $1`

	// groupsInUse are those of the groups $2 that have more mappings than they lose, $3,
	// that are about to be used, or that are not of the room $1.
	groupsInUse = `
	SELECT c.state_group
	FROM unnest($2::bigint[], $3::bigint[]) AS c (state_group, losing)
	WHERE NOT EXISTS (SELECT FROM state_groups g WHERE g.id = c.state_group AND g.room_id = $1)
	   OR c.losing < (
		SELECT count(*) FROM (
			SELECT FROM event_to_state_groups u WHERE u.state_group = c.state_group LIMIT c.losing + 1) u)`

	groupsPersisting = `
	   OR EXISTS (SELECT FROM state_groups_persisting p WHERE p.state_group = c.state_group)`

	// edgesOf are the edges from and to the groups $1.
	edgesOf = `
	SELECT e.state_group, e.prev_state_group FROM state_group_edges e WHERE e.state_group = ANY ($1)
	UNION
	SELECT e.state_group, e.prev_state_group FROM state_group_edges e WHERE e.prev_state_group = ANY ($1)`

	// keysOf are the entries of the groups $1. Of each only a hash matters.
	keysOf = `
	SELECT t.state_group, hashtextextended(t.state_key, hashtextextended(t.type, 0::bigint))
	FROM state_groups_state t WHERE t.state_group = ANY ($1)`

	// existingEdges is how many of the edges from $1 to $2 exist.
	existingEdges = `
	SELECT count(*) FROM unnest($1::bigint[], $2::bigint[]) AS n (state_group, prev_state_group)
	JOIN state_group_edges e USING (state_group, prev_state_group)`
)

// groupsAtOnce is the number of state groups that one query is about.
const groupsAtOnce = 1000

// historyStateGroups sets the figures of the state groups that a purge deletes. With
// few, it estimates them if more than [Options].Few are unused.
func (s *Snapshot) historyStateGroups(ctx context.Context, room string, args []any, few bool, loss *Loss) error {
	c := &collection{s: s, room: room, losing: map[int64]int64{}, state: map[int64]groupState{}, next: edges{}, prev: edges{}}
	var found []int64
	rows, err := s.tx.Query(ctx, `WITH `+gone+`,`+selected+groupsOfEvents, args...)
	if err != nil {
		return err
	}
	var group, n int64
	if _, err := pgx.ForEachRow(rows, []any{&group, &n}, func() error {
		c.losing[group], found = n, append(found, group)
		return nil
	}); err != nil {
		return err
	}
	if s.has(candidatesTable) {
		rows, err := s.tx.Query(ctx, noted, room)
		if err != nil {
			return err
		}
		if _, err := pgx.ForEachRow(rows, []any{&group}, func() error {
			found = append(found, group)
			return nil
		}); err != nil {
			return err
		}
	}
	limit := 0
	if few && !s.exact {
		limit = s.options.Few
	}
	switch complete, err := c.findUnused(ctx, found, limit); {
	case err != nil:
		return err
	case !complete:
		s.estimateStateGroups(loss, float64(len(c.unused())), false)
		return nil
	}
	if err := c.collect(ctx); err != nil {
		return err
	}
	return c.figures(ctx, loss)
}

// A groupState is what is known of a state group.
type groupState int

const (
	groupUnknown groupState = iota
	groupUsed
	groupUnused
	groupShared // unused, but several groups that stay are stored as differences to it
	groupDeleted
)

// edges are the neighbours of state groups in one direction.
type edges map[int64][]int64

func (e edges) add(from, to int64) bool {
	if slices.Contains(e[from], to) {
		return false
	}
	e[from] = append(e[from], to)
	return true
}

func (e edges) remove(from, to int64) {
	e[from] = slices.DeleteFunc(e[from], func(n int64) bool { return n == to })
}

// A collection foretells how a purge collects state groups: see the steps of
// [purge.History.CollectStateGroups].
type collection struct {
	s      *Snapshot
	room   string
	losing map[int64]int64
	state  map[int64]groupState

	// next are the groups that are stored as differences to a group, and prev the groups
	// to which a group is stored as a difference. They have the edges of unused groups.
	next, prev edges

	// taken are the entries that groups have taken over, where they matter later.
	taken map[int64][]int64

	deleted []int64

	// rows is the number of rows of the deleted groups, and written that of rows taken
	// over. edgesGone counts the edges that are deleted, added those that are made.
	rows, written, edgesGone int64
	added                    map[[2]int64]bool
}

// unused returns the unused groups, the newest first.
func (c *collection) unused() []int64 {
	var groups []int64
	for group, state := range c.state {
		if state == groupUnused {
			groups = append(groups, group)
		}
	}
	slices.SortFunc(groups, func(a, b int64) int {
		if a > b {
			return -1
		}
		return 1
	})
	return groups
}

// findUnused finds the unused groups among those found, and among the neighbours of
// unused groups. It reports false if it has found more than limit; 0 is no limit.
func (c *collection) findUnused(ctx context.Context, found []int64, limit int) (complete bool, err error) {
	unused := 0
	for len(found) > 0 {
		chunk := found[:min(len(found), groupsAtOnce)]
		found = found[len(chunk):]
		chunk = slices.DeleteFunc(slices.Clone(chunk), func(group int64) bool { return c.state[group] != groupUnknown })
		if len(chunk) == 0 {
			continue
		}
		if err := c.classify(ctx, chunk); err != nil {
			return false, err
		}
		chunk = slices.DeleteFunc(chunk, func(group int64) bool { return c.state[group] != groupUnused })
		if unused += len(chunk); limit > 0 && unused > limit {
			return false, nil
		}
		rows, err := c.s.tx.Query(ctx, edgesOf, chunk)
		if err != nil {
			return false, err
		}
		var group, prev int64
		if _, err := pgx.ForEachRow(rows, []any{&group, &prev}, func() error {
			c.next.add(prev, group)
			c.prev.add(group, prev)
			found = append(found, group, prev)
			return nil
		}); err != nil {
			return false, err
		}
	}
	return true, nil
}

// classify finds out which of the groups are used.
func (c *collection) classify(ctx context.Context, groups []int64) error {
	losing := make([]int64, len(groups))
	for i, group := range groups {
		losing[i], c.state[group] = c.losing[group], groupUnused
	}
	sql := groupsInUse
	if c.s.has("state_groups_persisting") {
		sql += groupsPersisting
	}
	rows, err := c.s.tx.Query(ctx, sql, c.room, groups, losing)
	if err != nil {
		return err
	}
	var group int64
	_, err = pgx.ForEachRow(rows, []any{&group}, func() error {
		c.state[group] = groupUsed
		return nil
	})
	return err
}

// collect deletes the unused groups, on paper.
func (c *collection) collect(ctx context.Context) error {
	c.taken, c.added = map[int64][]int64{}, map[[2]int64]bool{}
	unused := c.unused()
	c.markShared(unused)
	var shared, going []int64
	for _, group := range unused {
		if c.state[group] == groupShared {
			shared = append(shared, group)
		} else {
			going = append(going, group)
		}
	}
	// Chains are found before any group of them goes.
	for _, group := range going {
		for _, root := range slices.Clone(c.next[group]) {
			if c.state[root] != groupUnused && c.state[root] != groupDeleted {
				if err := c.takeOver(ctx, root); err != nil {
					return err
				}
			}
		}
	}
	if err := c.delete(ctx, going); err != nil {
		return err
	}
	// The newest first, as a purge does, so that what follows a group is decided.
	for _, group := range shared {
		if err := c.decideShared(ctx, group); err != nil {
			return err
		}
	}
	return nil
}

// markShared marks the unused groups on which several groups depend that stay, or that
// lead to groups that stay.
func (c *collection) markShared(unused []int64) {
	leads := map[int64]bool{}
	var open []int64
	for _, group := range unused {
		if slices.ContainsFunc(c.next[group], func(next int64) bool { return c.state[next] != groupUnused }) {
			open = append(open, group)
		}
	}
	for len(open) > 0 {
		group := open[len(open)-1]
		open = open[:len(open)-1]
		if leads[group] {
			continue
		}
		leads[group] = true
		for _, prev := range c.prev[group] {
			if c.state[prev] == groupUnused {
				open = append(open, prev)
			}
		}
	}
	var shared []int64
	for _, group := range unused {
		dependent := 0
		for _, next := range c.next[group] {
			if next != group && (c.state[next] != groupUnused || leads[next]) {
				dependent++
			}
		}
		if dependent > 1 {
			shared = append(shared, group)
		}
	}
	for _, group := range shared {
		c.state[group] = groupShared
	}
}

// takeOver gives a group that stays what it needs of the unused groups before it.
func (c *collection) takeOver(ctx context.Context, root int64) error {
	var chain, ends []int64
	open := slices.Clone(c.prev[root])
	for len(open) > 0 {
		group := open[len(open)-1]
		open = open[:len(open)-1]
		switch {
		case c.state[group] != groupUnused:
			if group != root {
				ends = append(ends, group)
			}
		case !slices.Contains(chain, group):
			chain = append(chain, group)
			open = append(open, c.prev[group]...)
		}
	}
	if len(chain) == 0 {
		return nil
	}
	// A direct edge of the root's is not one that the chain adds.
	ends = slices.DeleteFunc(ends, func(end int64) bool { return slices.Contains(c.prev[root], end) })
	if err := c.take(ctx, root, chain); err != nil {
		return err
	}
	for _, end := range ends {
		c.connect(root, end)
	}
	for _, group := range chain {
		c.disconnect(root, group)
	}
	return nil
}

// take gives a group the entries of others that it does not have itself.
func (c *collection) take(ctx context.Context, root int64, from []int64) error {
	has := map[int64]bool{}
	own, err := c.keys(ctx, []int64{root})
	if err != nil {
		return err
	}
	for _, key := range own {
		has[key] = true
	}
	for chunk := range slices.Chunk(from, groupsAtOnce) {
		keys, err := c.keys(ctx, chunk)
		if err != nil {
			return err
		}
		for _, key := range keys {
			if !has[key] {
				has[key] = true
				c.written++
				c.taken[root] = append(c.taken[root], key)
			}
		}
	}
	return nil
}

// keys returns the entries of groups, those that they have taken over included.
func (c *collection) keys(ctx context.Context, groups []int64) (keys []int64, err error) {
	rows, err := c.s.tx.Query(ctx, keysOf, groups)
	if err != nil {
		return nil, err
	}
	var group, key int64
	_, err = pgx.ForEachRow(rows, []any{&group, &key}, func() error {
		keys = append(keys, key)
		return nil
	})
	for _, group := range groups {
		keys = append(keys, c.taken[group]...)
	}
	return keys, err
}

// connect makes a group a difference to another.
func (c *collection) connect(group, prev int64) {
	if c.prev.add(group, prev) {
		c.next.add(prev, group)
		c.added[[2]int64{group, prev}] = true
	}
}

// disconnect removes an edge, if there is one.
func (c *collection) disconnect(group, prev int64) {
	if !slices.Contains(c.prev[group], prev) {
		return
	}
	c.prev.remove(group, prev)
	c.next.remove(prev, group)
	if edge := [2]int64{group, prev}; c.added[edge] {
		delete(c.added, edge)
	} else {
		c.edgesGone++
	}
}

// delete deletes groups with their rows and edges.
func (c *collection) delete(ctx context.Context, groups []int64) error {
	for chunk := range slices.Chunk(groups, groupsAtOnce) {
		var rows int64
		if err := c.s.tx.QueryRow(ctx, `
			SELECT count(*) FROM state_groups_state t WHERE t.state_group = ANY ($1)`, chunk).Scan(&rows); err != nil {
			return err
		}
		c.rows += rows
	}
	for _, group := range groups {
		c.rows += int64(len(c.taken[group]))
		c.state[group] = groupDeleted
		for _, prev := range slices.Clone(c.prev[group]) {
			c.disconnect(group, prev)
		}
		for _, next := range slices.Clone(c.next[group]) {
			c.disconnect(next, group)
		}
	}
	c.deleted = append(c.deleted, groups...)
	return nil
}

// decideShared deletes a shared group unless that takes more rows than it saves.
func (c *collection) decideShared(ctx context.Context, group int64) error {
	keys, err := c.keys(ctx, []int64{group})
	if err != nil {
		return err
	}
	next := slices.DeleteFunc(slices.Clone(c.next[group]), func(next int64) bool { return next == group })
	cost := 0
	for _, successor := range next {
		own, err := c.keys(ctx, []int64{successor})
		if err != nil {
			return err
		}
		has := map[int64]bool{}
		for _, key := range own {
			has[key] = true
		}
		for _, key := range keys {
			if !has[key] {
				cost++
			}
		}
	}
	if len(keys) < cost {
		c.state[group] = groupUsed
		return nil
	}
	for _, successor := range next {
		if err := c.take(ctx, successor, []int64{group}); err != nil {
			return err
		}
		for _, prev := range c.prev[group] {
			if prev != successor && prev != group {
				c.connect(successor, prev)
			}
		}
	}
	return c.delete(ctx, []int64{group})
}

// figures sets the figures of what was deleted.
func (c *collection) figures(ctx context.Context, loss *Loss) error {
	from, to := make([]int64, 0, len(c.added)), make([]int64, 0, len(c.added))
	for edge := range c.added {
		from, to = append(from, edge[0]), append(to, edge[1])
	}
	var existing, pending int64
	if err := c.s.tx.QueryRow(ctx, existingEdges, from, to).Scan(&existing); err != nil {
		return err
	}
	loss.Tables["state_group_edges"] = c.s.counted("state_group_edges", c.edgesGone-int64(len(c.added))+existing)
	loss.Tables["state_groups"] = c.s.counted("state_groups", int64(len(c.deleted)))
	loss.Tables["state_groups_state"] = c.s.counted("state_groups_state", c.rows)
	if c.s.has("state_groups_pending_deletion") {
		for chunk := range slices.Chunk(c.deleted, groupsAtOnce) {
			var n int64
			if err := c.s.tx.QueryRow(ctx, `
				SELECT count(*) FROM state_groups_pending_deletion t WHERE t.state_group = ANY ($1)`, chunk).Scan(&n); err != nil {
				return err
			}
			pending += n
		}
		loss.Tables["state_groups_pending_deletion"] = c.s.counted("state_groups_pending_deletion", pending)
	}
	loss.StateGroups = loss.Tables["state_groups"]
	loss.StateGroups.EstimatedBytes += loss.Tables["state_groups_state"].EstimatedBytes
	loss.StateRowsWritten = c.written
	return nil
}
