package roomwriter

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"

	"lethe/internal/matrix"
)

// writeState makes the event part of the room's current state. departs says that no
// user of this server is joined any more.
func (r *RoomWriter) writeState(ctx context.Context, extremities Extremities, e newEvent) (departs bool, err error) {
	isMember := e.Type == "m.room.member"
	var membership string
	if isMember {
		membership, _ = e.Content["membership"].(string)
	}
	if isMember && membership != "join" && extremities.Current {
		if err := r.w.b.QueryRow(ctx, `
			SELECT NOT EXISTS (
				SELECT FROM local_current_membership WHERE room_id = $1 AND user_id <> $2 AND membership = 'join')`,
			r.id, *e.StateKey).Scan(&departs); err != nil {
			return false, fmt.Errorf("check for joined users: %w", err)
		}
	}
	var statements []statement
	if isMember {
		// The summary of the state before the user joined or left.
		summary, err := r.summarise(ctx, extremities)
		if err != nil {
			return false, err
		}
		statements = append(r.membership(e, summary), r.countRooms(e, membership == "join"))
	}
	switch {
	case departs:
		statements = append(statements, r.departure(e)...)
	case !extremities.departed():
		statements = append(statements,
			statement{
				"write current_state_delta_stream", `
				INSERT INTO current_state_delta_stream (stream_id, room_id, type, state_key, event_id, prev_event_id, instance_name)
				VALUES ($1, $2, $3, $4, $5, nullif($6, ''), $7)`,
				[]any{e.stream, r.id, e.Type, *e.StateKey, e.ID, e.replaces.ID, r.w.instance},
			},
			statement{
				"write current_state_events", `
				INSERT INTO current_state_events (event_id, room_id, type, state_key, membership, event_stream_ordering)
				VALUES ($1, $2, $3, $4, nullif($5, ''), $6)
				ON CONFLICT (room_id, type, state_key) DO UPDATE
				SET event_id = excluded.event_id, membership = excluded.membership,
				    event_stream_ordering = excluded.event_stream_ordering`,
				[]any{e.ID, r.id, e.Type, *e.StateKey, membership, e.stream},
			})
	}
	if !isMember {
		r.summary = nil // the event may be part of it
	}
	return departs, r.run(ctx, statements)
}

// departure deletes the current state of a room that the last user of this server
// has left: this server no longer learns of its changes. Followers of the room's
// changes are told that all of the state is gone.
func (r *RoomWriter) departure(e newEvent) []statement {
	return []statement{
		{"write the room's last statistics", `
			INSERT INTO room_stats_current (room_id, current_state_events, joined_members, invited_members, left_members,
				banned_members, knocked_members, local_users_in_room, completed_delta_stream_id)
			SELECT $1, count(*), 0, 0, count(*) FILTER (WHERE type = 'm.room.member'), 0, 0, 0, $2
			FROM current_state_events WHERE room_id = $1
			ON CONFLICT (room_id) DO UPDATE
			SET current_state_events = excluded.current_state_events, joined_members = 0, invited_members = 0,
			    left_members = excluded.left_members, banned_members = 0, knocked_members = 0, local_users_in_room = 0,
			    completed_delta_stream_id = excluded.completed_delta_stream_id`, []any{r.id, e.stream}},
		{"empty room_stats_state", `
			UPDATE room_stats_state
			SET name = NULL, canonical_alias = NULL, join_rules = NULL, history_visibility = NULL, encryption = NULL,
			    avatar = NULL, guest_access = NULL, topic = NULL, room_type = NULL
			WHERE room_id = $1`, []any{r.id}},
		{
			"write current_state_delta_stream", `
			INSERT INTO current_state_delta_stream (stream_id, room_id, type, state_key, event_id, prev_event_id, instance_name)
			SELECT $2, room_id, type, state_key, NULL, event_id, $3 FROM current_state_events WHERE room_id = $1`,
			[]any{r.id, e.stream, r.w.instance},
		},
		{"empty current_state_events", `DELETE FROM current_state_events WHERE room_id = $1`, []any{r.id}},
		r.ifPresent("sliding_sync_joined_rooms", "empty sliding_sync_joined_rooms",
			`DELETE FROM sliding_sync_joined_rooms WHERE room_id = $1`, r.id),
		r.ifPresent("sliding_sync_joined_rooms_to_recalculate", "empty sliding_sync_joined_rooms_to_recalculate",
			`DELETE FROM sliding_sync_joined_rooms_to_recalculate WHERE room_id = $1`, r.id),
	}
}

