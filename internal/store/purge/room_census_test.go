package purge_test

import (
	"context"
	"maps"
	"slices"
	"strings"

	gocmp "github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"
)

// kept are the tables that may know of a room when it is gone.
var kept = []string{
	"blocked_rooms", "current_state_delta_stream", "device_lists_changes_converted_stream_position",
	"device_lists_changes_in_room", "event_reports", "ex_outlier_stream", "room_reports",
	"room_tags_revisions", "sliding_sync_connection_lazy_members", "sliding_sync_connection_room_configs",
	"sliding_sync_connection_streams", "user_directory",
}

// A roomCensus tells the rows of a room from all others, in whatever tables there
// are: by what their columns are called, and not by what we know of them.
type roomCensus struct {
	ctx    context.Context
	conn   *pgx.Conn
	room   string
	tables map[string]string // the condition under which a row t is the room's
}

// newCensus notes what the room has now: rows that later refer to its events, state
// groups, chains or aliases belong to the room too.
func newCensus(t require.TestingT, ctx context.Context, conn *pgx.Conn, room string) *roomCensus {
	// In one go, for what has no arguments may be several statements.
	_, err := conn.Exec(ctx, strings.ReplaceAll(`
		DROP TABLE IF EXISTS pg_temp.census_events, pg_temp.census_groups, pg_temp.census_aliases, pg_temp.census_chains;
		CREATE TEMPORARY TABLE census_events AS
			SELECT event_id FROM events WHERE room_id = $1 UNION SELECT event_id FROM event_json WHERE room_id = $1
			UNION SELECT '$backfilled';
		CREATE TEMPORARY TABLE census_groups AS SELECT id AS state_group FROM state_groups WHERE room_id = $1;
		CREATE TEMPORARY TABLE census_aliases AS SELECT room_alias FROM room_aliases WHERE room_id = $1;
		CREATE TEMPORARY TABLE census_chains AS
			SELECT chain_id FROM event_auth_chains WHERE event_id IN (SELECT event_id FROM census_events)`,
		"$1", "'"+strings.ReplaceAll(room, "'", "''")+"'"))
	require.NoError(t, err)

	rows, err := conn.Query(ctx, `
		SELECT c.relname, array_agg(a.attname::text)
		FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
		WHERE c.relnamespace = 'public'::regnamespace AND c.relkind = 'r' GROUP BY c.oid, c.relname`)
	require.NoError(t, err)
	tables := map[string]string{}
	var table string
	var columns []string
	_, err = pgx.ForEachRow(rows, []any{&table, &columns}, func() error {
		conditions := []string{"false"}
		for column, condition := range map[string]string{
			"room_id":         `t.room_id = $1`,
			"event_id":        `t.event_id IN (SELECT event_id FROM pg_temp.census_events)`,
			"state_group":     `t.state_group IN (SELECT state_group FROM pg_temp.census_groups)`,
			"room_alias":      `t.room_alias IN (SELECT room_alias FROM pg_temp.census_aliases)`,
			"origin_chain_id": `t.origin_chain_id IN (SELECT chain_id FROM pg_temp.census_chains)`,
		} {
			if slices.Contains(columns, column) && !slices.Contains(kept, table) {
				conditions = append(conditions, condition)
			}
		}
		tables[table] = `coalesce(` + strings.Join(conditions, " OR ") + `, false)`
		return nil
	})
	require.NoError(t, err)
	require.Greater(t, len(tables), 60)
	return &roomCensus{ctx, conn, room, tables}
}

// left counts the rows of the room, by table.
func (c *roomCensus) left(t require.TestingT) map[string]int {
	left := tally[int](t, c, `SELECT '$table', (SELECT count(*) FROM $table t WHERE $room)`)
	maps.DeleteFunc(left, func(_ string, n int) bool { return n == 0 })
	return left
}

// unchanged fails the test unless everybody else's rows are what others said.
func (c *roomCensus) unchanged(t require.TestingT, others map[string]string) {
	require.Empty(t, gocmp.Diff(others, c.others(t)))
}

