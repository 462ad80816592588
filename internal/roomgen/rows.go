package roomgen

import (
	"context"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"
)

// columns lists the tables that are written by COPY, and their columns. The order is
// the order of writing: a table follows the tables that it references.
var columns = [][2]string{
	{"events", `event_id room_id type state_key sender topological_ordering depth stream_ordering origin_server_ts
		received_ts processed outlier contains_url instance_name`},
	{"event_json", "event_id room_id internal_metadata json format_version"},
	{"event_edges", "event_id prev_event_id is_state"},
	{"event_auth", "event_id auth_id room_id"},
	{"event_relations", "event_id relates_to_id relation_type aggregation_key"},
	{"redactions", "event_id redacts have_censored received_ts recheck"},
	{"threads", "room_id thread_id latest_event_id topological_ordering stream_ordering"},
	{"event_push_actions", "room_id event_id user_id actions topological_ordering stream_ordering notif highlight unread thread_id"},
	{"event_txn_id_device_id", "event_id room_id user_id device_id txn_id inserted_ts"},
	{"state_groups", "id room_id event_id"},
	{"state_group_edges", "state_group prev_state_group"},
	{"state_groups_state", "state_group room_id type state_key event_id"},
	{"event_to_state_groups", "event_id state_group"},
	{"state_events", "event_id room_id type state_key"},
	{"room_memberships", "event_id user_id sender room_id membership display_name event_stream_ordering"},
	{"current_state_events", "event_id room_id type state_key membership event_stream_ordering"},
	{"local_current_membership", "room_id user_id event_id membership event_stream_ordering"},
	{"event_forward_extremities", "event_id room_id"},
	{"room_depth", "room_id min_depth"},
	{"sliding_sync_joined_rooms", "room_id event_stream_ordering bump_stamp room_name is_encrypted"},
	{"room_stats_state", "room_id name join_rules history_visibility is_federatable topic"},
	{"room_stats_current", `room_id current_state_events joined_members invited_members left_members banned_members
		local_users_in_room completed_delta_stream_id knocked_members`},
}

// rows collects rows and writes them table by table.
type rows struct {
	tx      pgx.Tx
	waiting map[string][][]any

	found []foundText
}

// A foundText is a row of event_search, which is not written by COPY.
type foundText struct {
	ID, Room, Sender, Key, Text string
	Time, Stream                int64
}

// add adds a row, with a value for each of the table's columns.
func (r *rows) add(table string, values ...any) {
	r.waiting[table] = append(r.waiting[table], values)
}

// write writes the collected rows.
func (r *rows) write(ctx context.Context) error {
	for _, c := range columns {
		table, names := c[0], strings.Fields(c[1])
		waiting := r.waiting[table]
		if len(waiting) == 0 {
			continue
		}
		if _, err := r.tx.CopyFrom(ctx, pgx.Identifier{table}, names, pgx.CopyFromRows(waiting)); err != nil {
			return fmt.Errorf("write %s: %w", table, err)
		}
		r.waiting[table] = waiting[:0]
	}
	if _, err := r.tx.Exec(ctx, `
		INSERT INTO event_search (event_id, room_id, sender, key, vector, origin_server_ts, stream_ordering)
		SELECT "ID", "Room", "Sender", "Key", to_tsvector('english', "Text"), "Time", "Stream"
		FROM json_to_recordset($1) AS f ("ID" text, "Room" text, "Sender" text, "Key" text, "Text" text, "Time" bigint, "Stream" bigint)`,
		r.found); err != nil {
		return fmt.Errorf("write event_search: %w", err)
	}
	r.found = r.found[:0]
	return nil
}

// addSearch adds a row of event_search.
func (r *rows) addSearch(e *event, key, text string) {
	r.found = append(r.found, foundText{e.id, e.RoomID, e.Sender, key, text, e.OriginServerTS, e.stream})
}
