package footprint

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/jackc/pgx/v5"

	"lethe/internal/schema"
	"lethe/internal/store/postgres"
)

// ErrPage is returned for a place in a list that [Queries.Largest] has not made.
var ErrPage = errors.New("not a place in the list of rooms")

// MaxRooms is the maximum number of rooms on a page of [Queries.Largest].
const MaxRooms = 1000

// A Page is a part of a list.
type Page struct {
	// Limit is the maximum number of rooms, from 1 to [MaxRooms]. Defaults to 100.
	Limit int

	// After is the place after which the page begins, from the page before. Defaults to
	// "", the begin of the list.
	After string
}

// A Size is an estimate of the space that a room takes.
type Size struct {
	Room string `json:"room_id"`

	// Name is the room's name and Alias its canonical alias, "" if it has none.
	Name  string `json:"name"`
	Alias string `json:"canonical_alias"`

	// Events is the number of the room's events, and StateGroups that of its state
	// groups. Exact says that they were counted, and not taken from the server's sample.
	Events      int64 `json:"events"`
	StateGroups int64 `json:"state_groups"`
	Exact       bool  `json:"exact"`

	// EstimatedBytes is an estimate even if Exact is true: the average of all rooms for
	// each event, and for each state group.
	EstimatedBytes int64 `json:"estimated_bytes"`
}

// A place is the last room of a page. Bytes are its members on a page of found rooms.
type place struct {
	Bytes int64  `json:"b"`
	Room  string `json:"r"`
}

func (p place) String() string {
	text, _ := json.Marshal(p) // cannot fail
	return base64.RawURLEncoding.EncodeToString(text)
}

func parsePlace(text string) (p place, err error) {
	decoded, err := base64.RawURLEncoding.DecodeString(text)
	if err == nil {
		err = json.Unmarshal(decoded, &p)
	}
	if err != nil || !postgres.Storable(p.Room) {
		return place{}, fmt.Errorf("%w: %.100q", ErrPage, text)
	}
	return p, nil
}

const (
	// countedRooms counts by two indexes, with several processes if the server has any
	// to spare.
	countedRooms = `
	events_of AS (SELECT room_id, count(*) AS n FROM events GROUP BY room_id),
	groups_of AS (SELECT room_id, count(*) AS n FROM state_groups GROUP BY room_id)`

	// sampledRooms has the rooms that were common in the server's sample. The values of
	// pg_stats have no fixed type, so they are read as texts.
	sampledRooms = `
	sample AS (
		SELECT t.relname::text AS name, v.room_id, (v.share * greatest(t.reltuples, 0))::bigint AS n
		FROM pg_class t
		JOIN pg_namespace n ON n.oid = t.relnamespace
		JOIN pg_stats s ON s.schemaname = n.nspname AND s.tablename = t.relname AND s.attname = 'room_id' AND NOT s.inherited
		CROSS JOIN unnest(s.most_common_vals::text::text[], s.most_common_freqs::text::float8[]) AS v (room_id, share)
		WHERE t.oid IN (to_regclass('events')::oid, to_regclass('state_groups')::oid)
	),
	events_of AS (SELECT room_id, n FROM sample WHERE name = 'events'),
	groups_of AS (SELECT room_id, n FROM sample WHERE name = 'state_groups')`

	// largestRooms are up to $3 rooms after the room $5 of $4 bytes, the largest first,
	// with $1 bytes for an event and $2 for a state group.
	largestRooms = `,
	rooms_of AS (
		SELECT room_id, coalesce(e.n, 0) AS events, coalesce(g.n, 0) AS groups,
		       floor(coalesce(e.n, 0)::float8 * $1::float8 + coalesce(g.n, 0)::float8 * $2::float8)::bigint AS bytes
		FROM events_of e FULL JOIN groups_of g USING (room_id)
	), page AS (
		SELECT * FROM rooms_of r
		WHERE $5 = '' OR r.bytes < $4 OR r.bytes = $4 AND r.room_id > $5
		ORDER BY r.bytes DESC, r.room_id LIMIT $3
	)
	SELECT p.room_id, coalesce(s.name, ''), coalesce(s.canonical_alias, ''), p.events, p.groups, p.bytes
	FROM page p LEFT JOIN room_stats_state s ON s.room_id = p.room_id
	ORDER BY p.bytes DESC, p.room_id`
)

// Largest returns a page of the rooms, the largest first, and the place after it, ""
// after the last. It reads no row of a room: it counts by indexes, or takes the numbers
// from the server's sample if the database has more than [Options].Counted events.
// Then only rooms are listed that were common in the sample. A room whose size changes
// between two pages may be missing or come twice. A place that is not from a page
// before is [ErrPage].
func (q *Queries) Largest(ctx context.Context, page Page) (sizes []Size, next string, err error) {
	const operation = "list the largest rooms"
	if page.Limit == 0 {
		page.Limit = 100
	}
	if page.Limit < 1 || page.Limit > MaxRooms {
		return nil, "", fmt.Errorf("%s: the limit is %d and must be from 1 to %d", operation, page.Limit, MaxRooms)
	}
	var after place
	if page.After != "" {
		if after, err = parsePlace(page.After); err != nil {
			return nil, "", fmt.Errorf("%s: %w", operation, err)
		}
	}
	err = q.Delete(ctx, false, func(ctx context.Context, s *Snapshot) error {
		rooms, exact := countedRooms, true
		if s.tables["events"].rows > int64(q.options.Counted) {
			rooms, exact = sampledRooms, false
		}
		perEvent, perGroup := s.averages()
		sizes, err = postgres.Collect(ctx, s.tx, func(row pgx.CollectableRow) (Size, error) {
			size := Size{Exact: exact}
			return size, row.Scan(&size.Room, &size.Name, &size.Alias, &size.Events, &size.StateGroups, &size.EstimatedBytes)
		}, `WITH `+rooms+largestRooms, perEvent, perGroup, page.Limit+1, after.Bytes, after.Room)
		return err
	})
	if err != nil {
		return nil, "", fmt.Errorf("%s: %w", operation, err)
	}
	if len(sizes) > page.Limit {
		sizes = sizes[:page.Limit]
		last := sizes[page.Limit-1]
		next = place{last.EstimatedBytes, last.Room}.String()
	}
	return sizes, next, nil
}

// averages returns the bytes of the rows that there are for each event, in all tables
// that a room's delete clears, and for each state group.
func (s *Snapshot) averages() (perEvent, perGroup float64) {
	for _, t := range schema.Tables() {
		of := s.tables[t.Name]
		switch {
		case of.rows == 0:
		case slices.Contains(stateGroupTables, t.Name):
			perGroup += of.width * s.per("state_groups", t.Name)
		case t.Delete == schema.Deletes:
			perEvent += of.width * s.per("events", t.Name)
		}
	}
	return perEvent, perGroup
}
