package plainsql

import (
	"context"
	"slices"

	"github.com/jackc/pgx/v5"
)

// These are the tables of a room, each before the tables that it references. The
// tables of the first list have no room_id, and are found by the room's events.
var (
	byEvent = []string{
		"event_auth", "event_edges", "event_json", "event_push_actions_staging", "event_relations",
		"event_to_state_groups", "event_auth_chains", "event_auth_chain_to_calculate", "redactions", "rejections",
		"state_events", "event_expiry",
	}
	byRoom = []string{
		"current_state_events", "destination_rooms", "event_backward_extremities", "event_forward_extremities",
		"event_push_actions", "event_search", "event_failed_pull_attempts", "partial_state_events",
		"partial_state_rooms_servers", "partial_state_rooms", "local_current_membership", "room_memberships",
		"sliding_sync_joined_rooms", "sliding_sync_joined_rooms_to_recalculate", "sliding_sync_membership_snapshots",
		"msc4242_state_dag_forward_extremities", "msc4242_state_dag_edges", "events",
		"federation_inbound_events_staging", "receipts_graph", "receipts_linearized", "room_aliases", "room_depth",
		"room_stats_state", "room_stats_current", "room_stats_earliest_token", "stream_ordering_to_exterm",
		"users_in_public_rooms", "users_who_share_private_rooms", "appservice_room_list", "e2e_room_keys",
		"event_push_summary", "pusher_throttle", "room_account_data", "room_tags", "room_retention", "event_labels",
		"threads", "timeline_gaps", "sticky_events", "rooms",
	}
)

// Delete returns statements that delete everything of room $1 in one transaction, from the
// tables that exist. Without triggers PostgreSQL does not cascade deletes, so there are
// more of them.
func Delete(ctx context.Context, conn *pgx.Conn, triggers bool) ([]string, error) {
	var existing []string
	if err := conn.QueryRow(ctx, `
		SELECT array_agg(name) FROM unnest($1::text[]) AS name WHERE to_regclass(name) IS NOT NULL`,
		slices.Concat(byEvent, byRoom, []string{"event_txn_id_device_id"})).Scan(&existing); err != nil {
		return nil, err
	}
	statements := []string{
		`CREATE TEMPORARY TABLE gone ON COMMIT DROP AS SELECT event_id FROM events WHERE room_id = $1`,
		`ANALYZE gone`,
		`DELETE FROM event_auth_chain_links l USING event_auth_chains c JOIN gone USING (event_id)
		WHERE l.origin_chain_id = c.chain_id AND l.origin_sequence_number = c.sequence_number`,
	}
	byEvent := byEvent
	if !triggers {
		byEvent = append(slices.Clone(byEvent), "event_txn_id_device_id")
	}
	for _, tables := range []struct {
		names []string
		where string
	}{{byEvent, " t USING gone g WHERE t.event_id = g.event_id"}, {byRoom, " WHERE room_id = $1"}} {
		for _, table := range tables.names {
			if slices.Contains(existing, table) {
				statements = append(statements, `DELETE FROM `+table+tables.where)
			}
		}
	}
	return append(statements,
		`DELETE FROM state_group_edges t USING state_groups g WHERE g.room_id = $1 AND t.state_group = g.id`,
		`DELETE FROM state_groups_state t USING state_groups g WHERE g.room_id = $1 AND t.state_group = g.id`,
		`DELETE FROM state_groups WHERE room_id = $1`), nil
}
