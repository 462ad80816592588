package bench

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"

	"lethe/internal/bench/plainsql"
	"lethe/internal/tasks"
)

const (
	// sweepLifetime is the lifetime of events, in days.
	sweepLifetime = 30

	// sweepAge is the age of the expired events, in days.
	sweepAge = 60

	// sweptDepth is the depth below which the events of a swept room have expired.
	sweptDepth = 5

	// sweepRunning is the limit of purges that run at once. It is so high that it does
	// not affect the result.
	sweepRunning = 8
)

// sweptRooms are statements that create $2 rooms on the server $1, of five events: m.room.create, one
// m.room.member and three messages. In every tenth room all events but the last have
// expired. A purge of such a room deletes one message, and makes the two state events
// outliers.
var sweptRooms = []string{
	plainsql.WithoutTriggers, // the rooms are complete, so their references need no checks

	// A worker looks whether the server has users.
	`INSERT INTO users (name, creation_ts) SELECT '@user:' || $1, 0 ON CONFLICT DO NOTHING`,

	// The oldest events come first in the stream, as in a real server.
	`CREATE TEMPORARY TABLE made ON COMMIT DROP AS
		SELECT '!swept' || room || ':' || $1 AS room_id, '$' || room || '.' || depth AS event_id, depth,
		       CASE WHEN depth > 1 THEN '$' || room || '.' || depth - 1 END AS prev_event_id,
		       CASE depth WHEN 1 THEN 'm.room.create' WHEN 2 THEN 'm.room.member' ELSE 'm.room.message' END AS type,
		       CASE depth WHEN 1 THEN '' WHEN 2 THEN '@user:' || $1 END AS state_key,
		       room, row_number() OVER (ORDER BY NOT (room % 10 = 0 AND depth < 5), room, depth) AS place,
		       (extract(epoch FROM now()) * 1000)::bigint - CASE WHEN room % 10 = 0 AND depth < 5 THEN $3::bigint ELSE 0 END AS received_ts
		FROM generate_series(1, $2::bigint) AS room, generate_series(1, 5) AS depth`,
	`ANALYZE made`,
	`INSERT INTO rooms (room_id, is_public, creator, room_version)
		SELECT room_id, false, '@user:' || $1, '10' FROM made WHERE depth = 1`,
	`INSERT INTO events (topological_ordering, event_id, type, room_id, processed, outlier, depth, origin_server_ts, received_ts,
		                    sender, contains_url, instance_name, stream_ordering, state_key)
		SELECT depth, event_id, type, room_id, true, false, depth, received_ts, received_ts, '@user:' || $1, false, 'master',
		       coalesce((SELECT max(stream_ordering) FROM events), 0) + place, state_key
		FROM made`,
	`INSERT INTO event_json (event_id, room_id, internal_metadata, json, format_version)
		SELECT event_id, room_id, '{}', json_build_object('type', type, 'room_id', room_id, 'depth', depth,
		       'content', json_build_object('body', repeat('word ', 20)))::text, 3 FROM made`,
	`INSERT INTO event_edges (event_id, prev_event_id, is_state) SELECT event_id, prev_event_id, false FROM made WHERE depth > 1`,
	`INSERT INTO event_forward_extremities (event_id, room_id) SELECT event_id, room_id FROM made WHERE depth = 5`,
	`INSERT INTO state_events (event_id, room_id, type, state_key)
		SELECT event_id, room_id, type, state_key FROM made WHERE state_key IS NOT NULL`,
	`INSERT INTO current_state_events (event_id, room_id, type, state_key, membership)
		SELECT event_id, room_id, type, state_key, CASE WHEN depth = 2 THEN 'join' END FROM made WHERE state_key IS NOT NULL`,
	`INSERT INTO state_groups (id, room_id, event_id)
		SELECT coalesce((SELECT max(id) FROM state_groups), 0) + room, room_id, event_id FROM made WHERE depth = 1`,
	`INSERT INTO event_to_state_groups (event_id, state_group)
		SELECT made.event_id, g.id FROM made JOIN state_groups g ON g.room_id = made.room_id`,
	`INSERT INTO room_depth (room_id, min_depth) SELECT room_id, 1 FROM made WHERE depth = 1`,

	// The list of rooms has only rooms with these.
	`INSERT INTO room_stats_state (room_id, name, join_rules, history_visibility, is_federatable)
		SELECT room_id, 'Room ' || room, 'public', 'shared', true FROM made WHERE depth = 1`,
	`INSERT INTO room_stats_current (room_id, current_state_events, joined_members, invited_members, left_members, banned_members,
		                                local_users_in_room, completed_delta_stream_id, knocked_members)
		SELECT room_id, 2, 1, 0, 0, 0, 1, 0, 0 FROM made WHERE depth = 1`,
}

