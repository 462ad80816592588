package bench

import (
	"context"
	"fmt"
	"os"
	"time"

	"github.com/jackc/pgx/v5"

	"lethe/internal/matrix"
	"lethe/internal/wait"
)

const (
	// edgePages is the number of pages at the edge that are read each time.
	edgePages = 200

	// edgeTime is how long after the end of the purge the first of them is read. Reading
	// earlier would do the work that is to be measured. Before the purge they are read after
	// the same pause.
	edgeTime = 5 * time.Second
)

// edgeWays are the ways to get rid of what a purge leaves: its dead rows and the index
// entries that lead to them. The limits of the settings, which are for larger tables, are
// off.
var edgeWays = []struct {
	name        string
	environment []string
}{
	{"neither", []string{"LETHE_VACUUM_ENABLED=false"}},
	{"VACUUM", []string{"LETHE_VACUUM_ENABLED=true", "LETHE_VACUUM_INDEX_WALK=false", "LETHE_VACUUM_DEAD_SHARE=0", "LETHE_VACUUM_MIN_ROWS=0"}},
	{"index walk", []string{"LETHE_VACUUM_ENABLED=true", "LETHE_VACUUM_MIN_ROWS=1000000000"}},
	{"both", []string{"LETHE_VACUUM_ENABLED=true", "LETHE_VACUUM_DEAD_SHARE=0", "LETHE_VACUUM_MIN_ROWS=0"}},
}

// measureEdge purges nine tenths of a room. It measures how long an admin waits for the
// page that ends where the purge has ended, before the purge and five seconds after its
// end.
func measureEdge(ctx context.Context, r *rig) ([]Row, error) {
	t, err := r.template(ctx, "purge", r.options.Events)
	if err != nil {
		return nil, err
	}
	m := measurements{}
	const p99, first, took = "p99 of a page at the edge, ms", "first page at the edge, ms", "done after the job's end, s"
	var turns []turn
	for _, way := range edgeWays {
		turns = append(turns, turn{way.name, t, func(d database) error {
			d.environment = way.environment
			before, after, seconds, err := d.edge(ctx, t.rooms[0], way.name != "neither")
			if err != nil {
				return err
			}
			m.add(p99, way.name, quantile(after, 0.99))
			m.add(p99, way.name+", before", quantile(before, 0.99))
			m.add(first, way.name, after[0])
			m.add(first, way.name+", before", before[0])
			m.add(took, way.name, seconds)
			return nil
		}})
	}
	if err := r.byTurns(ctx, "edge", turns...); err != nil {
		return nil, err
	}
	var rows []Row
	for _, way := range edgeWays {
		goal := ""
		if way.name != "neither" {
			goal = "≤ 1.5"
		}
		rows = append(rows, m.compare(p99, way.name, way.name+", before", goal), m.compare(first, way.name, way.name+", before", ""))
	}
	return append(rows, m.compare(took, "index walk", "VACUUM", "")), nil
}

// edge returns how long pages at the edge take before and after a purge, in milliseconds.
// With cleared it also returns after how many seconds what the purge has left was cleared.
func (d database) edge(ctx context.Context, of room, cleared bool) (before, after []float64, seconds float64, err error) {
	if err := d.makeReaders(ctx, of); err != nil {
		return nil, nil, 0, err
	}
	at, err := d.edgeOf(ctx, of)
	if err != nil {
		return nil, nil, 0, err
	}
	err = d.rig.serving(ctx, d.url(), func(ctx context.Context, base string, _ *os.Process) (err error) {
		page := httpPager(base+adminPages(of.id), adminToken)
		// The statements are prepared, and the pages are in memory, as after the purge.
		if _, err = timePages(ctx, page, at); err != nil {
			return err
		}
		if err := wait.For(ctx, edgeTime); err != nil {
			return fmt.Errorf("wait before the purge: %w", err)
		}
		if before, err = timePages(ctx, page, at); err != nil {
			return err
		}
		return d.atWork(ctx, d.url(), 1, func(ctx context.Context, _ []*os.Process) error {
			if err := d.runJob(ctx, of, submitPurge, nil); err != nil {
				return err
			}
			ended := time.Now()
			if cleared {
				if seconds, err = d.awaitVacuum(ctx, ended); err != nil {
					return err
				}
			}
			if err := wait.For(ctx, edgeTime-time.Since(ended)); err != nil {
				return fmt.Errorf("wait after the purge: %w", err)
			}
			after, err = timePages(ctx, page, at)
			return err
		})
	})
	return before, after, seconds, err
}

// edgeOf returns the place of the event that is one less than a page above the edge. The
// page from there has a last event from below the edge until that is purged. Then the
// reader goes through all that is left of the purged events to find one.
func (d database) edgeOf(ctx context.Context, of room) (at matrix.Token, err error) {
	err = d.rig.query(ctx, d.name, func(conn *pgx.Conn) error {
		return conn.QueryRow(ctx, `
			SELECT topological_ordering, stream_ordering FROM (
				SELECT topological_ordering, stream_ordering FROM events
				WHERE room_id = $1 AND NOT outlier AND topological_ordering >= $2 ORDER BY 1, 2 LIMIT $3) e
			ORDER BY 1 DESC, 2 DESC LIMIT 1`, of.id, of.depth, pageEvents-1).Scan(&at.Topological, &at.Stream)
	})
	if err != nil {
		return at, fmt.Errorf("find the edge: %w", err)
	}
	return at, nil
}

// timePages reads the page at a place over and over, and returns the milliseconds of each.
func timePages(ctx context.Context, page pager, at matrix.Token) (took []float64, err error) {
	for range edgePages {
		started := time.Now()
		if _, _, err := page(ctx, at); err != nil {
			return nil, err
		}
		took = append(took, float64(time.Since(started).Microseconds())/1000)
	}
	return took, nil
}

// awaitVacuum waits until what the purge has left was cleared, and returns the seconds
// since the purge's end. It waits no longer than until the pages are read.
func (d database) awaitVacuum(ctx context.Context, ended time.Time) (seconds float64, err error) {
	err = d.rig.query(ctx, d.name, func(conn *pgx.Conn) error {
		return poll(ctx, "the vacuum", func() (done bool, err error) {
			err = conn.QueryRow(ctx, `SELECT bool_and(coalesce(vacuum ->> 'state' = 'done', false)) FROM lethe.jobs`).Scan(&done)
			seconds = time.Since(ended).Seconds()
			return done || seconds > edgeTime.Seconds(), err
		})
	})
	return seconds, err
}
