package purge

import (
	"maps"
	"slices"
)

// A roomPart is what one step of a room's end deletes. The names are kept in
// checkpoints.
type roomPart string

// The parts of a room, in the order in which they go. Each may be large and go in
// chunks, but for the first and the last, which go in one transaction each.
const (
	// roomShown is what tells that the room is there, and who is in it: current
	// state, aliases, lists. It goes at once, and then nobody finds the room.
	roomShown roomPart = "shown"

	// roomReferring is what may reference the room's events, and the rows that
	// lead to its members.
	roomReferring roomPart = "referring"

	// roomEvents are the events, with what belongs to them alone.
	roomEvents roomPart = "events"

	// roomRows are the other rows of the room.
	roomRows roomPart = "rows"

	// roomStates are the state groups.
	roomStates roomPart = "state_groups"

	// roomItself is the room's own row, with what can only be found by reading a
	// whole table.
	roomItself roomPart = "room"
)

// A roomTable is a table that has rows of rooms, by the column room_id.
type roomTable struct {
	name string
	part roomPart

	// optional says that the table came or went with some version of Synapse, and
	// may be absent.
	optional bool
}

// roomTables are the tables that the end of a room empties of it by room_id, in
// an order in which no row goes before one that references it.
//
// What is not here stays. Some of it on purpose, as it is not of the room but of
// those who watch over it: blocked_rooms, event_reports, room_reports,
// scheduled_tasks, user_directory. The streams, which are not of a room but of all
// and are cut by time: current_state_delta_stream, device_lists_changes_in_room,
// ex_outlier_stream, room_tags_revisions. device_lists_changes_converted_stream_position
// is one row for all rooms, and names one by chance. And what a running homeserver
// holds in memory too, and clears itself: delayed_events, room_ban_redactions,
// sliding_sync_connection_*, state_groups_persisting.
var roomTables = []roomTable{
	{name: "current_state_events", part: roomShown},
	{name: "local_current_membership", part: roomShown},
	{name: "room_aliases", part: roomShown},
	{name: "room_stats_state", part: roomShown},
	{name: "room_stats_current", part: roomShown},
	{name: "room_stats_earliest_token", part: roomShown},
	{name: "event_forward_extremities", part: roomShown},
	{name: "sliding_sync_joined_rooms", part: roomShown, optional: true},
	{name: "sliding_sync_joined_rooms_to_recalculate", part: roomShown, optional: true},

	{name: "sliding_sync_membership_snapshots", part: roomReferring, optional: true},
	{name: "room_memberships", part: roomReferring},
	{name: "users_in_public_rooms", part: roomReferring},
	{name: "users_who_share_private_rooms", part: roomReferring},
	{name: "partial_state_events", part: roomReferring},
	{name: "partial_state_rooms_servers", part: roomReferring},
	{name: "partial_state_rooms", part: roomReferring},
	{name: "msc4242_state_dag_forward_extremities", part: roomReferring, optional: true},
	{name: "msc4242_state_dag_edges", part: roomReferring, optional: true},

	{name: "events", part: roomEvents},

	{name: "appservice_room_list", part: roomRows},
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
	{name: "room_depth", part: roomRows},
	{name: "room_retention", part: roomRows},
	{name: "room_tags", part: roomRows},
	{name: "sticky_events", part: roomRows, optional: true},
	{name: "stream_ordering_to_exterm", part: roomRows},
	{name: "thread_subscriptions", part: roomRows, optional: true},
	{name: "threads", part: roomRows},
	{name: "timeline_gaps", part: roomRows, optional: true},
	{name: "un_partial_stated_room_stream", part: roomRows},
	{name: candidates, part: roomRows},

	{name: "state_groups", part: roomStates},

	{name: "rooms", part: roomItself},
}

// candidates is the one table of our own among them.
const candidates = "lethe.state_group_candidates"

// roomByEvent are the tables that know an event by its event_id, and that a batch
// empties of the events that it deletes. Those of roomTables that know both are
// better found by the room: an index that begins with it has the room's rows side
// by side. The forward extremities are in both, since a late one references an
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

	// Of an experiment that Synapse gave up after 1.91.
	"batch_events",
	"insertion_event_edges",
	"insertion_event_extremities",
	"insertion_events",
}

// ofMostEvents are those of roomByEvent in which most events have rows, but for
// events and event_to_state_groups.
var ofMostEvents = []string{"event_auth", "event_edges", "event_json"}

// roomScope is that of the end of a room.
var roomScope = scope{tables: tablesOfRooms(), byEvent: roomByEvent}

func tablesOfRooms() map[string]bool {
	tables := map[string]bool{
		"event_auth_chain_links":        true,
		"room_alias_servers":            true,
		"state_group_edges":             true,
		"state_groups_pending_deletion": false,
		"state_groups_state":            true,
	}
	for _, name := range roomByEvent {
		tables[name] = true
	}
	for _, t := range roomTables {
		tables[t.name] = !t.optional
	}
	maps.Copy(tables, map[string]bool{
		"batch_events": false, "insertion_event_edges": false, "insertion_event_extremities": false, "insertion_events": false,
	})
	delete(tables, candidates) // a migration of ours has made it
	return tables
}

// rooms returns the present ones of the tables that have rows of rooms, those that
// are found by an index or those that are not.
func (c Catalog) rooms(indexed bool) []roomTable {
	var tables []roomTable
	for _, t := range roomTables {
		switch ours := t.name == candidates; {
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
