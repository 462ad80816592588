package admin

import (
	"context"
	"fmt"
	"strings"

	"lethe/internal/store/postgres"

	"github.com/jackc/pgx/v5"
)

// A Room is what a server admin sees of a room. What nobody knows is nil.
type Room struct {
	ID                string
	Name              *string
	CanonicalAlias    *string
	Version           *string
	Creator           *string
	Encryption        *string
	JoinRules         *string
	GuestAccess       *string
	HistoryVisibility *string
	Type              *string

	// Federatable says that other servers may join. Public says that the room
	// directory shows the room. What nobody knows is false.
	Federatable, Public bool

	// How many members are joined, how many of these are local, and how many
	// state events hold now.
	JoinedMembers, JoinedLocalMembers, StateEvents *int64
}

// roomColumns are what [Room.columns] reads.
const roomColumns = `
	r.room_id, s.name, s.canonical_alias, r.room_version, r.creator, s.encryption, s.join_rules, s.guest_access,
	s.history_visibility, s.room_type, coalesce(s.is_federatable, false), coalesce(r.is_public, false),
	c.joined_members, c.local_users_in_room, c.current_state_events`

func (r *Room) columns() []any {
	return []any{
		&r.ID, &r.Name, &r.CanonicalAlias, &r.Version, &r.Creator, &r.Encryption, &r.JoinRules, &r.GuestAccess,
		&r.HistoryVisibility, &r.Type, &r.Federatable, &r.Public,
		&r.JoinedMembers, &r.JoinedLocalMembers, &r.StateEvents,
	}
}

// A RoomList says which rooms to list.
type RoomList struct {
	// From is how many rooms to pass over, Limit how many to return at most.
	From, Limit int64

	// Order is what to order by: name, canonical_alias, joined_members,
	// joined_local_members, version, creator, encryption, federatable, public,
	// join_rules, guest_access, history_visibility or state_events. Numbers and
	// versions begin with the highest, all else with the lowest, and rooms that
	// are alike are ordered by their ids, in the same direction. Reverse turns
	// all of it round.
	Order   string
	Reverse bool

	// Search, unless "", must be part of the name or of the alias before its
	// colon, in any letter case, or be the room's id.
	Search string

	// Public and Empty, unless nil, must be what the room is. A room is empty
	// when nobody is joined.
	Public, Empty *bool
}

// roomOrders are the column and the direction of each order.
var roomOrders = map[string][2]string{
	"name":                 {"s.name", "ASC"},
	"canonical_alias":      {"s.canonical_alias", "ASC"},
	"joined_members":       {"c.joined_members", "DESC"},
	"joined_local_members": {"c.local_users_in_room", "DESC"},
	"version":              {"r.room_version", "DESC"},
	"creator":              {"r.creator", "ASC"},
	"encryption":           {"s.encryption", "ASC"},
	"federatable":          {"s.is_federatable", "ASC"},
	"public":               {"r.is_public", "ASC"},
	"join_rules":           {"s.join_rules", "ASC"},
	"guest_access":         {"s.guest_access", "ASC"},
	"history_visibility":   {"s.history_visibility", "ASC"},
	"state_events":         {"c.current_state_events", "DESC"},
}

