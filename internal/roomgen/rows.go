package roomgen

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"
)

// columns lists the tables that are written by COPY, and their columns. The order is
// the order of writing: a table follows the tables that it references.
var columns = []struct {
	table string
	names []string
}{
	{"events", []string{
		"event_id", "room_id", "type", "state_key", "sender", "topological_ordering", "depth", "stream_ordering",
		"origin_server_ts", "received_ts", "processed", "outlier", "contains_url", "instance_name",
	}},
	{"event_json", []string{"event_id", "room_id", "internal_metadata", "json", "format_version"}},
	{"event_edges", []string{"event_id", "prev_event_id", "is_state"}},
	{"event_auth", []string{"event_id", "auth_id", "room_id"}},
	{"event_relations", []string{"event_id", "relates_to_id", "relation_type", "aggregation_key"}},
	{"redactions", []string{"event_id", "redacts", "have_censored", "received_ts", "recheck"}},
	{"threads", []string{"room_id", "thread_id", "latest_event_id", "topological_ordering", "stream_ordering"}},
	{"event_push_actions", []string{
		"room_id", "event_id", "user_id", "actions", "topological_ordering", "stream_ordering",
		"notif", "highlight", "unread", "thread_id",
	}},
	{"event_txn_id_device_id", []string{"event_id", "room_id", "user_id", "device_id", "txn_id", "inserted_ts"}},
	{"state_groups", []string{"id", "room_id", "event_id"}},
	{"state_group_edges", []string{"state_group", "prev_state_group"}},
	{"state_groups_state", []string{"state_group", "room_id", "type", "state_key", "event_id"}},
	{"event_to_state_groups", []string{"event_id", "state_group"}},
	{"state_events", []string{"event_id", "room_id", "type", "state_key"}},
	{"room_memberships", []string{
		"event_id", "user_id", "sender", "room_id", "membership", "display_name", "event_stream_ordering",
	}},
	{"current_state_events", []string{
		"event_id", "room_id", "type", "state_key", "membership", "event_stream_ordering",
	}},
	{"local_current_membership", []string{"room_id", "user_id", "event_id", "membership", "event_stream_ordering"}},
	{"event_forward_extremities", []string{"event_id", "room_id"}},
	{"room_depth", []string{"room_id", "min_depth"}},
	{"sliding_sync_joined_rooms", []string{"room_id", "event_stream_ordering", "bump_stamp", "room_name", "is_encrypted"}},
	{"room_stats_state", []string{
		"room_id", "name", "join_rules", "history_visibility", "is_federatable", "topic",
	}},
	{"room_stats_current", []string{
		"room_id", "current_state_events", "joined_members", "invited_members", "left_members", "banned_members",
		"local_users_in_room", "completed_delta_stream_id", "knocked_members",
	}},
}

// rows collects rows and writes them table by table.
type rows struct {
	tx      pgx.Tx
	waiting map[string][][]any

	// The columns of event_search, which is not written by COPY.
	found struct {
		ids, rooms, senders, keys, texts []string
		times, streams                   []int64
	}
}

// add adds a row, with a value for each of the table's columns.
func (r *rows) add(table string, values ...any) {
	r.waiting[table] = append(r.waiting[table], values)
}

// write writes the collected rows.
func (r *rows) write(ctx context.Context) error {
	for _, c := range columns {
		waiting := r.waiting[c.table]
		if len(waiting) == 0 {
			continue
		}
		if _, err := r.tx.CopyFrom(ctx, pgx.Identifier{c.table}, c.names, pgx.CopyFromRows(waiting)); err != nil {
			return fmt.Errorf("write %s: %w", c.table, err)
		}
		r.waiting[c.table] = waiting[:0]
	}
	f := &r.found
	if _, err := r.tx.Exec(ctx, `
		INSERT INTO event_search (event_id, room_id, sender, key, vector, origin_server_ts, stream_ordering)
		SELECT id, room, sender, key, to_tsvector('english', text), time, stream
		FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::bigint[], $7::bigint[])
		     AS f (id, room, sender, key, text, time, stream)`,
		f.ids, f.rooms, f.senders, f.keys, f.texts, f.times, f.streams); err != nil {
		return fmt.Errorf("write event_search: %w", err)
	}
	f.ids, f.rooms, f.senders, f.keys, f.texts = f.ids[:0], f.rooms[:0], f.senders[:0], f.keys[:0], f.texts[:0]
	f.times, f.streams = f.times[:0], f.streams[:0]
	return nil
}

// addSearch adds a row of event_search.
func (r *rows) addSearch(e *event, key, text string) {
	f := &r.found
	f.ids, f.rooms, f.senders = append(f.ids, e.id), append(f.rooms, e.RoomID), append(f.senders, e.Sender)
	f.keys, f.texts = append(f.keys, key), append(f.texts, text)
	f.times, f.streams = append(f.times, e.OriginServerTS), append(f.streams, e.stream)
}
