package timeline

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"

	"lethe/internal/store/postgres"
	"lethe/internal/store/rowcache"

	"github.com/jackc/pgx/v5"
)

// maxChains is the largest number of state groups that are walked for a page. A homeserver
// stores a group in full after a hundred differences.
const maxChains = "100000"

// chainsOf returns the common table expression chain: the state groups of an array
// and all groups that they are differences to, at most maxChains. Each row has a group and the group
// that it is a difference to, NULL if it is stored in full. UNION, not UNION ALL:
// groups of one page mostly share their predecessors, and a circular chain must end.
//
// The planner expects each step to have many groups, and would read the whole table
// of edges at each of up to a hundred steps. OFFSET 0 leaves it only the index.
func chainsOf(groups string) string {
	const before = `
			LEFT JOIN LATERAL (
				SELECT e.prev_state_group FROM state_group_edges e WHERE e.state_group = g.id OFFSET 0
			) e ON true`
	return `walk (state_group, prev_state_group) AS (
			SELECT g.id, e.prev_state_group FROM pg_catalog.unnest(` + groups + `) AS g (id)` + before + `
			UNION
			SELECT g.id, e.prev_state_group
			FROM (SELECT prev_state_group FROM walk WHERE prev_state_group IS NOT NULL) AS g (id)` + before + `
		), chain AS MATERIALIZED (
			SELECT state_group, prev_state_group FROM walk LIMIT ` + maxChains + `
		)`
}

// unseen hides the length of an array parameter from the planner. The planner would
// plan again for each length, which takes longer than looking the array up.
func unseen(parameter string) string { return `(SELECT ` + parameter + `)` }

// maxMembersRead is how many members of a group are read to find users among them.
// Hardly any difference has as many, and reading that many takes no longer than
// looking up one user. In a larger group each user is looked up: a room can have
// 100,000 members, and the planner would read them all, since it expects every group
// to be small.
const maxMembersRead = "100"

// MembersAt returns the ids of the users' member events in the state of a state
// group, in the order of the user ids. Users without a member event are left out. An
// unknown group has none.
func (s *Snapshot) MembersAt(ctx context.Context, stateGroup int64, users []string) ([]string, error) {
	// The group with the highest number wins, which is the nearest.
	members, err := postgres.Collect(ctx, s.tx, pgx.RowTo[string], `
		WITH RECURSIVE `+chainsOf("ARRAY[$1::bigint]")+`, users AS MATERIALIZED (
			SELECT DISTINCT pg_catalog.unnest(`+unseen("$2::text[]")+`) AS user_id
		), members AS MATERIALIZED (
			SELECT c.state_group, m.state_key, m.event_id
			FROM (SELECT DISTINCT state_group FROM chain) c
			CROSS JOIN LATERAL (
				SELECT s.state_key, s.event_id FROM state_groups_state s
				WHERE s.state_group = c.state_group AND s.type = 'm.room.member'
				LIMIT `+maxMembersRead+`
			) m
		), found AS (
			SELECT m.state_group, m.state_key, m.event_id FROM members m JOIN users u ON u.user_id = m.state_key
			UNION ALL
			SELECT s.state_group, s.state_key, s.event_id
			FROM users u
			CROSS JOIN LATERAL (
				SELECT s.state_group, s.state_key, s.event_id FROM state_groups_state s
				WHERE s.type = 'm.room.member' AND s.state_key = u.user_id
				  AND s.state_group = ANY (ARRAY(
					SELECT state_group FROM members GROUP BY state_group HAVING count(*) = `+maxMembersRead+`))
				OFFSET 0
			) s
		)
		SELECT event_id
		FROM (SELECT DISTINCT ON (state_key) state_key, event_id FROM found ORDER BY state_key, state_group DESC) m
		ORDER BY state_key COLLATE "C"`, stateGroup, users)
	if err != nil {
		return nil, fmt.Errorf("read members of a state: %w", err)
	}
	return members, nil
}

// A StateAt is the part of a room's state that decides who may see events: the ids
// of these state events, "" for those that are not set.
type StateAt struct {
	HistoryVisibility, JoinRules string

	// Member is the reader's own member event.
	Member string
}

// readable joins the event of a state and requires it to be in the room and not
// rejected.
const readable = `
		JOIN events e ON e.event_id = x.event_id AND e.room_id = $1 AND e.rejection_reason IS NULL
		JOIN event_json j ON j.event_id = x.event_id
		WHERE NOT EXISTS (SELECT FROM rejections r WHERE r.event_id = x.event_id)`