// measureSweep runs a retention sweep over many rooms. It measures:
//
//   - how many rooms per second the sweep decides about, compared with one statement
//     that reads all events;
//   - how many purges per second it enqueues, compared with asynq alone;
//   - how many of these purges one worker and two workers complete, compared with the same
//     deletes as plain SQL without foreign keys, in a transaction for each room;
//   - how many purges are open at once, compared with the limit;
//   - the memory of the worker and of the scheduler.
func measureSweep(ctx context.Context, r *rig) ([]Row, error) {
	t, rooms, due, err := r.sweptTemplate(ctx)
	if err != nil {
		return nil, err
	}
	bound := min(1000, due/2)
	m := measurements{}
	const (
		decided, enqueued, done = "rooms decided per second", "purges enqueued per second", "purges done per second"
		open, memory, peaks     = "most purges open", "worker's peak, MB", "peak, MB"
	)
	size := fmt.Sprintf("%d rooms", rooms)
	maxOpen := 0
	working := func(name string, workers int) turn {
		return turn{name, t, func(d database) error {
			s, err := d.sweep(ctx, workers, bound, due)
			maxOpen = max(maxOpen, s.maxOpen)
			m.add(done, name, s.rate)
			m.add(peaks, "scheduler", s.scheduler)
			if workers == 1 {
				m.add(memory, "idle", s.idle)
				m.add(memory, size, s.peak)
				m.add(peaks, "worker", s.peak)
			}
			return err
		}}
	}
	err = r.byTurns(ctx, "sweep", turn{"alone", t, func(d database) error {
		seconds, err := d.lookPlainly(ctx, due)
		if err != nil {
			return err
		}
		rate, err := r.enqueueBare(ctx)
		if err != nil {
			return err
		}
		s, err := d.sweep(ctx, 1, min(4*due, 100_000), 0) // the limit is so high that the sweep never waits
		m.add(decided, "Lethe", float64(rooms)/s.seconds)
		m.add(decided, "plain SQL", float64(rooms)/seconds)
		m.add(enqueued, "Lethe", float64(due)/s.seconds)
		m.add(enqueued, "asynq alone", rate)
		return err
	}}, turn{"floor", t, func(d database) error {
		rate, err := d.purgeSweptPlainly(ctx, min(due, 1000))
		m.add(done, "floor", rate)
		return err
	}}, working("1 worker", 1), working("2 workers", 2))
	m.add(open, "Lethe", float64(maxOpen))
	m.add(open, "bound", float64(bound))
	return []Row{
		m.compare(decided, "Lethe", "plain SQL", ""),
		m.compare(enqueued, "Lethe", "asynq alone", ""),
		m.compare(done, "1 worker", "floor", "≥ 1"),
		m.compare(done, "2 workers", "1 worker", ""),
		m.compare(open, "Lethe", "bound", "≤ 1"),
		m.compare(memory, size, "idle", "below 64 MB"),
		m.compare(peaks, "scheduler", "worker", "below 64 MB"),
	}, err
}

// sweptTemplate returns a database with rooms for a sweep, their number, and how many of
// them have expired events.
func (r *rig) sweptTemplate(ctx context.Context) (t template, rooms, due int, err error) {
	rooms = max(r.options.SweepRooms, 100)
	t, err = r.sweptTemplateOf(ctx, "sweep", rooms)
	return t, rooms, rooms / 10, err
}

func (r *rig) sweptTemplateOf(ctx context.Context, label string, rooms int) (template, error) {
	return r.templateOf(ctx, label, func(ctx context.Context, tx pgx.Tx) ([]room, error) {
		r.say("creating %d rooms for %s", rooms, label)
		age := sweepAge * 24 * time.Hour
		return nil, execAll(ctx, tx, sweptRooms, serverName, rooms, age.Milliseconds())
	})
}

// lookPlainly finds the rooms that have expired events with one statement. It returns
// the seconds that this took. It fails if there are not as many rooms as are due.
func (d database) lookPlainly(ctx context.Context, due int) (float64, error) {
	var found int
	started := time.Now()
	err := d.rig.query(ctx, d.name, func(conn *pgx.Conn) error {
		return conn.QueryRow(ctx, `
			SELECT count(*) FROM (
				SELECT room_id FROM events JOIN (SELECT DISTINCT room_id FROM current_state_events) r USING (room_id)
				WHERE NOT outlier AND room_id LIKE '!swept%' AND received_ts < extract(epoch FROM now()) * 1000 - $1::bigint
				GROUP BY room_id HAVING count(*) > 1) rooms`,
			(sweepLifetime * 24 * time.Hour).Milliseconds()).Scan(&found)
	})
	took := time.Since(started).Seconds()
	if err == nil && found != due {
		err = fmt.Errorf("%d rooms have something to purge, not %d", found, due)
	}
	return took, err
}

