package bench

import (
	"context"
	"fmt"
	"os"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
)

// smallRoom is the number of events of each small room.
const smallRoom = 20

// These are the tables of a room, each before the tables that it references. The
// tables of the first list have no room_id, and are found by the room's events.
var (
	plainByEvent = []string{
		"event_auth", "event_edges", "event_json", "event_push_actions_staging", "event_relations",
		"event_to_state_groups", "event_auth_chains", "event_auth_chain_to_calculate", "redactions", "rejections",
		"state_events", "event_expiry",
	}
	plainByRoom = []string{
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

// deletePlainly deletes everything of a room with plain SQL, as an expert in the schema
// would write it: set-based, in one transaction. See [database.execPlainly].
func (d database) deletePlainly(ctx context.Context, room string, triggers bool) error {
	var existing []string
	if err := d.rig.query(ctx, d.name, func(conn *pgx.Conn) error {
		return conn.QueryRow(ctx, `
			SELECT array_agg(name) FROM unnest($1::text[]) AS name WHERE to_regclass(name) IS NOT NULL`,
			slices.Concat(plainByEvent, plainByRoom, []string{"event_txn_id_device_id"})).Scan(&existing)
	}); err != nil {
		return err
	}
	statements := []string{
		`CREATE TEMPORARY TABLE gone ON COMMIT DROP AS SELECT event_id FROM events WHERE room_id = $1`,
		`ANALYZE gone`,
		`DELETE FROM event_auth_chain_links l USING event_auth_chains c JOIN gone USING (event_id)
		WHERE l.origin_chain_id = c.chain_id AND l.origin_sequence_number = c.sequence_number`,
	}
	byEvent := plainByEvent
	if !triggers {
		byEvent = append(slices.Clone(byEvent), "event_txn_id_device_id")
	}
	for _, tables := range []struct {
		names []string
		where string
	}{{byEvent, " t USING gone g WHERE t.event_id = g.event_id"}, {plainByRoom, " WHERE room_id = $1"}} {
		for _, table := range tables.names {
			if slices.Contains(existing, table) {
				statements = append(statements, `DELETE FROM `+table+tables.where)
			}
		}
	}
	return d.execPlainly(ctx, triggers, append(statements,
		`DELETE FROM state_group_edges t USING state_groups g WHERE g.room_id = $1 AND t.state_group = g.id`,
		`DELETE FROM state_groups_state t USING state_groups g WHERE g.room_id = $1 AND t.state_group = g.id`,
		`DELETE FROM state_groups WHERE room_id = $1`), room)
}

// measureRooms removes the users of a large room and deletes it, and compares that
// with the same deletes as plain SQL. It also deletes many small rooms, with one worker
// and with two.
func measureRooms(ctx context.Context, r *rig) ([]Row, error) {
	large, err := r.template(ctx, "purge", r.options.Events)
	if err != nil {
		return nil, err
	}
	small, err := r.template(ctx, "rooms", slices.Repeat([]int{smallRoom}, r.options.Rooms)...)
	if err != nil {
		return nil, err
	}
	m := measurements{}
	const one, all = "delete of a room, s", "deleted per second"
	plain := func(name string, triggers bool) turn {
		return turn{name, large, func(d database) error {
			started := time.Now()
			err := d.deletePlainly(ctx, large.rooms[0].id, triggers)
			m.add(one, name, time.Since(started).Seconds())
			return err
		}}
	}
	many := func(name string, workers int) turn {
		return turn{name, small, func(d database) error {
			if _, err := d.submitAll(ctx, small.rooms, submitDelete); err != nil {
				return err
			}
			rate, err := d.workAll(ctx, workers)
			m.add(all, name, rate)
			return err
		}}
	}
	err = r.byTurns(ctx, "rooms",
		plain("plain SQL", true), plain("floor", false),
		turn{"Lethe", large, func(d database) error {
			seconds, err := d.deleteByJob(ctx, large.rooms[0])
			m.add(one, "Lethe", seconds)
			return err
		}},
		many("1 worker", 1), many("2 workers", 2))
	return []Row{
		m.compare(one, "Lethe", "plain SQL", "≤ 0.13"),
		m.compare(one, "Lethe", "floor", "≤ 1.5"),
		m.compare(all, "2 workers", "1 worker", ""),
	}, err
}

// deleteByJob deletes a room with a job. It returns the seconds from the acceptance of
// the job to its end; a worker runs before that. It fails if something of the room is
// left.
func (d database) deleteByJob(ctx context.Context, r room) (seconds float64, err error) {
	err = d.atWork(ctx, d.url(), 1, func(ctx context.Context, _ []*os.Process) error {
		return d.runJob(ctx, r, submitDelete, nil)
	})
	if err != nil {
		return 0, err
	}
	var left bool
	err = d.rig.query(ctx, d.name, func(conn *pgx.Conn) error {
		return conn.QueryRow(ctx, `
			SELECT (SELECT extract(epoch FROM max(ended_at) - min(created_at))::float FROM lethe.jobs),
			       EXISTS (SELECT FROM events WHERE room_id = $1) OR EXISTS (SELECT FROM rooms WHERE room_id = $1)`, r.id).
			Scan(&seconds, &left)
	})
	if err == nil && left {
		err = fmt.Errorf("the room %s is still there", r.id)
	}
	return seconds, err
}