// others digests the rows of everybody else, by table.
func (c *roomCensus) others(t require.TestingT) map[string]string {
	return tally[string](t, c, `
		SELECT '$table', (
			SELECT coalesce(md5(string_agg(to_jsonb(t)::text, ' ' ORDER BY to_jsonb(t)::text)), 'none')
			FROM $table t WHERE NOT $room)`)
}

func tally[T any](t require.TestingT, c *roomCensus, question string) map[string]T {
	var questions []string
	for table, condition := range c.tables {
		questions = append(questions, strings.NewReplacer("$table", table, "$room", condition).Replace(question))
	}
	rows, err := c.conn.Query(c.ctx, strings.Join(questions, " UNION ALL "), c.room)
	require.NoError(t, err)
	values := map[string]T{}
	var table string
	var value T
	_, err = pgx.ForEachRow(rows, []any{&table, &value}, func() error {
		values[table] = value
		return nil
	})
	require.NoError(t, err)
	return values
}

// furniture is a row of a room in each table that may have some: its columns, and
// their values for a room e.room with an event e.id at e.stream.
var furniture = []struct{ table, columns, values string }{
	{"appservice_room_list", "appservice_id, network_id, room_id", "'as', 'net', e.room"},
	{"blocked_rooms", "room_id, user_id", "e.room, '@admin:x'"},
	{"current_state_delta_stream", "stream_id, room_id, type, state_key, event_id", "7, e.room, 't', '', e.id"},
	{"current_state_events", "event_id, room_id, type, state_key, event_stream_ordering", "e.id, e.room, 'furniture', '', e.stream"},
	{"delayed_events", "delay_id, user_localpart, delay, send_ts, room_id, event_type, content", "e.room, 'u', 1, 1, e.room, 't', '{}'"},
	{"destination_rooms", "destination, room_id, stream_ordering", "'far', e.room, 1"},
	{"e2e_room_keys", "user_id, room_id, session_id, version, session_data", "'@u:x', e.room, 's', 1, ''"},
	{"event_auth", "event_id, auth_id, room_id", "e.id, e.id, e.room"},
	{"event_auth_chains", "event_id, chain_id, sequence_number", "e.id, 1000 + hashtext(e.room), 1"},
	{"event_auth_chain_links", "origin_chain_id, origin_sequence_number, target_chain_id, target_sequence_number", "1000 + hashtext(e.room), 1, 1, 1"},
	{"event_auth_chain_to_calculate", "event_id, room_id, type, state_key", "e.id, e.room, 't', ''"},
	{"event_backward_extremities", "event_id, room_id", "'$gone', e.room"},
	{"event_edges", "event_id, prev_event_id, is_state", "e.id, '$gone', false"},
	{"event_expiry", "event_id, expiry_ts", "e.id, 1"},
	{"event_failed_pull_attempts", "room_id, event_id, num_attempts, last_attempt_ts, last_cause", "e.room, '$gone', 1, 1, ''"},
	{"event_forward_extremities", "event_id, room_id", "e.id, e.room"},
	{"event_json", "event_id, room_id, internal_metadata, json", "e.id, e.room, '{}', '{}'"},
	{"event_labels", "event_id, label, room_id, topological_ordering", "e.id, 'l', e.room, 1"},
	{"event_push_actions", "room_id, event_id, user_id, profile_tag, actions, thread_id", "e.room, e.id, '@u:x', '', '', 'main'"},
	{"event_push_actions_staging", "event_id, user_id, actions, notif, highlight, thread_id", "e.id, '@u:x', '', 1, 0, 'main'"},
	{"event_push_summary", "user_id, room_id, notif_count, stream_ordering, thread_id", "'@u:x', e.room, 1, 1, 'main'"},
	{"event_relations", "event_id, relates_to_id, relation_type", "e.id, e.id, 't'"},
	{"event_search", "event_id, room_id", "e.id, e.room"},
	{"event_to_state_groups", "event_id, state_group", "e.id, 1000000 + hashtext(e.room)"},
	{"federation_inbound_events_staging", "origin, room_id, event_id, received_ts, event_json, internal_metadata", "'far', e.room, 'waits ' || e.room, 1, '{}', '{}'"},
	{"local_current_membership", "room_id, user_id, event_id, membership, event_stream_ordering", "e.room, '@furniture:x', e.id, 'leave', e.stream"},
	{"msc4242_state_dag_edges", "room_id, event_id, prev_state_event_id", "e.room, e.id, e.id"},
	{"msc4242_state_dag_forward_extremities", "room_id, event_id", "e.room, e.id"},
	{"partial_state_rooms", "room_id, join_event_id", "e.room, e.id"},
	{"partial_state_rooms_servers", "room_id, server_name", "e.room, 'far'"},
	{"partial_state_events", "room_id, event_id", "e.room, e.id"},
	{"pusher_throttle", "pusher, room_id", "1, e.room"},
	{"receipts_graph", "room_id, receipt_type, user_id, event_ids, data", "e.room, 'm.read', '@furniture:x', '', '{}'"},
	{"receipts_linearized", "stream_id, room_id, receipt_type, user_id, event_id, data", "1, e.room, 'm.read', '@furniture:x', e.id, '{}'"},
	{"redactions", "event_id, redacts", "e.id, e.id"},
	{"rejections", "event_id, reason, last_check", "e.id, '', ''"},
	{"room_account_data", "user_id, room_id, account_data_type, stream_id, content", "'@u:x', e.room, 't', 1, '{}'"},
	{"room_aliases", "room_alias, room_id, creator", "'#furniture' || e.room, e.room, '@u:x'"},
	{"room_alias_servers", "room_alias, server", "'#furniture' || e.room, 'far'"},
	{"room_ban_redactions", "room_id, user_id, redacting_event_id", "e.room, '@u:x', e.id"},
	{"room_depth", "room_id, min_depth", "e.room, 1"},
	{"room_memberships", "event_id, user_id, sender, room_id, membership, event_stream_ordering", "e.id, '@u:x', '@u:x', e.room, 'join', e.stream"},
	{"room_retention", "room_id, event_id", "e.room, e.id"},
	{"room_stats_current", "room_id, current_state_events, joined_members, invited_members, left_members, banned_members, local_users_in_room, completed_delta_stream_id", "e.room, 1, 1, 1, 1, 1, 1, 1"},
	{"room_stats_earliest_token", "room_id, token", "e.room, 1"},
	{"room_stats_state", "room_id, name", "e.room, 'n'"},
	{"room_tags", "user_id, room_id, tag, content", "'@u:x', e.room, 't', '{}'"},
	{"sliding_sync_joined_rooms", "room_id, event_stream_ordering", "e.room, e.stream"},
	{"sliding_sync_joined_rooms_to_recalculate", "room_id", "e.room"},
	{"sliding_sync_membership_snapshots", "room_id, user_id, sender, membership_event_id, membership, event_stream_ordering, event_instance_name", "e.room, '@furniture:x', '@u:x', e.id, 'leave', e.stream, 'm'"},
	{"state_events", "event_id, room_id, type, state_key", "e.id, e.room, 't', ''"},
	{"state_groups", "id, room_id, event_id", "1000000 + hashtext(e.room), e.room, e.id"},
	{"state_group_edges", "state_group, prev_state_group", "1000000 + hashtext(e.room), 999"},
	{"state_groups_pending_deletion", "state_group, insertion_ts", "1000000 + hashtext(e.room), 1"},
	{"state_groups_state", "state_group, room_id, type, state_key, event_id", "1000000 + hashtext(e.room), e.room, 't', '', e.id"},
	{"sticky_events", "stream_id, instance_name, event_id, room_id, event_stream_ordering, sender, expires_at", "abs(hashtext(e.room)), 'm', e.id, e.room, e.stream, '@u:x', 1"},
	{"stream_ordering_to_exterm", "stream_ordering, room_id, event_id", "e.stream, e.room, e.id"},
	{"thread_subscriptions", "stream_id, instance_name, room_id, event_id, user_id, subscribed, automatic", "abs(hashtext(e.room)), 'm', e.room, e.id, (SELECT min(name) FROM users), true, true"},
	{"threads", "room_id, thread_id, latest_event_id, topological_ordering, stream_ordering", "e.room, e.id, e.id, 1, 1"},
	{"timeline_gaps", "room_id, instance_name, stream_ordering", "e.room, 'm', 1"},
	{"un_partial_stated_event_stream", "stream_id, instance_name, event_id, rejection_status_changed", "abs(hashtext(e.room)), 'm', e.id, false"},
	{"un_partial_stated_room_stream", "stream_id, instance_name, room_id", "abs(hashtext(e.room)), 'm', e.room"},
	{"user_directory", "user_id, room_id", "'@furniture:x', e.room"},
	{"users_in_public_rooms", "user_id, room_id", "'@u:x', e.room"},
	{"users_who_share_private_rooms", "user_id, other_user_id, room_id", "'@u:x', '@v:x', e.room"},
}

