package bench

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"lethe/internal/tasks"
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
// would write it: set-based, in one transaction. Without triggers, PostgreSQL checks no
// references and does not cascade: this is the floor, the cost of the deletes alone.
func (d database) deletePlainly(ctx context.Context, room string, triggers bool) error {
	err := d.rig.query(ctx, d.name, func(conn *pgx.Conn) error {
		return pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
			var existing []string
			if err := tx.QueryRow(ctx, `
				SELECT array_agg(name) FROM unnest($1::text[]) AS name WHERE to_regclass(name) IS NOT NULL`,
				slices.Concat(plainByEvent, plainByRoom, []string{"event_txn_id_device_id"})).Scan(&existing); err != nil {
				return err
			}
			statements := []string{
				`CREATE TEMPORARY TABLE gone ON COMMIT DROP AS SELECT event_id FROM events WHERE room_id = $1`,
				`ANALYZE gone`,
				`DELETE FROM event_auth_chain_links l USING event_auth_chains c JOIN gone USING (event_id)
				WHERE l.origin_chain_id = c.chain_id AND l.origin_sequence_number = c.sequence_number`,
			}
			tables := plainByEvent
			if !triggers {
				statements = append([]string{`SET LOCAL session_replication_role = replica`}, statements...)
				tables = append(slices.Clone(tables), "event_txn_id_device_id")
			}
			for _, table := range tables {
				if slices.Contains(existing, table) {
					statements = append(statements, `DELETE FROM `+table+` t USING gone g WHERE t.event_id = g.event_id`)
				}
			}
			for _, table := range plainByRoom {
				if slices.Contains(existing, table) {
					statements = append(statements, `DELETE FROM `+table+` WHERE room_id = $1`)
				}
			}
			for _, table := range []string{"state_group_edges", "state_groups_state"} {
				statements = append(statements, `
					DELETE FROM `+table+` t USING state_groups g WHERE g.room_id = $1 AND t.state_group = g.id`)
			}
			statements = append(statements, `DELETE FROM state_groups WHERE room_id = $1`)
			for _, sql := range statements {
				var args []any
				if strings.Contains(sql, "$1") {
					args = []any{room}
				}
				// CREATE TABLE AS takes no parameters: this mode writes the arguments into
				// the text.
				if _, err := tx.Exec(ctx, sql, append([]any{pgx.QueryExecModeExec}, args...)...); err != nil {
					return fmt.Errorf("%w\n%s", err, sql)
				}
			}
			return nil
		})
	})
	if err != nil {
		return fmt.Errorf("delete by plain SQL: %w", err)
	}
	return nil
}

// measureRooms removes the users of a large room and deletes it, and compares that
// with the same deletes as plain SQL. It also deletes many small rooms, with one worker
// and with two.
func measureRooms(ctx context.Context, r *rig) ([]Row, error) {
	large, err := r.template(ctx, "purge", r.options.Events)
	if err != nil {
		return nil, err
	}
	sizes := make([]int, r.options.Rooms)
	for i := range sizes {
		sizes[i] = smallRoom
	}
	small, err := r.template(ctx, "rooms", sizes...)
	if err != nil {
		return nil, err
	}
	var plain, floor, byJob []float64
	done := map[int][]float64{}
	for run := range r.options.Runs {
		for _, triggers := range []bool{true, false} {
			r.say("rooms, run %d: plain SQL, with triggers: %v", run+1, triggers)
			if err := r.onCopy(ctx, large, func(d database) error {
				started := time.Now()
				err := d.deletePlainly(ctx, large.rooms[0].id, triggers)
				if took := time.Since(started).Seconds(); triggers {
					plain = append(plain, took)
				} else {
					floor = append(floor, took)
				}
				return err
			}); err != nil {
				return nil, err
			}
		}
		r.say("rooms, run %d: a job", run+1)
		if err := r.onCopy(ctx, large, func(d database) error {
			seconds, err := d.deleteByJob(ctx, large.rooms[0])
			byJob = append(byJob, seconds)
			return err
		}); err != nil {
			return nil, err
		}
		for _, workers := range []int{1, 2} {
			r.say("rooms, run %d: %d workers", run+1, workers)
			if err := r.onCopy(ctx, small, func(d database) error {
				rate, err := d.deleteAll(ctx, small.rooms, workers)
				done[workers] = append(done[workers], rate)
				return err
			}); err != nil {
				return nil, err
			}
		}
	}
	return []Row{
		compare("rooms", "delete of a room, s", sample("Lethe", byJob), sample("plain SQL", plain), "≤ 0.13"),
		compare("rooms", "delete of a room, s", sample("Lethe", byJob), sample("floor", floor), "≤ 1.5"),
		compare("rooms", "deleted per second", sample("2 workers", done[2]), sample("1 worker", done[1]), ""),
	}, nil
}

// submitDelete accepts a room's delete.
func (s submitter) submitDelete(ctx context.Context, r room) error {
	_, err := s.client.SubmitDeleteRoom(ctx, tasks.DeleteRoom{Room: r.id, Requester: "@bench:" + serverName, Purge: true})
	return err
}

// deleteByJob deletes a room with a job. It returns the seconds from the acceptance of
// the job to its end; a worker runs before that. It fails if something of the room is
// left.
func (d database) deleteByJob(ctx context.Context, r room) (seconds float64, err error) {
	err = d.atWork(ctx, d.url(), 1, func(ctx context.Context, _ []*os.Process) error {
		s, err := d.submitter(ctx)
		if err != nil {
			return err
		}
		defer s.close()
		if err := s.submitDelete(ctx, r); err != nil {
			return err
		}
		return d.awaitJobs(ctx, nil)
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

// deleteAll deletes the rooms. It returns how many rooms the workers deleted per
// second.
func (d database) deleteAll(ctx context.Context, rooms []room, workers int) (float64, error) {
	s, err := d.submitter(ctx)
	if err != nil {
		return 0, err
	}
	defer s.close()
	if _, err := perSecond(len(rooms), func(i int) error { return s.submitDelete(ctx, rooms[i]) }); err != nil {
		return 0, err
	}
	return d.workAll(ctx, workers)
}