// queueStatesAt asks for the states of the query's groups. It walks all chains at
// once, looks each key up in all groups at once, and combines both when they have
// arrived.
func (s *Snapshot) queueStatesAt(batch *pgx.Batch, query VisibilityQuery, facts *VisibilityFacts) {
	// One branch per key, so that each is looked up by all three columns of the index:
	// a group can have millions of rows. m.room.create is read because a state without
	// it may be only a part of the state. If only its row is lost, the first groups
	// of the chain still say that they are groups of the create event, the state before
	// it and after it, and all others have rows. That is looked up only if the row is
	// not in the first or second group of some chain.
	key := func(eventType, stateKey string) string {
		return `
			SELECT s.type, s.state_group, s.event_id FROM state_groups_state s
			WHERE s.state_group = ANY ((SELECT groups FROM reached)::bigint[])
			  AND s.type = '` + eventType + `' AND s.state_key = ` + stateKey
	}
	s.queueMoment(batch)
	version, row := `NULL::xid, NULL::tid`, ``
	if s.cache != nil {
		version, row = `g.xmin, g.ctid`, `
		LEFT JOIN LATERAL (SELECT g.xmin, g.ctid FROM state_groups g WHERE g.id = c.state_group AND g.room_id = $1 LIMIT 1) g ON true`
	}
	batch.Queue(`
		WITH RECURSIVE `+chainsOf(unseen("$3::bigint[]"))+`, reached AS (
			SELECT ARRAY(SELECT state_group FROM chain) AS groups
		), found AS MATERIALIZED (`+
		key("m.room.create", "''")+` UNION ALL`+key("m.room.history_visibility", "''")+` UNION ALL`+
		key("m.room.join_rules", "''")+` UNION ALL`+key("m.room.member", "$2")+`
		), damaged AS MATERIALIZED (
			SELECT DISTINCT state_group FROM chain
			WHERE EXISTS (
				SELECT FROM chain root WHERE root.prev_state_group IS NULL AND NOT EXISTS (
					SELECT FROM found f JOIN chain c USING (state_group)
					WHERE f.type = 'm.room.create' AND root.state_group IN (c.state_group, c.prev_state_group)))
		)
		SELECT NULL AS type, c.state_group, c.prev_state_group, NULL AS event_id, NULL AS json, `+version+` FROM chain c`+row+`
		UNION ALL
		SELECT type, state_group, NULL, event_id, NULL, NULL, NULL FROM found
		UNION ALL
		SELECT '`+firstGroup+`', g.id, NULL, '', NULL, NULL, NULL
		FROM damaged JOIN state_groups g ON g.id = damaged.state_group
		JOIN events c ON c.event_id = g.event_id AND c.room_id = $1 AND c.type = 'm.room.create'
		UNION ALL
		SELECT '`+filledGroup+`', d.state_group, NULL, '', NULL, NULL, NULL
		FROM damaged d
		CROSS JOIN LATERAL (SELECT FROM state_groups_state s WHERE s.state_group = d.state_group LIMIT 1) s
		UNION ALL
		SELECT NULL, NULL, NULL, x.event_id, j.json, NULL, NULL
		FROM (SELECT DISTINCT event_id FROM found WHERE type <> 'm.room.create') x`+readable,
		query.Room, query.Reader, query.Groups).
		Query(func(rows pgx.Rows) error {
			chains, versions := chains{}, map[int64]rowcache.Version{}
			var version versionColumns
			var eventType, id, text *string
			var group, prev *int64
			_, err := pgx.ForEachRow(rows, append([]any{&eventType, &group, &prev, &id, &text}, version.columns()...), func() error {
				switch {
				case text != nil:
					facts.Events[*id] = json.RawMessage(*text)
				case eventType != nil:
					chains.at(*group).set(*eventType, *id)
				default:
					link := chains.at(*group)
					if prev != nil {
						link.before = append(link.before, chains.at(*prev))
					}
					if found := version.version(); found != (rowcache.Version{}) {
						versions[*group] = found
					}
				}
				return nil
			})
			for _, group := range query.Groups {
				if state, whole := chains.state(group); whole {
					facts.States[group] = state
				}
			}
			if err == nil {
				s.keepStates(query.Reader, chains, versions)
			}
			return err
		})
}

