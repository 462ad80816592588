package admin

import (
	"context"
	"fmt"
	"strings"

	"lethe/internal/store/postgres"

	"github.com/jackc/pgx/v5"
)

// A Room is what a server admin sees of a room. Unknown fields are nil.
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

	// Federatable says that users of other servers may join. Public says that the room
	// directory shows the room. Both are false if unknown.
	Federatable, Public bool

	// JoinedMembers and JoinedLocalMembers are the numbers of joined members and of the
	// local ones among them. StateEvents is the number of events in the current state.
	JoinedMembers, JoinedLocalMembers, StateEvents *int64
}

// roomColumns are the columns that [Room.columns] scans.
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
	// From is the number of rooms to skip, and Limit the maximum number to return.
	From, Limit int64

	// Order is the order of the list: name, canonical_alias, joined_members,
	// joined_local_members, version, creator, encryption, federatable, public,
	// join_rules, guest_access, history_visibility or state_events. Numbers and
	// versions begin with the highest, all others with the lowest. Rooms that are equal
	// are ordered by their ids, in the same direction. Reverse reverses the whole list.
	Order   string
	Reverse bool

	// Search, unless "", must be part of the name or of the alias before its colon, in
	// any letter case, or be the room's id.
	Search string

	// Public and Empty, unless nil, must match the room. A room is empty when it has no
	// joined member.
	Public, Empty *bool
}

// roomOrders maps each order to its column and direction.
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

// likeLiterally escapes a text for LIKE.
var likeLiterally = strings.NewReplacer(`\`, `\\`, `%`, `\%`, `_`, `\_`)

// Rooms lists rooms. total is their number without From and Limit. An unknown order
// is an error.
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
	// In a database of the C locale, such as Synapse's, lower() knows only ASCII
	// letters. So the search also tries the term as Go lowers it, which finds names
	// that are in lower case already.
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
		// A single statement with a window function would carry every room through the
		// sort, and would return no total for an empty page.
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

// RoomDetails is everything that a server admin sees of a room.
type RoomDetails struct {
	Room
	Avatar, Topic *string

	// LocalDevices is the number of devices of the joined local members.
	LocalDevices int64

	// Forgotten says that every local user who was in the room has forgotten it.
	Forgotten bool

	// Tombstone is the id of the state event that names the room's successor, nil if
	// there is no such event.
	Tombstone *string
}

// RoomDetails reads a room. An unknown room is [postgres.ErrNotFound].
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

// JoinedMembers returns the ids of the users who are joined to a room, in order. An
// unknown room is [postgres.ErrNotFound].
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

// RoomOfAlias returns the room that a local alias leads to. An unknown alias is
// [postgres.ErrNotFound].
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
