package bench

import (
	"context"
	"fmt"
	"os"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"lethe/internal/bench/plainsql"
)

// smallRoom is the number of events of each small room.
const smallRoom = 20

// deletePlainly deletes everything of a room with plain SQL, as an expert in the schema
// would write it: set-based, in one transaction. See [database.execPlainly].
func (d database) deletePlainly(ctx context.Context, room string, triggers bool) error {
	var statements []string
	if err := d.rig.query(ctx, d.name, func(conn *pgx.Conn) (err error) {
		statements, err = plainsql.Delete(ctx, conn, triggers)
		return err
	}); err != nil {
		return err
	}
	return d.execPlainly(ctx, triggers, statements, room)
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
