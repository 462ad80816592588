package bench

import (
	"context"
	"fmt"
	"os"
	"time"

	"lethe/internal/store/postgres"
	"lethe/internal/store/purge"

	"github.com/jackc/pgx/v5"
)

// A way is one way to purge a room.
type way struct {
	name  string
	purge func(ctx context.Context, d database, r room) (took time.Duration, err error)
}

var ways = []way{
	{"plain SQL", func(ctx context.Context, d database, r room) (time.Duration, error) {
		return d.purgePlainly(ctx, r, true)
	}},
	{"floor", func(ctx context.Context, d database, r room) (time.Duration, error) {
		return d.purgePlainly(ctx, r, false)
	}},
	{"set-wise", func(ctx context.Context, d database, r room) (time.Duration, error) {
		return d.purgeByJob(ctx, d.url(), true, r)
	}},
	{"row-wise", func(ctx context.Context, d database, r room) (time.Duration, error) {
		return d.purgeByJob(ctx, d.plainURL(), false, r)
	}},
}

// measurePurge purges nine tenths of a room in every way. It measures how long that
// takes, and how much write-ahead log there is for each deleted event.
func measurePurge(ctx context.Context, r *rig) ([]Row, error) {
	t, err := r.template(ctx, "purge", r.options.Events)
	if err != nil {
		return nil, err
	}
	m := measurements{}
	const seconds, wal = "time, s", "WAL per event, bytes"
	var left int64
	var turns []turn
	for _, w := range ways {
		turns = append(turns, turn{w.name, t, func(d database) error {
			before, err := d.survey(ctx, t.rooms[0].id)
			if err != nil {
				return err
			}
			took, err := w.purge(ctx, d, t.rooms[0])
			if err != nil {
				return err
			}
			after, err := d.survey(ctx, t.rooms[0].id)
			if err != nil {
				return err
			}
			if left == 0 {
				left = after.events
			}
			if after.events != left || left >= before.events {
				return fmt.Errorf("%d of %d events are left, but the first way left %d", after.events, before.events, left)
			}
			m.add(seconds, w.name, took.Seconds())
			m.add(wal, w.name, float64(after.wal-before.wal)/float64(before.events-left))
			return nil
		}})
	}
	err = r.byTurns(ctx, "purge", turns...)
	return []Row{
		m.compare(seconds, "set-wise", "plain SQL", "≤ 0.13"),
		m.compare(seconds, "set-wise", "floor", "≤ 1.5"),
		m.compare(seconds, "row-wise", "plain SQL", "≤ 1.2"),
		m.compare(wal, "set-wise", "plain SQL", "≤ 0.6"),
		m.compare(wal, "row-wise", "plain SQL", "≤ 1"),
	}, err
}

// purgeByJob purges a room with a worker, as the role of the URL. It fails if the worker
// does not check references in the way that is measured.
func (d database) purgeByJob(ctx context.Context, url string, setWise bool, r room) (time.Duration, error) {
	db, err := postgres.Open(ctx, url, postgres.Options{})
	if err != nil {
		return 0, err
	}
	catalog, err := purge.New(db, purge.Options{}).HistoryCatalog(ctx)
	db.Close()
	switch {
	case err != nil:
		return 0, err
	case setWise != (catalog.RowWise() == ""):
		return 0, fmt.Errorf("the worker checks references in the other way: %q", catalog.RowWise())
	}
	err = d.atWork(ctx, url, 1, func(ctx context.Context, _ []*os.Process) error {
		return d.runJob(ctx, r, submitPurge, nil)
	})
	if err != nil {
		return 0, err
	}
	var seconds float64
	err = d.rig.query(ctx, d.name, func(conn *pgx.Conn) error {
		return conn.QueryRow(ctx, `SELECT extract(epoch FROM max(ended_at) - min(created_at)) FROM lethe.jobs`).Scan(&seconds)
	})
	return time.Duration(seconds * float64(time.Second)), err
}

// A survey is the state of a database at a moment.
type survey struct {
	events int64 // events of the room
	wal    int64 // bytes of write-ahead log that were ever written
}

func (d database) survey(ctx context.Context, room string) (survey, error) {
	var s survey
	err := d.rig.query(ctx, d.name, func(conn *pgx.Conn) error {
		return conn.QueryRow(ctx, `
			SELECT count(*), pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')::bigint FROM events WHERE room_id = $1`, room).
			Scan(&s.events, &s.wal)
	})
	return s, err
}
