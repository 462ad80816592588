package bench

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/jackc/pgx/v5"

	"lethe/internal/bench/pager"
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
	const (
		p99, first = "p99 of a page at the edge, ms", "first page at the edge, ms"
		buffers    = "buffers of a page at the edge"
		took       = "done after the job's end, s"
	)
	var turns []turn
	for _, way := range edgeWays {
		cleared := way.name != "neither"
		turns = append(turns, turn{way.name, t, func(d database) error {
			d.environment = way.environment
			before, after, err := d.edge(ctx, t.rooms[0], cleared, cleared)
			if err != nil {
				return err
			}
			m.add(p99, way.name, quantile(after.pages, 0.99))
			m.add(p99, way.name+", before", quantile(before.pages, 0.99))
			m.add(first, way.name, after.pages[0])
			m.add(first, way.name+", before", before.pages[0])
			if cleared {
				m.add(buffers, way.name, after.buffers)
				m.add(buffers, "before", before.buffers)
				m.add(took, way.name, after.seconds)
			}
			return nil
		}})
		if !cleared {
			// The query would do the work of the first reader, so it has a copy of its own.
			turns = append(turns, turn{way.name + ", by one query", t, func(d database) error {
				d.environment = way.environment
				_, after, err := d.edge(ctx, t.rooms[0], false, true)
				m.add(buffers, way.name, after.buffers)
				return err
			}})
		}
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
		rows = append(rows, m.compare(p99, way.name, way.name+", before", goal), m.compare(first, way.name, way.name+", before", ""),
			m.compare(buffers, way.name, "before", ""))
	}
	return append(rows, m.compare(took, "index walk", "VACUUM", "")), nil
}

// A brink is what was measured at the edge of a purge, before it or after it.
type brink struct {
	// pages are the milliseconds of each page.
	pages []float64

	// buffers is how many pages of the database the query of such a page reads.
	buffers float64

	// seconds is how long after the purge's end everything was cleared, up to edgeTime.
	seconds float64
}

// edge reads pages at the edge of a purge before and after it. With cleared it waits until
// what the purge has left was cleared. With counts it counts the buffers first.
func (d database) edge(ctx context.Context, of room, cleared, counts bool) (before, after brink, err error) {
	if err := d.makeReaders(ctx, of); err != nil {
		return before, after, err
	}
	at, err := d.edgeOf(ctx, of)
	if err == nil {
		before.buffers, err = d.buffers(ctx, of, at)
	}
	if err != nil {
		return before, after, err
	}
	err = d.rig.serving(ctx, d.url(), func(ctx context.Context, base string, _ *os.Process) (err error) {
		page := pager.HTTP(base+pager.AdminPath(of.id), adminToken)
		// The statements are prepared, and the pages are in memory, as after the purge.
		if _, err = timePages(ctx, page, at); err != nil {
			return err
		}
		if err := wait.For(ctx, edgeTime); err != nil {
			return fmt.Errorf("wait before the purge: %w", err)
		}
		if before.pages, err = timePages(ctx, page, at); err != nil {
			return err
		}
		return d.atWork(ctx, d.url(), 1, func(ctx context.Context, _ []*os.Process) error {
			if err := d.runJob(ctx, of, submitPurge, nil); err != nil {
				return err
			}
			ended := time.Now()
			if cleared {
				if after.seconds, err = d.awaitVacuum(ctx, ended); err != nil {
					return err
				}
			}
			if err := wait.For(ctx, edgeTime-time.Since(ended)); err != nil {
				return fmt.Errorf("wait after the purge: %w", err)
			}
			if counts {
				if after.buffers, err = d.buffers(ctx, of, at); err != nil {
					return err
				}
			}
			after.pages, err = timePages(ctx, page, at)
			return err
		})
	})
	return before, after, err
}

// buffers returns how many pages of the database the query of a page reads, with only the
// table of the events. The outliers that a purge leaves, about a hundredth of the events of
// generated rooms, are read too and left out, whatever was vacuumed.
func (d database) buffers(ctx context.Context, of room, at matrix.Token) (pages float64, err error) {
	err = d.rig.query(ctx, d.name, func(conn *pgx.Conn) error {
		// The statistics are from before the purge, as they are for readers.
		if err := execAll(ctx, conn, []string{`SET enable_seqscan = off`, `SET enable_bitmapscan = off`, `SET enable_sort = off`}); err != nil {
			return err
		}
		var text []byte
		if err := conn.QueryRow(ctx, `
			EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON)
			SELECT * FROM events WHERE room_id = $1 AND NOT outlier AND (topological_ordering, stream_ordering) <= ($2, $3)
			ORDER BY topological_ordering DESC, stream_ordering DESC LIMIT $4`, of.id, at.Topological, at.Stream, pager.Events).Scan(&text); err != nil {
			return err
		}
		var plans []struct {
			Plan struct {
				Hit  float64 `json:"Shared Hit Blocks"`
				Read float64 `json:"Shared Read Blocks"`
			}
		}
		if err := json.Unmarshal(text, &plans); err != nil || len(plans) == 0 {
			return errors.Join(errors.New("the server's plan cannot be read"), err)
		}
		pages = plans[0].Plan.Hit + plans[0].Plan.Read
		return nil
	})
	return pages, err
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
			ORDER BY 1 DESC, 2 DESC LIMIT 1`, of.id, of.depth, pager.Events-1).Scan(&at.Topological, &at.Stream)
	})
	if err != nil {
		return at, fmt.Errorf("find the edge: %w", err)
	}
	return at, nil
}

// timePages reads the page at a place over and over, and returns the milliseconds of each.
func timePages(ctx context.Context, page pager.Pager, at matrix.Token) (took []float64, err error) {
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