// purgeSweptPlainly purges so many of the rooms that are due with plain SQL: see
// [database.execPlainly]. It returns how many it purges per second.
func (d database) purgeSweptPlainly(ctx context.Context, rooms int) (rate float64, err error) {
	err = d.rig.query(ctx, d.name, func(conn *pgx.Conn) error {
		cascading, err := plainsql.Cascades(ctx, conn)
		if err != nil {
			return err
		}
		statements := slices.Concat([]string{plainsql.WithoutTriggers}, plainsql.Purge, cascading)
		started := time.Now()
		for i := range rooms {
			room := fmt.Sprintf("!swept%d:%s", 10*(i+1), serverName)
			if err := pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error { return execAll(ctx, tx, statements, room, sweptDepth) }); err != nil {
				return err
			}
		}
		rate = float64(rooms) / time.Since(started).Seconds()
		return nil
	})
	return rate, err
}

// A sweepRun is the result of one sweep.
type sweepRun struct {
	seconds    float64 // from the start of the sweep to its end
	rate       float64 // of purges per second
	maxOpen    int     // the largest number of purges that were open at once
	idle, peak float64 // memory of the first worker, in MB
	scheduler  float64 // peak memory of the scheduler, in MB
}

// sweep runs a sweep of the rooms with this many workers. The bound is the limit of
// open purges. sweep waits for the purges, and fails if there are not as many as are
// due. If due is 0, it does not wait for purges, and only one of them runs at a time.
func (d database) sweep(ctx context.Context, workers, bound, due int) (s sweepRun, err error) {
	running := sweepRunning
	if due == 0 {
		running = 1
	}
	d.environment = append(slices.Clone(d.environment),
		"LETHE_RETENTION_ENABLED=true",
		fmt.Sprintf("LETHE_RETENTION_DEFAULT_POLICY_MAX_LIFETIME=%dd", sweepLifetime),
		"LETHE_RETENTION_PURGE_JOBS=[{name: all, interval: 1d}]",
		"LETHE_RETENTION_MAX_QUEUED="+strconv.Itoa(bound),
		"LETHE_RETENTION_MAX_RUNNING="+strconv.Itoa(running),
	)
	d.beside = []string{d.rig.options.Scheduler} // as in a fleet, it looks at the jobs
	err = d.atWork(ctx, d.url(), workers, func(ctx context.Context, processes []*os.Process) error {
		if s.idle, err = peakMemory(processes[0].Pid); err != nil {
			return err
		}
		var id string
		if err := d.withClient(ctx, func(client *tasks.Client) (err error) {
			id, err = client.SubmitRetentionSweep(ctx, tasks.RetentionSweep{Job: "all", Tick: time.Now()})
			return err
		}); err != nil {
			return err
		}
		if s.maxOpen, err = d.awaitSweep(ctx, id, due > 0); err != nil {
			return err
		}
		if s.peak, err = peakMemory(processes[0].Pid); err != nil {
			return err
		}
		s.scheduler, err = peakMemory(processes[workers].Pid)
		return err
	})
	if err != nil {
		return s, err
	}
	if err := d.rig.query(ctx, d.name, func(conn *pgx.Conn) error {
		return conn.QueryRow(ctx, `
			SELECT extract(epoch FROM ended_at - started_at)::float FROM lethe.jobs WHERE kind = 'retention_sweep'`).Scan(&s.seconds)
	}); err != nil || due == 0 {
		return s, err
	}
	var complete, deleted int
	err = d.rig.query(ctx, d.name, func(conn *pgx.Conn) error {
		return conn.QueryRow(ctx, `
			SELECT count(*), sum((checkpoint ->> 'events_deleted')::bigint),
			       count(*) / extract(epoch FROM max(ended_at) - min(started_at))::float
			FROM lethe.jobs WHERE kind = 'purge_history' AND state = 'complete' AND room_id LIKE '!swept%'`).Scan(&complete, &deleted, &s.rate)
	})
	if err == nil && (complete != due || deleted != due) {
		err = fmt.Errorf("%d purges deleted %d events, and %d of one each were due", complete, deleted, due)
	}
	return s, err
}

// awaitSweep waits until the sweep has ended, and, if purges is true, all purges too.
// It returns the largest number of purges that were open at once.
func (d database) awaitSweep(ctx context.Context, id string, purges bool) (maxOpen int, err error) {
	err = d.rig.query(ctx, d.name, func(conn *pgx.Conn) error {
		return poll(ctx, "the sweep", func() (bool, error) {
			var ended bool
			var failed *string
			var open int
			if err := conn.QueryRow(ctx, `
				SELECT ended_at IS NOT NULL, error, (
					SELECT count(*) FROM lethe.jobs WHERE queue = 'low' AND state IN ('queued', 'running'))
				FROM lethe.jobs WHERE id = $1`, id).Scan(&ended, &failed, &open); err != nil {
				return false, fmt.Errorf("look at the sweep: %w", err)
			}
			if failed != nil {
				return false, errors.New("the sweep failed: " + *failed)
			}
			maxOpen = max(maxOpen, open)
			return ended && (!purges || open == 0), nil
		})
	})
	return maxOpen, err
}
