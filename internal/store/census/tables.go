package census

// NewestCompat is the highest compat_version of Synapse's schema that Lethe was tested
// with.
const NewestCompat = 84

// A fate is what becomes of a table's rows.
type fate string

const (
	// keeps leaves all rows.
	keeps fate = "keeps"

	// deletes deletes the rows of the room, or of the deleted events.
	deletes fate = "deletes"

	// adjusts changes rows so that they fit what is left.
	adjusts fate = "adjusts"
)

// A table is one of Synapse's tables.
type table struct {
	name string

	// columns are those that name a room, an event or a state group.
	columns string

	// purge and delete are what a history purge and a room's delete do.
	purge, delete fate

	// why says why a delete keeps the rows.
	why string
}

// tables are the tables of all supported versions of Synapse that have such columns.
var tables = []table{
	{"application_services_txns", "event_ids", keeps, keeps, "Synapse deletes each transaction once the application service has it"},
	{"appservice_room_list", "room_id", keeps, deletes, ""},
	{"appservice_stream_position", "stream_ordering", keeps, keeps, "one position for all rooms"},
	{"batch_events", "event_id room_id", keeps, deletes, ""},
	{"blocked_rooms", "room_id", keeps, keeps, "the block outlives the room"},
	{"current_state_delta_stream", "room_id event_id prev_event_id", keeps, keeps, "a stream of all rooms, which Synapse cuts by time"},
	{"current_state_events", "event_id room_id event_stream_ordering", keeps, deletes, ""},
	{"delayed_events", "room_id", keeps, deletes, ""},
	{"destination_rooms", "room_id stream_ordering", keeps, deletes, ""},
	{"destinations", "last_successful_stream_ordering", keeps, keeps, "one position for each server"},
	{"device_lists_changes_converted_stream_position", "room_id", keeps, keeps, "one position for all rooms"},
	{"device_lists_changes_in_room", "room_id", keeps, keeps, "a stream of all rooms, which Synapse cuts by time"},
	{"e2e_room_keys", "room_id", keeps, deletes, ""},
	{"event_auth", "event_id auth_id room_id", deletes, deletes, ""},
	{"event_auth_chain_to_calculate", "event_id room_id", keeps, deletes, ""},
	{"event_auth_chains", "event_id", keeps, deletes, ""},
	{"event_backward_extremities", "event_id room_id", adjusts, deletes, ""},
	{"event_edges", "event_id prev_event_id room_id", deletes, deletes, ""},
	{"event_expiry", "event_id", deletes, deletes, ""},
	{"event_failed_pull_attempts", "room_id event_id", deletes, deletes, ""},
	{"event_forward_extremities", "event_id room_id", deletes, deletes, ""},
	{"event_json", "event_id room_id", deletes, deletes, ""},
	{"event_labels", "event_id room_id", deletes, deletes, ""},
	{"event_push_actions", "room_id event_id stream_ordering thread_id", deletes, deletes, ""},
	{"event_push_actions_staging", "event_id thread_id", deletes, deletes, ""},
	{"event_push_summary", "room_id stream_ordering last_receipt_stream_ordering thread_id", adjusts, deletes, ""},
	{"event_push_summary_stream_ordering", "stream_ordering", keeps, keeps, "one position for all rooms"},
	{"event_relations", "event_id relates_to_id", deletes, deletes, ""},
	{"event_reports", "room_id event_id", keeps, keeps, "it belongs to the moderators"},
	{"event_search", "event_id room_id stream_ordering", deletes, deletes, ""},
	{"event_to_state_groups", "event_id state_group", deletes, deletes, ""},
	{"event_txn_id", "event_id room_id", deletes, deletes, "the server deletes it with the event, by a foreign key"},
	{"event_txn_id_device_id", "event_id room_id", deletes, deletes, "the server deletes it with the event, by a foreign key"},
	{"events", "event_id room_id stream_ordering", deletes, deletes, ""},
	{"ex_outlier_stream", "event_stream_ordering event_id state_group", keeps, keeps, "a stream of all rooms"},
	{"federation_inbound_events_staging", "room_id event_id", deletes, deletes, ""},
	{"insertion_event_edges", "event_id room_id insertion_prev_event_id", keeps, deletes, ""},
	{"insertion_event_extremities", "event_id room_id", keeps, deletes, ""},
	{"insertion_events", "event_id room_id", keeps, deletes, ""},
	{"local_current_membership", "room_id event_id event_stream_ordering", keeps, deletes, ""},
	{"msc4242_state_dag_edges", "room_id event_id prev_state_event_id", keeps, deletes, ""},
	{"msc4242_state_dag_forward_extremities", "room_id event_id", keeps, deletes, ""},
	{"partial_state_events", "room_id event_id", keeps, deletes, ""},
	{"partial_state_rooms", "room_id join_event_id", keeps, deletes, ""},
	{"partial_state_rooms_servers", "room_id", keeps, deletes, ""},
	{"push_rules_stream", "event_stream_ordering", keeps, keeps, "a stream of all users"},
	{"pusher_throttle", "room_id", keeps, deletes, ""},
	{"pushers", "last_stream_ordering", keeps, keeps, "one position for each pusher"},
	{"receipts_graph", "room_id event_ids thread_id", keeps, deletes, ""},
	{"receipts_linearized", "room_id event_id event_stream_ordering thread_id", keeps, deletes, ""},
	{"redactions", "event_id redacts", deletes, deletes, ""},
	{"rejections", "event_id", deletes, deletes, ""},
	{"room_account_data", "room_id", keeps, deletes, ""},
	{"room_alias_servers", "room_alias", keeps, deletes, ""},
	{"room_aliases", "room_alias room_id", keeps, deletes, ""},
	{"room_ban_redactions", "room_id redacting_event_id", keeps, deletes, ""},
	{"room_depth", "room_id", adjusts, deletes, ""},
	{"room_memberships", "event_id room_id event_stream_ordering", keeps, deletes, ""},
	{"room_reports", "room_id", keeps, keeps, "it belongs to the moderators"},
	{"room_retention", "room_id event_id", keeps, deletes, ""},
	{"room_stats_current", "room_id", keeps, deletes, ""},
	{"room_stats_earliest_token", "room_id", keeps, deletes, ""},
	{"room_stats_state", "room_id", keeps, deletes, ""},
	{"room_tags", "room_id", keeps, deletes, ""},
	{"room_tags_revisions", "room_id", keeps, keeps, "it has no content"},
	{"rooms", "room_id", keeps, deletes, ""},
	{"sliding_sync_connection_lazy_members", "room_id", keeps, keeps, "Synapse deletes it with its connection"},
	{"sliding_sync_connection_room_configs", "room_id", keeps, keeps, "Synapse deletes it with its connection"},
	{"sliding_sync_connection_streams", "room_id", keeps, keeps, "Synapse deletes it with its connection"},
	{"sliding_sync_joined_rooms", "room_id event_stream_ordering tombstone_successor_room_id", adjusts, deletes, ""},
	{"sliding_sync_joined_rooms_to_recalculate", "room_id", keeps, deletes, ""},
	{"sliding_sync_membership_snapshots", "room_id membership_event_id event_stream_ordering tombstone_successor_room_id", keeps, deletes, ""},
	{"state_events", "event_id room_id", keeps, deletes, ""},
	{"state_group_edges", "state_group prev_state_group", adjusts, deletes, ""},
	{"state_groups", "room_id event_id", adjusts, deletes, ""},
	{"state_groups_pending_deletion", "state_group", adjusts, deletes, ""},
	{"state_groups_persisting", "state_group", keeps, keeps, "Synapse deletes its rows when it has written the event"},
	{"state_groups_state", "state_group room_id event_id", adjusts, deletes, ""},
	{"sticky_events", "event_id room_id event_stream_ordering", deletes, deletes, ""},
	{"stream_ordering_to_exterm", "stream_ordering room_id event_id", deletes, deletes, ""},
	{"thread_subscriptions", "room_id event_id unsubscribed_at_stream_ordering", keeps, deletes, ""},
	{"threads", "room_id thread_id latest_event_id stream_ordering", adjusts, deletes, ""},
	{"timeline_gaps", "room_id stream_ordering", keeps, deletes, ""},
	{"un_partial_stated_event_stream", "event_id", keeps, keeps, "it is deleted with the event by a foreign key, or stays as part of a stream"},
	{"un_partial_stated_room_stream", "room_id", keeps, deletes, ""},
	{"user_directory", "room_id", keeps, keeps, "the user outlives the room; Synapse replaces the room id"},
	{"users_in_public_rooms", "room_id", keeps, deletes, ""},
	{"users_who_share_private_rooms", "room_id", keeps, deletes, ""},
}
