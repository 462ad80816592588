-- The schema of Synapse 1.98, version 83, made from that of 1.160, version 94: without
-- the tables and columns that were added in between.

DROP TABLE
    delayed_events,
    delayed_events_stream_pos,
    device_lists_changes_in_room_max_pruned_stream_id,
    msc4242_state_dag_edges,
    msc4242_state_dag_forward_extremities,
    profile_updates,
    profile_updates_per_user,
    quarantined_media_changes,
    room_ban_redactions,
    room_reports,
    sliding_sync_connection_lazy_members,
    sliding_sync_connection_positions,
    sliding_sync_connection_required_state,
    sliding_sync_connection_room_configs,
    sliding_sync_connection_streams,
    sliding_sync_connections,
    sliding_sync_joined_rooms,
    sliding_sync_joined_rooms_to_recalculate,
    sliding_sync_membership_snapshots,
    state_groups_pending_deletion,
    state_groups_persisting,
    sticky_events,
    thread_subscriptions,
    user_reports;

ALTER TABLE redactions DROP COLUMN recheck;
ALTER TABLE room_memberships DROP COLUMN participant;
ALTER TABLE users DROP COLUMN suspended;

DELETE FROM applied_schema_deltas WHERE version > 83;
UPDATE schema_version SET version = 83;