// queueReplaced asks for the events that state events of the page have replaced.
func queueReplaced(batch *pgx.Batch, query VisibilityQuery, facts *VisibilityFacts) {
	batch.Queue(`
		SELECT x.event_id, j.json FROM pg_catalog.unnest(`+unseen("$2::text[]")+`) AS x (event_id)`+readable, query.Room, query.Replaced).
		Query(func(rows pgx.Rows) error {
			var id, text string
			_, err := pgx.ForEachRow(rows, []any{&id, &text}, func() error {
				facts.Events[id] = json.RawMessage(text)
				return nil
			})
			return err
		})
}

// chains are state groups and the groups that they are differences to, by id.
type chains map[int64]*link

// The names of what is known of a group besides its state. They are no types of
// events that are read.
const (
	firstGroup  = "first"
	filledGroup = "filled"
)

// A link is one group of a chain.
type link struct {
	group  int64
	before []*link // at most one, unless the database is corrupt
	create bool    // the group sets the create event
	first  bool    // the group is the state before or after the create event
	filled bool    // the group has a row
	sets   StateAt

	// seen is the group for which the link was visited last. reach is nil before it is known.
	seen  *link
	reach *reach
}

// at returns the group's link, and adds it if necessary.
func (c chains) at(group int64) *link {
	l := c[group]
	if l == nil {
		l = &link{group: group}
		c[group] = l
	}
	return l
}

// set records that the group itself sets a part of the state.
func (l *link) set(eventType, id string) {
	switch eventType {
	case "m.room.create":
		l.create = true
	case firstGroup:
		l.first = true
	case filledGroup:
		l.filled = true
	case "m.room.history_visibility":
		l.sets.HistoryVisibility = id
	case "m.room.join_rules":
		l.sets.JoinRules = id
	case "m.room.member":
		l.sets.Member = id
	}
}

// A reach is what a link and all before it say of the state.
type reach struct {
	state StateAt

	// visibility, joinRules and member are the groups that set the parts of the state.
	visibility, joinRules, member int64

	// whole says that a group of the chain has the create event or was stored in full,
	// begins that one is the state before or after the create event, and gap that one is
	// neither that nor has rows.
	whole, begins, gap bool
}

// add adds what one link says itself.
func (r *reach) add(l *link) {
	take := func(part *string, from *int64, id string) {
		if id != "" && (*part == "" || l.group > *from) {
			*part, *from = id, l.group
		}
	}
	take(&r.state.HistoryVisibility, &r.visibility, l.sets.HistoryVisibility)
	take(&r.state.JoinRules, &r.joinRules, l.sets.JoinRules)
	take(&r.state.Member, &r.member, l.sets.Member)
	inFull := len(l.before) == 0 && l.sets.HistoryVisibility != "" && l.sets.JoinRules != ""
	r.whole = r.whole || l.create || inFull
	r.begins, r.gap = r.begins || l.first, r.gap || !l.first && !l.filled
}

// state returns the state of a group. Each part comes from the group with the
// highest number in the chain that sets it, which is the nearest. whole says that
// no group of the chain is lost: the chain leads to the create event, to its group with
// only that row lost, or to a group that has been stored in full. A group that is no
// difference looks the same as one whose predecessor is lost, but hardly any difference
// sets both the history visibility and the join rules.
func (c chains) state(group int64) (state StateAt, whole bool) {
	root := c.at(group)
	r, ok := c.reachOf(root)
	if !ok {
		for next := []*link{root}; len(next) > 0; {
			l := next[len(next)-1]
			next = next[:len(next)-1]
			if l.seen == root {
				continue
			}
			l.seen = root
			r.add(l)
			next = append(next, l.before...)
		}
	}
	return r.state, r.whole || r.begins && !r.gap
}

// reachOf returns the reach of a link, and notes it and those of all links before it, so
// that each is computed once. It reports false if the links are no chain, because the
// database is corrupt.
func (c chains) reachOf(last *link) (reach, bool) {
	var way []*link
	var r reach
	for l := last; ; l = l.before[0] {
		if l.reach != nil {
			r = *l.reach
			break
		}
		if way = append(way, l); len(l.before) > 1 || len(way) > len(c) {
			return reach{}, false
		}
		if len(l.before) == 0 {
			break
		}
	}
	for _, l := range slices.Backward(way) {
		r.add(l)
		l.reach = new(r)
	}
	return r, true
}