// furnish puts a row of each table into the room.
func furnish(t require.TestingT, ctx context.Context, conn *pgx.Conn, room string) {
	put(t, ctx, conn, room, aRoom, func(string) bool { return true })
}

// arrive puts a row of each table that is not kept into the room: all of them while
// it has an event, and then those that any user may write who knows its id. And an
// event that comes before all others in the stream, as a backfilled one does.
func arrive(t require.TestingT, ctx context.Context, conn *pgx.Conn, room string) {
	var pipeline pgx.Batch
	pipeline.Queue(`INSERT INTO events (event_id, room_id, type, topological_ordering, stream_ordering, processed, outlier)
		VALUES ('$backfilled', $1, 't', 1, -9000000, true, false) ON CONFLICT DO NOTHING`, room)
	pipeline.Queue(`INSERT INTO event_edges (event_id, prev_event_id) VALUES ('$backfilled', '$gone') ON CONFLICT DO NOTHING`)
	pipeline.Queue(`INSERT INTO event_json (event_id, room_id, internal_metadata, json) VALUES ('$backfilled', $1, '{}', '{}') ON CONFLICT DO NOTHING`, room)
	require.NoError(t, conn.SendBatch(ctx, &pipeline).Close())
	put(t, ctx, conn, room, aRoom, func(table string) bool { return !slices.Contains(kept, table) })
	put(t, ctx, conn, room, `SELECT $1::text AS room, '$late' AS id`, func(table string) bool {
		return slices.Contains([]string{
			"e2e_room_keys", "pusher_throttle", "receipts_graph", "receipts_linearized", "room_account_data", "room_tags",
		}, table)
	})
}

// put puts a row of each of the tables into the room, as the query describes it.
func put(t require.TestingT, ctx context.Context, conn *pgx.Conn, room, described string, into func(table string) bool) {
	present := map[string]bool{}
	rows, err := conn.Query(ctx, `SELECT tablename FROM pg_tables WHERE schemaname = 'public'`)
	require.NoError(t, err)
	names, err := pgx.CollectRows(rows, pgx.RowTo[string])
	require.NoError(t, err)
	for _, name := range names {
		present[name] = true
	}
	var pipeline pgx.Batch
	for _, f := range furniture {
		if present[f.table] && into(f.table) {
			pipeline.Queue(`INSERT INTO `+f.table+` (`+f.columns+`) SELECT `+f.values+` FROM (`+described+`) AS e ON CONFLICT DO NOTHING`, room)
		}
	}
	require.Positive(t, pipeline.Len())
	require.NoError(t, conn.SendBatch(ctx, &pipeline).Close())
}

// aRoom is the room $1 with its oldest event that is in the stream.
const aRoom = `
	SELECT room_id AS room, event_id AS id, stream_ordering AS stream FROM events
	WHERE room_id = $1 AND stream_ordering > 0 ORDER BY stream_ordering LIMIT 1`