// likeLiterally makes LIKE take every character for itself.
var likeLiterally = strings.NewReplacer(`\`, `\\`, `%`, `\%`, `_`, `\_`)

// Rooms lists rooms, and counts all that would be listed without From and
// Limit. An order that is none is an error.
func (q *Queries) Rooms(ctx context.Context, list RoomList) (rooms []Room, total int64, err error) {
	const operation = "list the rooms"
	order, ok := roomOrders[list.Order]
	if !ok {
		return nil, 0, fmt.Errorf("%s: there is no order %q", operation, list.Order)
	}
	column, direction := order[0], order[1]
	if list.Reverse {
		direction = map[string]string{"ASC": "DESC", "DESC": "ASC"}[direction]
	}
	if !postgres.Storable(list.Search) {
		return nil, 0, nil
	}
	// In a database of the C locale, as Synapse's is, lower() knows only the
	// letters of ASCII. So the term is also tried as Go lowers it, which finds
	// what is small already.
	term := likeLiterally.Replace(list.Search)
	const matching = `
		FROM room_stats_state s
		JOIN room_stats_current c USING (room_id)
		JOIN rooms r USING (room_id)
		WHERE ($1 = '' OR r.room_id = $1
		       OR lower(s.name) LIKE '%' || lower($2) || '%'
		       OR lower(s.name) LIKE '%' || $3 || '%'
		       OR lower(s.canonical_alias) LIKE '#%' || lower($2) || '%:%'
		       OR lower(s.canonical_alias) LIKE '#%' || $3 || '%:%')
		  AND ($4::boolean IS NULL OR r.is_public = $4)
		  AND ($5::boolean IS NULL OR (c.joined_members = 0) = $5)`
	filter := []any{list.Search, term, strings.ToLower(term), list.Public, list.Empty}
	err = postgres.RetryRead(ctx, func() error {
		// Not one statement with a window: that would have to carry every room
		// through the sort, and says nothing when the page is empty.
		if err := q.db.QueryRow(ctx, `SELECT count(*) `+matching, filter...).Scan(&total); err != nil {
			return err
		}
		rows, err := q.db.Query(ctx, `SELECT `+roomColumns+matching+`
			ORDER BY `+column+` `+direction+`, r.room_id `+direction+`
			LIMIT $6 OFFSET $7`, append(filter[:len(filter):len(filter)], list.Limit, list.From)...)
		if err != nil {
			return err
		}
		rooms, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (room Room, err error) {
			return room, row.Scan(room.columns()...)
		})
		return err
	})
	if err != nil {
		return nil, 0, fmt.Errorf("%s: %w", operation, err)
	}
	return rooms, total, nil
}

// RoomDetails is all that a server admin sees of a room.
type RoomDetails struct {
	Room
	Avatar, Topic *string

	// LocalDevices is how many devices the joined local members have.
	LocalDevices int64

	// Forgotten says that every local user who was in the room has forgotten it.
	Forgotten bool

	// Tombstone is the id of the state event that says where the room went, nil
	// if there is none.
	Tombstone *string
}

// RoomDetails reads a room. One that is unknown is [postgres.ErrNotFound].
func (q *Queries) RoomDetails(ctx context.Context, room string) (RoomDetails, error) {
	const operation = "read the room"
	if !postgres.Storable(room) {
		return RoomDetails{}, fmt.Errorf("%s: %w", operation, postgres.ErrNotFound)
	}
	var d RoomDetails
	err := q.db.ReadRow(ctx, append(d.columns(), &d.Avatar, &d.Topic, &d.LocalDevices, &d.Forgotten, &d.Tombstone), `
		SELECT `+roomColumns+`, s.avatar, s.topic,
		       (SELECT count(*)
		        FROM current_state_events m JOIN devices d ON d.user_id = m.state_key
		        WHERE m.room_id = $1 AND m.type = 'm.room.member' AND m.membership = 'join' AND NOT d.hidden),
		       NOT EXISTS (
		        SELECT FROM local_current_membership l JOIN room_memberships m USING (event_id)
		        WHERE l.room_id = $1 AND m.forgotten = 0),
		       (SELECT t.event_id FROM current_state_events t
		        WHERE t.room_id = $1 AND t.type = 'm.room.tombstone' AND t.state_key = '')
		FROM rooms r
		LEFT JOIN room_stats_state s USING (room_id)
		LEFT JOIN room_stats_current c USING (room_id)
		WHERE r.room_id = $1`, room)
	if err != nil {
		return RoomDetails{}, fmt.Errorf("%s: %w", operation, err)
	}
	return d, nil
}

// JoinedMembers returns the ids of the users who are joined to a room, in
// order. A room that is unknown is [postgres.ErrNotFound].
func (q *Queries) JoinedMembers(ctx context.Context, room string) ([]string, error) {
	const operation = "list the room's members"
	if !postgres.Storable(room) {
		return nil, fmt.Errorf("%s: %w", operation, postgres.ErrNotFound)
	}
	var members []string
	err := q.db.ReadRow(ctx, []any{&members}, `
		SELECT ARRAY(
			SELECT m.state_key FROM current_state_events m
			WHERE m.room_id = r.room_id AND m.type = 'm.room.member' AND m.membership = 'join'
			ORDER BY m.state_key)
		FROM rooms r WHERE r.room_id = $1`, room)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", operation, err)
	}
	return members, nil
}

// RoomOfAlias finds the room that a local alias leads to. An alias that leads
// to none is [postgres.ErrNotFound].
func (q *Queries) RoomOfAlias(ctx context.Context, alias string) (room string, err error) {
	const operation = "find the alias's room"
	if !postgres.Storable(alias) {
		return "", fmt.Errorf("%s: %w", operation, postgres.ErrNotFound)
	}
	if err := q.db.ReadRow(ctx, []any{&room}, `SELECT room_id FROM room_aliases WHERE room_alias = $1`, alias); err != nil {
		return "", fmt.Errorf("%s: %w", operation, err)
	}
	return room, nil
}