// membership returns the statements that make the event a local user's membership. A
// nil summary keeps what the user was shown of the room before.
func (r *RoomWriter) membership(e newEvent, summary *roomSummary) []statement {
	membership, _ := e.Content["membership"].(string)
	statements := []statement{
		{"write room_memberships", `
			INSERT INTO room_memberships (event_id, user_id, sender, room_id, membership, display_name, avatar_url,
				event_stream_ordering)
			VALUES ($1, $2, $3, $4, $5, $6, $7, $8)`, []any{
			e.ID, *e.StateKey, e.Sender, r.id, membership,
			textOf(e.Content, "displayname"), textOf(e.Content, "avatar_url"), e.stream,
		}},
		{
			"write local_current_membership", `
			INSERT INTO local_current_membership (room_id, user_id, event_id, membership, event_stream_ordering)
			VALUES ($1, $2, $3, $4, $5)
			ON CONFLICT (user_id, room_id) DO UPDATE
			SET event_id = excluded.event_id, membership = excluded.membership,
			    event_stream_ordering = excluded.event_stream_ordering`,
			[]any{r.id, *e.StateKey, e.ID, membership, e.stream},
		},
	}
	known := summary != nil
	if !known {
		summary = &roomSummary{}
	}
	return append(statements, r.ifPresent("sliding_sync_membership_snapshots", "write sliding_sync_membership_snapshots", `
		INSERT INTO sliding_sync_membership_snapshots AS s (room_id, user_id, sender, membership_event_id, membership,
			forgotten, event_stream_ordering, event_instance_name, has_known_state,
			room_type, room_name, is_encrypted, tombstone_successor_room_id)
		VALUES ($1, $2, $3, $4, $5, 0, $6, $7, $8, $9, $10, $11, $12)
		ON CONFLICT (room_id, user_id) DO UPDATE
		SET sender = excluded.sender, membership_event_id = excluded.membership_event_id,
		    membership = excluded.membership, forgotten = 0, event_stream_ordering = excluded.event_stream_ordering,
		    event_instance_name = excluded.event_instance_name,
		    has_known_state = s.has_known_state OR $8,
		    room_type = CASE WHEN $8 THEN excluded.room_type ELSE s.room_type END,
		    room_name = CASE WHEN $8 THEN excluded.room_name ELSE s.room_name END,
		    is_encrypted = CASE WHEN $8 THEN excluded.is_encrypted ELSE s.is_encrypted END,
		    tombstone_successor_room_id =
		        CASE WHEN $8 THEN excluded.tombstone_successor_room_id ELSE s.tombstone_successor_room_id END`,
		r.id, *e.StateKey, e.Sender, e.ID, membership, e.stream, r.w.instance, known,
		summary.roomType, summary.name, summary.encrypted, summary.successor))
}

// countRooms updates the number of rooms that the user is joined to. It adds to the
// number and does not count the rooms, since Synapse may have stopped before it had
// counted all of the user's other rooms.
func (r *RoomWriter) countRooms(e newEvent, joined bool) statement {
	change := 0
	switch wasJoined := e.replaces.Membership == "join"; {
	case joined && !wasJoined:
		change = 1
	case wasJoined && !joined:
		change = -1
	default:
		return statement{}
	}
	return r.ifPresent("user_stats_current", "write user_stats_current", `
		INSERT INTO user_stats_current AS u (user_id, joined_rooms, completed_delta_stream_id)
		VALUES ($1, greatest($2, 0), $3)
		ON CONFLICT (user_id) DO UPDATE
		SET joined_rooms = greatest(u.joined_rooms + $2, 0), completed_delta_stream_id = $3`, *e.StateKey, change, e.stream)
}

// A roomSummary is what room lists show of a room's state.
type roomSummary struct {
	name, roomType, successor *string
	encrypted                 bool
}

// summarise returns what room lists show of the state at the extremities.
func (r *RoomWriter) summarise(ctx context.Context, extremities Extremities) (*roomSummary, error) {
	if r.summary != nil {
		return r.summary, nil
	}
	create, name := matrix.StateKey{Type: "m.room.create"}, matrix.StateKey{Type: "m.room.name"}
	tombstone, encryption := matrix.StateKey{Type: "m.room.tombstone"}, matrix.StateKey{Type: "m.room.encryption"}
	state, err := r.State(ctx, extremities, create, name, tombstone, encryption)
	if err != nil {
		return nil, err
	}
	r.summary = &roomSummary{
		name:      textOf(state[name].content(), "name"),
		roomType:  textOf(state[create].content(), "type"),
		successor: textOf(state[tombstone].content(), "replacement_room"),
		encrypted: textOf(state[encryption].content(), "algorithm") != nil,
	}
	return r.summary, nil
}

