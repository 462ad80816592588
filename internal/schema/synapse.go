package schema

// The newest version and compat_version of Synapse's schema that Lethe was tested
// with, those of Synapse 1.160.
const (
	NewestVersion = 94
	NewestCompat  = 84
)

// tables are the tables of all supported versions of Synapse that a statement of
// Lethe's names, or that have a column with ids of rooms, events or state groups. They
// are sorted by name.
//
// Columns has for each column its name, its kind, and who uses it: P for history
// purges, D for deletes of rooms, S for the writes of shutdowns, W for what sweeps
// decide by and workers check, all of these in workers; R for reads of the api, A for
// checks of access tokens in the api and in asynqmon, C for schedulers, L for plans of
// jobs, which the api makes and workers check, - for no statement. A kind that ends with a question mark belongs to a column that some
// version of Synapse has added, and that Lethe does without.
var tables = []Table{
	{
		Name:   "access_tokens",
		Rights: "SELECT", ByColumn: true, Keys: "token",
		Columns: `id int A, user_id text A, device_id text A, token text A, valid_until_ms int A,
			puppets_user_id text A`,
	},
	{
		Name:    "account_data",
		Rights:  "SELECT",
		Columns: `user_id text R, account_data_type text R, content text R`,
	},
	{
		Name:   "account_validity",
		Rights: "SELECT", ByColumn: true,
		Columns: `user_id text A, expiration_ts_ms int A`,
	},
	{
		Name: "application_services_txns", Purge: Keeps, Delete: Keeps,
		Why:     "Synapse deletes each transaction once the application service has it",
		Columns: `event_ids text -`,
	},
	{
		Name: "appservice_room_list", Purge: Keeps, Delete: Deletes,
		Rights:  "SELECT DELETE",
		Columns: `room_id text DL`,
	},
	{
		Name: "appservice_stream_position", Purge: Keeps, Delete: Keeps,
		Why:     "one position for all rooms",
		Columns: `stream_ordering int -`,
	},
	{
		Name: "batch_events", Purge: Keeps, Delete: Deletes,
		Absent:  "from schema 83 on",
		Rights:  "SELECT DELETE",
		Columns: `event_id text DL, room_id text -`,
	},
	{
		Name: "blocked_rooms", Purge: Keeps, Delete: Keeps,
		Why:    "the block outlives the room",
		Rights: "SELECT INSERT", API: "INSERT DELETE", Keys: "room_id",
		Columns: `room_id text SR, user_id text SR`,
	},
	{
		Name:   "cache_invalidation_stream_by_instance",
		Absent: "where Lethe made the tables",
		Rights: "SELECT INSERT", API: "INSERT",
		Columns: `stream_id int PDR, instance_name text PDR, cache_func text PDR, keys text[] PDR,
			invalidation_ts int PDR`,
	},
	{
		Name: "current_state_delta_stream", Purge: Keeps, Delete: Keeps,
		Why:    "a stream of all rooms, which Synapse cuts by time",
		Rights: "SELECT INSERT",
		Columns: `stream_id int S, room_id text S, type text S, state_key text S, event_id text S,
			prev_event_id text S, instance_name text S`,
	},
	{
		Name: "current_state_events", Purge: Keeps, Delete: Deletes,
		Rights: "SELECT INSERT UPDATE DELETE", Keys: "room_id+type+state_key", References: true,
		Columns: `event_id text SR, room_id text DSRL, type text DSRL, state_key text DSRL, membership text DSRL,
			event_stream_ordering int DS`,
	},
	{
		Name: "delayed_events", Purge: Keeps, Delete: Deletes,
		Absent:  "before schema 88",
		Rights:  "SELECT DELETE",
		Columns: `room_id text DL`,
	},
	{
		Name: "destination_rooms", Purge: Keeps, Delete: Deletes,
		Rights: "SELECT DELETE", References: true,
		Columns: `room_id text DL, stream_ordering int -`,
	},
	{
		Name: "destinations", Purge: Keeps, Delete: Keeps,
		Why:     "one position for each server",
		Columns: `last_successful_stream_ordering int -`,
	},
	{
		Name: "device_lists_changes_converted_stream_position", Purge: Keeps, Delete: Keeps,
		Why:     "one position for all rooms",
		Columns: `room_id text -`,
	},
	{
		Name: "device_lists_changes_in_room", Purge: Keeps, Delete: Keeps,
		Why:     "a stream of all rooms, which Synapse cuts by time",
		Columns: `room_id text -`,
	},
	{
		Name:   "devices",
		Rights: "SELECT", ByColumn: true,
		Columns: `user_id text RA, device_id text RA, hidden bool R, last_seen int R`,
	},
	{
		Name: "e2e_room_keys", Purge: Keeps, Delete: Deletes,
		Rights:  "SELECT DELETE",
		Columns: `room_id text DL`,
	},
	{
		Name:    "erased_users",
		Rights:  "SELECT",
		Columns: `user_id text R`,
	},
	{
		Name: "event_auth", Purge: Deletes, Delete: Deletes,
		Rights:  "SELECT INSERT DELETE",
		Columns: `event_id text PDSL, auth_id text S, room_id text S`,
	},
	{
		Name:   "event_auth_chain_links",
		Rights: "SELECT INSERT DELETE",
		Columns: `origin_chain_id int DSL, origin_sequence_number int DSL, target_chain_id int S,
			target_sequence_number int S`,
	},
	{
		Name: "event_auth_chain_to_calculate", Purge: Keeps, Delete: Deletes,
		Rights:  "SELECT INSERT DELETE",
		Columns: `event_id text S, room_id text DSL, type text S, state_key text S`,
	},
	{
		Name: "event_auth_chains", Purge: Keeps, Delete: Deletes,
		Rights:  "SELECT INSERT DELETE",
		Columns: `event_id text DSL, chain_id int DSL, sequence_number int DSL`,
	},
	{
		Name: "event_backward_extremities", Purge: Adjusts, Delete: Deletes,
		Rights: "SELECT INSERT DELETE", Keys: "event_id+room_id",
		Columns: `event_id text PDSRL, room_id text PDSRL`,
	},
	{
		Name: "event_edges", Purge: Deletes, Delete: Deletes,
		Rights: "SELECT INSERT DELETE", References: true,
		Columns: `event_id text PDSL, prev_event_id text PS, room_id text? R, is_state bool PS`,
	},
	{
		Name: "event_expiry", Purge: Deletes, Delete: Deletes,
		Rights:  "SELECT DELETE",
		Columns: `event_id text PDL`,
	},
	{
		Name: "event_failed_pull_attempts", Purge: Deletes, Delete: Deletes,
		Rights: "SELECT DELETE", References: true,
		Columns: `room_id text PDL, event_id text PL`,
	},
	{
		Name: "event_forward_extremities", Purge: Deletes, Delete: Deletes,
		Rights: "SELECT INSERT DELETE", API: "DELETE", References: true,
		Columns: `event_id text SR, room_id text PDSRL`,
	},
	{
		Name: "event_json", Purge: Deletes, Delete: Deletes,
		Rights: "SELECT INSERT UPDATE DELETE", Keys: "event_id",
		Columns: `event_id text PDSRL, room_id text PSR, internal_metadata text PSRL, json text PSRL,
			format_version int SR`,
	},
	{
		Name: "event_labels", Purge: Deletes, Delete: Deletes,
		Rights:  "SELECT DELETE",
		Columns: `event_id text PRL, label text R, room_id text PDRL, topological_ordering int R`,
	},
	{
		Name: "event_push_actions", Purge: Deletes, Delete: Deletes,
		Rights: "SELECT DELETE",
		Columns: `room_id text PDRL, event_id text PL, user_id text P, stream_ordering int P, notif int P,
			unread int P, thread_id text P`,
	},
	{
		Name: "event_push_actions_staging", Purge: Deletes, Delete: Deletes,
		Rights:  "SELECT DELETE",
		Columns: `event_id text PDL, thread_id text -`,
	},
	{
		Name: "event_push_summary", Purge: Adjusts, Delete: Deletes,
		Rights: "SELECT UPDATE DELETE",
		Columns: `user_id text P, room_id text PDL, notif_count int P, stream_ordering int -, unread_count int P,
			last_receipt_stream_ordering int P, thread_id text P`,
	},
	{
		Name: "event_push_summary_stream_ordering", Purge: Keeps, Delete: Keeps,
		Why:     "one position for all rooms",
		Rights:  "SELECT",
		Columns: `stream_ordering int P`,
	},
	{
		Name: "event_relations", Purge: Deletes, Delete: Deletes,
		Rights:  "SELECT DELETE",
		Columns: `event_id text PDRL, relates_to_id text PRL, relation_type text PRL, aggregation_key text R`,
	},
	{
		Name: "event_reports", Purge: Keeps, Delete: Keeps,
		Why:     "it belongs to the moderators",
		Rules:   []Rule{Keep, DeleteByRoom, DeleteByEvent},
		Absent:  "where Lethe made the tables",
		Rights:  "SELECT",
		Columns: `id int R, received_ts int R, room_id text R, event_id text R, user_id text R, content text R`,
	},
	{
		Name: "event_search", Purge: Deletes, Delete: Deletes,
		Rights: "SELECT INSERT DELETE",
		Columns: `event_id text PSL, room_id text PDSRL, key text S, vector tsvector S, origin_server_ts int S,
			stream_ordering int S`,
	},
	{
		Name: "event_to_state_groups", Purge: Deletes, Delete: Deletes,
		Rights: "SELECT INSERT DELETE", Keys: "event_id",
		Columns: `event_id text PDSRL, state_group int PSRL`,
	},
	{
		Name: "event_txn_id", Purge: Deletes, Delete: Deletes,
		Why:     "the server deletes it with the event, by a foreign key",
		Absent:  "from schema 83 on",
		Cascade: "event_id", References: true,
		Columns: `event_id text PDL, room_id text -`,
	},
	{
		Name: "event_txn_id_device_id", Purge: Deletes, Delete: Deletes,
		Why:     "the server deletes it with the event, by a foreign key",
		Absent:  "where Lethe made the tables",
		Cascade: "event_id", References: true,
		Columns: `event_id text PDL, room_id text -`,
	},
	{
		Name: "events", Purge: Deletes, Delete: Deletes,
		Rights: "SELECT INSERT UPDATE DELETE", Keys: "event_id, stream_ordering",
		Columns: `topological_ordering int PDSRL, event_id text PDSRL, type text PSRL, room_id text PDSRL,
			processed bool S, outlier bool PSRL, depth int PSRL, origin_server_ts int PSR, received_ts int SR,
			sender text PSRL, contains_url bool SRL, instance_name text SR, stream_ordering int PDSRL,
			state_key text PSRL, rejection_reason text PRL`,
	},
	{
		Name: "ex_outlier_stream", Purge: Keeps, Delete: Keeps,
		Why:     "a stream of all rooms",
		Columns: `event_stream_ordering int -, event_id text -, state_group int -`,
	},
	{
		Name: "federation_inbound_events_staging", Purge: Deletes, Delete: Deletes,
		Rights:  "SELECT DELETE",
		Columns: `room_id text PDL, event_id text PL`,
	},
	{
		Name:    "federation_stream_position",
		Rights:  "SELECT",
		Columns: `type text S, stream_id int S`,
	},
	{
		Name:    "ignored_users",
		Rights:  "SELECT",
		Columns: `ignorer_user_id text R, ignored_user_id text R`,
	},
	{
		Name: "insertion_event_edges", Purge: Keeps, Delete: Deletes,
		Absent:  "from schema 83 on",
		Rights:  "SELECT DELETE",
		Columns: `event_id text DL, room_id text -, insertion_prev_event_id text -`,
	},
	{
		Name: "insertion_event_extremities", Purge: Keeps, Delete: Deletes,
		Absent:  "from schema 83 on",
		Rights:  "SELECT DELETE",
		Columns: `event_id text DL, room_id text -`,
	},
	{
		Name: "insertion_events", Purge: Keeps, Delete: Deletes,
		Absent:  "from schema 83 on",
		Rights:  "SELECT DELETE",
		Columns: `event_id text DL, room_id text -`,
	},
	{
		Name:    "instance_map",
		Absent:  "where Lethe made the tables",
		Rights:  "SELECT",
		Columns: `instance_id int R, instance_name text R`,
	},
	{
		Name: "local_current_membership", Purge: Keeps, Delete: Deletes,
		Rights: "SELECT INSERT UPDATE DELETE", Keys: "user_id+room_id", References: true,
		Columns: `room_id text DSRL, user_id text SRL, event_id text SR, membership text SRL,
			event_stream_ordering int DS`,
	},
	{
		Name: "msc4242_state_dag_edges", Purge: Keeps, Delete: Deletes,
		Absent: "before schema 94",
		Rights: "SELECT DELETE", References: true,
		Columns: `room_id text DL, event_id text DL, prev_state_event_id text D`,
	},
	{
		Name: "msc4242_state_dag_forward_extremities", Purge: Keeps, Delete: Deletes,
		Absent: "before schema 94",
		Rights: "SELECT DELETE", Cascade: "event_id", References: true,
		Columns: `room_id text DL, event_id text PDL`,
	},
	{
		Name: "partial_state_events", Purge: Keeps, Delete: Deletes,
		Rights: "SELECT DELETE", References: true,
		Columns: `room_id text DL, event_id text -`,
	},
	{
		Name: "partial_state_rooms", Purge: Keeps, Delete: Deletes,
		Rights: "SELECT DELETE", References: true,
		Columns: `room_id text PDSL, join_event_id text PD`,
	},
	{
		Name: "partial_state_rooms_servers", Purge: Keeps, Delete: Deletes,
		Rights: "SELECT DELETE", References: true,
		Columns: `room_id text DL`,
	},
	{
		Name:   "profiles",
		Absent: "where Lethe made the tables",
		Rights: "SELECT", Keys: "user_id",
		Columns: `user_id text S, full_user_id text R, displayname text SR, avatar_url text SR`,
	},
	{
		Name: "push_rules_stream", Purge: Keeps, Delete: Keeps,
		Why:     "a stream of all users",
		Columns: `event_stream_ordering int -`,
	},
	{
		Name: "pusher_throttle", Purge: Keeps, Delete: Deletes,
		Rights:  "SELECT DELETE",
		Columns: `room_id text DL`,
	},
	{
		Name: "pushers", Purge: Keeps, Delete: Keeps,
		Why:     "one position for each pusher",
		Columns: `last_stream_ordering int -`,
	},
	{
		Name: "receipts_graph", Purge: Keeps, Delete: Deletes,
		Rights:  "SELECT DELETE",
		Columns: `room_id text DL, event_ids text -, thread_id text -`,
	},
	{
		Name: "receipts_linearized", Purge: Keeps, Delete: Deletes,
		Rights:  "SELECT UPDATE DELETE",
		Columns: `room_id text PDL, event_id text PL, event_stream_ordering int? P, thread_id text -`,
	},
	{
		Name: "redactions", Purge: Deletes, Delete: Deletes,
		Rights:  "SELECT UPDATE DELETE",
		Columns: `event_id text PDRL, redacts text PDRL, have_censored bool PDRL, received_ts int PRL, recheck bool? PRL`,
	},
	{
		Name: "rejections", Purge: Deletes, Delete: Deletes,
		Rights:  "SELECT DELETE",
		Columns: `event_id text PDRL`,
	},
	{
		Name: "room_account_data", Purge: Keeps, Delete: Deletes,
		Rights:  "SELECT DELETE",
		Columns: `room_id text DL`,
	},
	{
		Name: "room_alias_servers", Purge: Keeps, Delete: Deletes,
		Rights:  "SELECT DELETE",
		Columns: `room_alias text DL`,
	},
	{
		Name: "room_aliases", Purge: Keeps, Delete: Deletes,
		Rights:  "SELECT UPDATE DELETE",
		Columns: `room_alias text DSRL, room_id text DSRL, creator text S`,
	},
	{
		Name: "room_ban_redactions", Purge: Keeps, Delete: Deletes,
		Absent:  "before schema 92",
		Rights:  "SELECT DELETE",
		Columns: `room_id text DRL, user_id text R, redacting_event_id text R, redact_end_ordering int R`,
	},
	{
		Name: "room_depth", Purge: Adjusts, Delete: Deletes,
		Rights: "SELECT INSERT UPDATE DELETE", Keys: "room_id",
		Columns: `room_id text PDSL, min_depth int PS`,
	},
	{
		Name: "room_memberships", Purge: Keeps, Delete: Deletes,
		Rights: "SELECT INSERT UPDATE DELETE", Keys: "event_id", References: true,
		Columns: `event_id text SR, user_id text SR, sender text S, room_id text DSRL, membership text S,
			forgotten int SR, display_name text S, avatar_url text S, event_stream_ordering int DS,
			participant bool? S`,
	},
	{
		Name: "room_reports", Purge: Keeps, Delete: Keeps,
		Why:     "it belongs to the moderators",
		Rules:   []Rule{Keep, DeleteByRoom},
		Absent:  "before schema 85",
		Columns: `room_id text -`,
	},
	{
		Name: "room_retention", Purge: Keeps, Delete: Deletes,
		Rights:  "SELECT DELETE",
		Columns: `room_id text DRWL, event_id text RW, min_lifetime int RW, max_lifetime int RW`,
	},
	{
		Name: "room_stats_current", Purge: Keeps, Delete: Deletes,
		Rights: "SELECT INSERT UPDATE DELETE", Keys: "room_id",
		Columns: `room_id text DSRL, current_state_events int SR, joined_members int SR, invited_members int S,
			left_members int S, banned_members int S, local_users_in_room int SR, completed_delta_stream_id int S,
			knocked_members int S`,
	},
	{
		Name: "room_stats_earliest_token", Purge: Keeps, Delete: Deletes,
		Rights:  "SELECT DELETE",
		Columns: `room_id text DL`,
	},
	{
		Name: "room_stats_state", Purge: Keeps, Delete: Deletes,
		Rights: "SELECT INSERT UPDATE DELETE", Keys: "room_id",
		Columns: `room_id text DSRL, name text SRL, canonical_alias text SRL, join_rules text SR,
			history_visibility text SR, encryption text SR, avatar text SR, guest_access text SR,
			is_federatable bool SR, topic text SR, room_type text SR`,
	},
	{
		Name: "room_tags", Purge: Keeps, Delete: Deletes,
		Rights:  "SELECT DELETE",
		Columns: `room_id text DL`,
	},
	{
		Name: "room_tags_revisions", Purge: Keeps, Delete: Keeps,
		Why:     "it has no content",
		Columns: `room_id text -`,
	},
	{
		Name: "rooms", Purge: Keeps, Delete: Deletes,
		// The api only locks rows, for which the right to update one column is enough.
		Rights: "SELECT INSERT UPDATE DELETE", API: "UPDATE(is_public)", Keys: "room_id",
		Columns: `room_id text PDSRL, is_public bool SR, creator text SR, room_version text PSR,
			has_auth_chain_index bool S`,
	},
	{
		Name:   "scheduled_tasks",
		Absent: "where Lethe made the tables",
		Rights: "SELECT INSERT", API: "DELETE", Keys: "id",
		Columns: `id text PDRL, action text PDRL, status text PDRL, timestamp int PDRL, resource_id text PDRL, params text PD,
			result text PDR, error text PDR`,
	},
	{
		Name:    "schema_compat_version",
		Absent:  "where Lethe made the tables",
		Rights:  "SELECT",
		Columns: `compat_version int PDL`,
	},
	{
		Name: "sliding_sync_connection_lazy_members", Purge: Keeps, Delete: Keeps,
		Why:     "Synapse deletes it with its connection",
		Columns: `room_id text -`,
	},
	{
		Name: "sliding_sync_connection_room_configs", Purge: Keeps, Delete: Keeps,
		Why:     "Synapse deletes it with its connection",
		Columns: `room_id text -`,
	},
	{
		Name: "sliding_sync_connection_streams", Purge: Keeps, Delete: Keeps,
		Why:     "Synapse deletes it with its connection",
		Columns: `room_id text -`,
	},
	{
		Name: "sliding_sync_joined_rooms", Purge: Adjusts, Delete: Deletes,
		Absent: "before schema 87",
		Rights: "SELECT INSERT UPDATE DELETE", Keys: "room_id", References: true,
		Columns: `room_id text PDSL, event_stream_ordering int PDSL, bump_stamp int S, room_type text S,
			room_name text S, is_encrypted bool S, tombstone_successor_room_id text S`,
	},
	{
		Name: "sliding_sync_joined_rooms_to_recalculate", Purge: Keeps, Delete: Deletes,
		Absent: "before schema 87",
		Rights: "SELECT DELETE", References: true,
		Columns: `room_id text DSL`,
	},
	{
		Name: "sliding_sync_membership_snapshots", Purge: Keeps, Delete: Deletes,
		Absent: "before schema 87",
		Rights: "SELECT INSERT UPDATE DELETE", Keys: "room_id+user_id", References: true,
		Columns: `room_id text DSL, user_id text S, sender text S, membership_event_id text DS, membership text S,
			forgotten int S, event_stream_ordering int DS, event_instance_name text S, has_known_state bool S,
			room_type text S, room_name text S, is_encrypted bool S, tombstone_successor_room_id text S`,
	},
	{
		Name: "state_events", Purge: Keeps, Delete: Deletes,
		Rights: "SELECT INSERT DELETE", Keys: "event_id",
		Columns: `event_id text PDSRL, room_id text S, type text S, state_key text S`,
	},
	{
		Name: "state_group_edges", Purge: Adjusts, Delete: Deletes,
		Rights: "SELECT INSERT DELETE", Keys: "state_group+prev_state_group",
		Columns: `state_group int PDSRL, prev_state_group int PDSRL`,
	},
	{
		Name: "state_groups", Purge: Adjusts, Delete: Deletes,
		Rights: "SELECT INSERT UPDATE DELETE", Keys: "id",
		Columns: `id int PDSRL, room_id text PDSRL, event_id text SR`,
	},
	{
		Name: "state_groups_pending_deletion", Purge: Adjusts, Delete: Deletes,
		Absent: "before schema 89",
		Rights: "SELECT INSERT DELETE", Keys: "state_group",
		Columns: `state_group int PDSL, insertion_ts int PDS`,
	},
	{
		Name: "state_groups_persisting", Purge: Keeps, Delete: Keeps,
		Why:     "Synapse deletes its rows when it has written the event",
		Absent:  "before schema 89",
		Rights:  "SELECT",
		Columns: `state_group int PL`,
	},
	{
		Name: "state_groups_state", Purge: Adjusts, Delete: Deletes,
		Rights:  "SELECT INSERT DELETE",
		Columns: `state_group int PDSRL, room_id text PDS, type text PSRL, state_key text PSRL, event_id text PSR`,
	},
	{
		Name: "sticky_events", Purge: Deletes, Delete: Deletes,
		Absent:  "before schema 93",
		Rights:  "SELECT DELETE",
		Columns: `event_id text -, room_id text PDL, event_stream_ordering int PL`,
	},
	{
		Name: "stream_ordering_to_exterm", Purge: Deletes, Delete: Deletes,
		Rights:  "SELECT INSERT DELETE",
		Columns: `stream_ordering int S, room_id text PDSRL, event_id text PSL`,
	},
	{
		Name:    "stream_positions",
		Absent:  "where Lethe made the tables",
		Rights:  "SELECT UPDATE",
		Columns: `stream_name text S, instance_name text S, stream_id int S`,
	},
	{
		Name: "thread_subscriptions", Purge: Keeps, Delete: Deletes,
		Absent: "before schema 92",
		Rights: "SELECT DELETE", Cascade: "event_id", References: true,
		Columns: `room_id text DL, event_id text PDL, unsubscribed_at_stream_ordering int -`,
	},
	{
		Name: "threads", Purge: Adjusts, Delete: Deletes,
		Rights: "SELECT UPDATE DELETE",
		Columns: `room_id text PDRL, thread_id text PRL, latest_event_id text PRL, topological_ordering int P,
			stream_ordering int P`,
	},
	{
		Name: "timeline_gaps", Purge: Keeps, Delete: Deletes,
		Absent:  "before schema 82",
		Rights:  "SELECT DELETE",
		Columns: `room_id text DL, stream_ordering int -`,
	},
	{
		Name: "un_partial_stated_event_stream", Purge: Keeps, Delete: Keeps,
		Why:     "it is deleted with the event by a foreign key, or stays as part of a stream",
		Absent:  "where Lethe made the tables",
		Cascade: "event_id", References: true,
		Columns: `event_id text PDL`,
	},
	{
		Name: "un_partial_stated_room_stream", Purge: Keeps, Delete: Deletes,
		Rights: "SELECT DELETE", References: true,
		Columns: `room_id text DL`,
	},
	{
		Name: "user_directory", Purge: Keeps, Delete: Keeps,
		Why:     "the user outlives the room; Synapse replaces the room id",
		Columns: `room_id text -`,
	},
	{
		Name:    "user_external_ids",
		Absent:  "where Lethe made the tables",
		Rights:  "SELECT",
		Columns: `auth_provider text R, external_id text R, user_id text R`,
	},
	{
		Name:   "user_ips",
		Absent: "where Lethe made the tables",
		Rights: "SELECT", ByColumn: true,
		Columns: `user_id text R, last_seen int R`,
	},
	{
		Name:   "user_stats_current",
		Absent: "where Lethe made the tables",
		Rights: "SELECT INSERT UPDATE", Keys: "user_id",
		Columns: `user_id text S, joined_rooms int S, completed_delta_stream_id int S`,
	},
	{
		Name:    "user_threepids",
		Absent:  "where Lethe made the tables",
		Rights:  "SELECT",
		Columns: `user_id text R, medium text R, address text R, validated_at int R, added_at int R`,
	},
	{
		Name:   "users",
		Rights: "SELECT", ByColumn: true, Keys: "name",
		Columns: `name text RAW, admin int RA, is_guest int RA, deactivated int RA, locked bool RA, user_type text R,
			shadow_banned bool R, creation_ts int R, approved bool R, suspended bool? R, appservice_id text R,
			consent_version text R, consent_server_notice_sent text R, consent_ts int R`,
	},
	{
		Name: "users_in_public_rooms", Purge: Keeps, Delete: Deletes,
		Rights:  "SELECT DELETE",
		Columns: `room_id text DL`,
	},
	{
		Name: "users_who_share_private_rooms", Purge: Keeps, Delete: Deletes,
		Rights:  "SELECT DELETE",
		Columns: `room_id text DL`,
	},
	{
		Name:    "worker_locks",
		Absent:  "where Lethe made the tables",
		Rights:  "SELECT",
		Columns: `instance_name text PD, last_renewed_ts int PD`,
	},
	{
		Name:   "worker_read_write_locks",
		Absent: "where Lethe made the tables, and before schema 80",
		Rights: "SELECT INSERT UPDATE DELETE", References: true,
		Columns: `lock_name text PD, lock_key text PD, instance_name text PD, write_lock bool PD, token text PD,
			last_renewed_ts int PD`,
	},
	{
		// Triggers write it, with the rights of the role that writes the locks.
		Name:   "worker_read_write_locks_mode",
		Absent: "where Lethe made the tables, and before schema 80",
		Rights: "SELECT INSERT UPDATE DELETE", References: true,
		Columns: `lock_name text PD, lock_key text PD, write_lock bool PD, token text PD`,
	},
}
