package purge

import (
	"slices"

	"lethe/internal/schema"
)

// A roomPart names a part of a room, which is deleted as a whole or in chunks. The
// names are kept in checkpoints.
type roomPart string

// The parts of a room, in the order of their deletion. Each may be large and is
// deleted in chunks, except for the first and the last, which take one transaction
// each.
const (
	// roomShown is everything that shows the room and its members: current state,
	// aliases, lists. It is deleted at once, and then no user finds the room.
	roomShown roomPart = "shown"

	// roomReferring are the rows that may reference the room's events, and the rows
	// that name its members.
	roomReferring roomPart = "referring"

	// roomEvents are the events, with everything that belongs to them alone.
	roomEvents roomPart = "events"

	// roomRows are the other rows of the room.
	roomRows roomPart = "rows"

	// roomStates are the state groups.
	roomStates roomPart = "state_groups"

	// roomItself is the room's own row, and the rows that can only be found by reading
	// a whole table.
	roomItself roomPart = "room"
)

// A roomTable is a table with rows of rooms, which have the column room_id.
type roomTable struct {
	name string
	part roomPart
}

// roomTables are the tables from which a room's delete deletes rows by room_id, in
// an order in which no row is deleted before a row that references it.
//
// Other tables stay. Some stay on purpose, because they belong to the moderators and
// not to the room: blocked_rooms, event_reports, room_reports, scheduled_tasks,
// user_directory. Streams belong to all rooms and are cut by time:
// current_state_delta_stream, device_lists_changes_in_room, ex_outlier_stream,
// room_tags_revisions. device_lists_changes_converted_stream_position is one row for
// all rooms, and names one room by chance. A running homeserver cleans some tables
// itself: sliding_sync_connection_*, state_groups_persisting.
var roomTables = []roomTable{
	{name: "current_state_events", part: roomShown},
	{name: "local_current_membership", part: roomShown},
	{name: "room_aliases", part: roomShown},
	{name: "room_stats_state", part: roomShown},
	{name: "room_stats_current", part: roomShown},
	{name: "room_stats_earliest_token", part: roomShown},
	{name: "event_forward_extremities", part: roomShown},
	{name: "sliding_sync_joined_rooms", part: roomShown},
	{name: "sliding_sync_joined_rooms_to_recalculate", part: roomShown},

	{name: "sliding_sync_membership_snapshots", part: roomReferring},
	{name: "room_memberships", part: roomReferring},
	{name: "users_in_public_rooms", part: roomReferring},
	{name: "users_who_share_private_rooms", part: roomReferring},
	{name: "partial_state_events", part: roomReferring},
	{name: "partial_state_rooms_servers", part: roomReferring},
	{name: "partial_state_rooms", part: roomReferring},
	{name: "msc4242_state_dag_forward_extremities", part: roomReferring},
	{name: "msc4242_state_dag_edges", part: roomReferring},

	{name: "events", part: roomEvents},

	{name: "appservice_room_list", part: roomRows},
	{name: "delayed_events", part: roomRows},
	{name: "destination_rooms", part: roomRows},
	{name: "e2e_room_keys", part: roomRows},
	{name: "event_auth_chain_to_calculate", part: roomRows},
	{name: "event_backward_extremities", part: roomRows},
	{name: "event_failed_pull_attempts", part: roomRows},
	{name: "event_labels", part: roomRows},
	{name: "event_push_actions", part: roomRows},
	{name: "event_push_summary", part: roomRows},
	{name: "event_search", part: roomRows},
	{name: "federation_inbound_events_staging", part: roomRows},
	{name: "pusher_throttle", part: roomRows},
	{name: "receipts_graph", part: roomRows},
	{name: "receipts_linearized", part: roomRows},
	{name: "room_account_data", part: roomRows},
	{name: "room_ban_redactions", part: roomRows},
	{name: "room_depth", part: roomRows},
	{name: "room_retention", part: roomRows},
	{name: "room_tags", part: roomRows},
	{name: "sticky_events", part: roomRows},
	{name: "stream_ordering_to_exterm", part: roomRows},
	{name: "thread_subscriptions", part: roomRows},
	{name: "threads", part: roomRows},
	{name: "timeline_gaps", part: roomRows},
	{name: "un_partial_stated_room_stream", part: roomRows},
	{name: candidatesTable, part: roomRows},

	{name: "state_groups", part: roomStates},

	{name: "rooms", part: roomItself},
}

// candidatesTable is the only one of these tables that belongs to Lethe.
const candidatesTable = "lethe.state_group_candidates"

// roomByEvent are the tables that have the column event_id, and from which a batch
// deletes the rows of its events. A table that has room_id too is in roomTables
// instead: an index that begins with room_id has the room's rows side by side. The
// forward extremities are in both, because one that arrives late references an
// event.
var roomByEvent = []string{
	"event_auth",
	"event_auth_chains",
	"event_edges",
	"event_expiry",
	"event_forward_extremities",
	"event_json",
	"event_push_actions_staging",
	"event_relations",
	"event_to_state_groups",
	"events",
	"redactions",
	"rejections",
	"state_events",

	// Tables of an experiment that Synapse gave up after 1.91.
	"batch_events",
	"insertion_event_edges",
	"insertion_event_extremities",
	"insertion_events",
}

// commonTables are the tables of roomByEvent in which most events have rows, without
// events and event_to_state_groups.
var commonTables = []string{"event_auth", "event_edges", "event_json"}

// roomScope is the scope of a room's delete.
var roomScope = scope{use: schema.UseDelete, byEvent: roomByEvent}

// rooms returns the present tables of roomTables: those that are searched by an
// index, or the others.
func (c Catalog) rooms(indexed bool) []roomTable {
	var tables []roomTable
	all := slices.Clone(roomTables)
	for _, name := range c.rules.ByRoom() {
		t, before := roomTable{name: name, part: roomRows}, roomStates
		if slices.ContainsFunc(c.references, func(r Reference) bool { return r.Table == name }) {
			t.part, before = roomReferring, roomEvents
		}
		all = slices.Insert(all, slices.IndexFunc(all, func(t roomTable) bool { return t.part == before }), t)
	}
	for _, t := range all {
		switch ours := t.name == candidatesTable; {
		case !ours && !c.has(t.name):
		case t.part != roomRows:
			if indexed == (t.part != roomItself) {
				tables = append(tables, t)
			}
		case indexed == (ours || slices.Contains(c.byRoom, t.name)):
			tables = append(tables, t)
		}
	}
	return tables
}

// Asked returns the names of the tables that [Room.Next] asks by the room with an index.
// The room's own row is not among them.
func (r *Room) Asked() []string {
	var names []string
	for _, t := range r.catalog.rooms(true) {
		names = append(names, t.name)
	}
	return names
}