// content returns the event's content, nil if it cannot be read.
func (e StateEvent) content() map[string]any {
	var event struct {
		Content map[string]any `json:"content"`
	}
	if json.Unmarshal(e.JSON, &event) != nil {
		return nil
	}
	return event.Content
}

// textOf returns the text under the key, nil if there is no text or PostgreSQL could
// not store it.
func textOf(content map[string]any, key string) *string {
	text, ok := content[key].(string)
	if !ok || strings.Contains(text, "\x00") {
		return nil
	}
	return &text
}

// showInRoomList updates the room in its members' room lists.
func (r *RoomWriter) showInRoomList(ctx context.Context, e newEvent) error {
	summary, err := r.summarise(ctx, Extremities{Current: true})
	if err != nil {
		return err
	}
	// bumps says whether the event moves the room up in the lists.
	bumps := e.Type == "m.room.create" || e.Type == "m.room.message"
	return r.run(ctx, []statement{r.ifPresent("sliding_sync_joined_rooms", "write sliding_sync_joined_rooms", `
		INSERT INTO sliding_sync_joined_rooms AS s (room_id, event_stream_ordering, bump_stamp,
			room_type, room_name, is_encrypted, tombstone_successor_room_id)
		VALUES ($1, $2, CASE WHEN $3 THEN $2::bigint END, $4, $5, $6, $7)
		ON CONFLICT (room_id) DO UPDATE
		SET event_stream_ordering = excluded.event_stream_ordering,
		    bump_stamp = coalesce(excluded.bump_stamp, s.bump_stamp),
		    room_type = excluded.room_type, room_name = excluded.room_name, is_encrypted = excluded.is_encrypted,
		    tombstone_successor_room_id = excluded.tombstone_successor_room_id`,
		r.id, e.stream, bumps, summary.roomType, summary.name, summary.encrypted, summary.successor)})
}

// finish writes the numbers that are stored per room or process and not per event.
func (w *EventWriter) finish(ctx context.Context) error {
	if w.newest == 0 {
		return nil
	}
	for _, r := range w.rooms {
		if r.changed == 0 {
			continue
		}
		if err := r.writeStats(ctx); err != nil {
			return err
		}
	}
	if !w.has("stream_positions") {
		return nil
	}
	// Synapse goes on after the stored position of the process.
	if _, err := w.b.Exec(ctx, `
		UPDATE stream_positions SET stream_id = greatest(stream_id, $2)
		WHERE stream_name = 'events' AND instance_name = $1`, w.instance, w.newest); err != nil {
		return fmt.Errorf("write stream_positions: %w", err)
	}
	return nil
}

// writeStats stores the room's statistics.
func (r *RoomWriter) writeStats(ctx context.Context) error {
	// All members are counted. Otherwise Synapse would process the changes one by one;
	// with the new position it skips the changes up to the newest.
	statements := []statement{{"write room_stats_current", `
		INSERT INTO room_stats_current (room_id, current_state_events, joined_members, invited_members, left_members,
			banned_members, knocked_members, local_users_in_room, completed_delta_stream_id)
		SELECT $1, count(*), count(*) FILTER (WHERE membership = 'join'), count(*) FILTER (WHERE membership = 'invite'),
		       count(*) FILTER (WHERE membership = 'leave'), count(*) FILTER (WHERE membership = 'ban'),
		       count(*) FILTER (WHERE membership = 'knock'),
		       (SELECT count(*) FROM local_current_membership WHERE room_id = $1 AND membership = 'join'), $2
		FROM current_state_events WHERE room_id = $1
		HAVING count(*) > 0
		ON CONFLICT (room_id) DO UPDATE
		SET current_state_events = excluded.current_state_events, joined_members = excluded.joined_members,
		    invited_members = excluded.invited_members, left_members = excluded.left_members,
		    banned_members = excluded.banned_members, knocked_members = excluded.knocked_members,
		    local_users_in_room = excluded.local_users_in_room,
		    completed_delta_stream_id = excluded.completed_delta_stream_id`, []any{r.id, r.changed}}}
	if r.created {
		name, rules := matrix.StateKey{Type: "m.room.name"}, matrix.StateKey{Type: "m.room.join_rules"}
		visibility := matrix.StateKey{Type: "m.room.history_visibility"}
		state, err := r.State(ctx, Extremities{Current: true}, name, rules, visibility)
		if err != nil {
			return err
		}
		statements = append(statements, statement{"write room_stats_state", `
			INSERT INTO room_stats_state (room_id, name, join_rules, history_visibility, is_federatable)
			VALUES ($1, $2, $3, $4, true)`, []any{
			r.id, textOf(state[name].content(), "name"), textOf(state[rules].content(), "join_rule"),
			textOf(state[visibility].content(), "history_visibility"),
		}})
	}
	return r.run(ctx, statements)
}
