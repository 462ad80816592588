package footprint

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"lethe/internal/store/postgres"
)

// searchTime bounds each statement of a search.
const searchTime = 10 * time.Second

// likeLiterally escapes a text for LIKE.
var likeLiterally = strings.NewReplacer(`\`, `\\`, `%`, `\%`, `_`, `\_`)

// foundRooms are up to $4 rooms after the room $6 with $5 members, those with the most
// members first. $1 is the term for LIKE, $2 the same in lower case, and $3 as it is. In a
// database of the C locale, such as Synapse's, lower() knows only ASCII letters, so $2 finds
// names that are in lower case already.
const foundRooms = `
	matching AS (
		SELECT room_id FROM room_stats_state
		WHERE lower(name) LIKE '%' || lower($1::text) || '%' OR lower(name) LIKE '%' || $2::text || '%'
		   OR lower(canonical_alias) LIKE '%' || lower($1::text) || '%' OR lower(canonical_alias) LIKE '%' || $2::text || '%'
		UNION SELECT room_id FROM room_aliases WHERE lower(room_alias) LIKE '%' || lower($1::text) || '%' OR lower(room_alias) LIKE '%' || $2::text || '%'
		UNION SELECT room_id FROM rooms WHERE strpos(room_id, $3) > 0
	), members_of AS (
		SELECT m.room_id, coalesce(c.joined_members, 0)::bigint AS members
		FROM matching m LEFT JOIN room_stats_current c ON c.room_id = m.room_id
	), page AS (
		SELECT * FROM members_of m
		WHERE $6 = '' OR m.members < $5 OR m.members = $5 AND m.room_id > $6
		ORDER BY m.members DESC, m.room_id LIMIT $4
	)`

// Search returns a page of the rooms whose name or alias contains a text, in any letter case,
// or whose id does, and the place after it, "" after the last. Those with the most joined
// members come first. The events of a room are counted, but for a room that is common in the
// server's sample of a database with more than [Options].Counted events. A place that is not
// from a page before is [ErrPage].
//
// It reads each name, alias and id once: they are small, and have no index for parts of
// them.
func (q *Queries) Search(ctx context.Context, text string, page Page) (sizes []Size, next string, err error) {
	const operation = "search the rooms"
	if page.Limit < 1 || page.Limit > MaxRooms {
		return nil, "", fmt.Errorf("%s: the limit is %d and must be from 1 to %d", operation, page.Limit, MaxRooms)
	}
	var after place
	if page.After != "" {
		if after, err = parsePlace(page.After); err != nil {
			return nil, "", fmt.Errorf("%s: %w", operation, err)
		}
	}
	if !postgres.Storable(text) {
		return nil, "", nil
	}
	var members []int64
	err = q.Delete(ctx, false, func(ctx context.Context, s *Snapshot) error {
		if err := s.setLocal(ctx, `SELECT set_config('statement_timeout', '`+postgres.Milliseconds(searchTime)+`', true)`); err != nil {
			return err
		}
		// A room that is missing from the sample is small, and counted in any case.
		sampled := sampledRooms
		if s.tables["events"].rows <= int64(q.options.Counted) {
			sampled = `
	events_of AS (SELECT ''::text AS room_id, 0::bigint AS n LIMIT 0),
	groups_of AS (SELECT ''::text AS room_id, 0::bigint AS n LIMIT 0)`
		}
		perEvent, perGroup := s.averages()
		term := likeLiterally.Replace(text)
		sizes, err = postgres.Collect(ctx, s.tx, func(row pgx.CollectableRow) (size Size, err error) {
			var joined int64
			err = row.Scan(&size.Room, &size.Name, &size.Alias, &joined, &size.Events, &size.StateGroups, &size.Exact)
			size.EstimatedBytes = int64(float64(size.Events)*perEvent + float64(size.StateGroups)*perGroup)
			members = append(members, joined)
			return size, err
		}, `WITH `+sampled+`,`+foundRooms+`
			SELECT p.room_id, coalesce(s.name, ''), coalesce(s.canonical_alias, ''), p.members,
			       coalesce(e.n, (SELECT count(*) FROM events c WHERE c.room_id = p.room_id)),
			       coalesce(g.n, (SELECT count(*) FROM state_groups c WHERE c.room_id = p.room_id)), e.n IS NULL AND g.n IS NULL
			FROM page p LEFT JOIN room_stats_state s ON s.room_id = p.room_id
			LEFT JOIN events_of e ON e.room_id = p.room_id LEFT JOIN groups_of g ON g.room_id = p.room_id
			ORDER BY p.members DESC, p.room_id`, term, strings.ToLower(term), text, page.Limit+1, after.Bytes, after.Room)
		return err
	})
	if err != nil {
		return nil, "", fmt.Errorf("%s: %w", operation, err)
	}
	if len(sizes) > page.Limit {
		sizes = sizes[:page.Limit]
		next = place{members[page.Limit-1], sizes[page.Limit-1].Room}.String()
	}
	return sizes, next, nil
}
