package bench

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"math"
	"net/http"
	"os"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"lethe/internal/bench/pager"
	"lethe/internal/jobs"
	"lethe/internal/roomgen"
	"lethe/internal/store/journal"
	"lethe/internal/store/postgres"
	"lethe/internal/tasks"
)

// growths are the sizes that are measured, as multiples of the smallest.
var growths = []int{1, 10, 100}

// growthCalls is how often a short step is timed in each run, of which the median counts.
const growthCalls = 20

// getTimeout is the longest time of an answer.
const getTimeout = time.Minute

// An axis is something of which there may be more.
type axis struct {
	of    string
	least int
	steps []string

	// template returns a database with n of them.
	template func(n int) (template, error)

	// measure returns the milliseconds of each step.
	measure func(d database, t template, n int) ([]float64, error)
}

// measureGrowth measures how the time of a step grows with the events of a room, with the
// rooms of a database, and with the jobs of the journal.
func measureGrowth(ctx context.Context, r *rig) ([]Row, error) {
	axes := []axis{{
		of: "events", least: max(r.options.Events/100, 100), steps: []string{"purge", "page", "list of rooms"},
		template: func(n int) (template, error) { return r.template(ctx, fmt.Sprintf("events%d", n), n) },
		measure:  func(d database, t template, _ int) ([]float64, error) { return d.growEvents(ctx, t.rooms[0]) },
	}, {
		of: "rooms", least: max(r.options.SweepRooms/100, 10), steps: []string{"sweep", "list of rooms", "purge of a room"},
		template: func(n int) (template, error) { return r.sweptTemplateOf(ctx, fmt.Sprintf("swept%d", n), n) },
		measure:  func(d database, _ template, n int) ([]float64, error) { return d.growRooms(ctx, n) },
	}, {
		of: "jobs", least: max(r.options.Jobs/2, 2*growthCalls), steps: []string{"enqueue", "list of jobs", "claim"},
		template: func(int) (template, error) {
			return r.template(ctx, "journal", slices.Repeat([]int{tinyRoom}, growthCalls)...)
		},
		measure: func(d database, t template, n int) ([]float64, error) { return d.growJobs(ctx, t.rooms, n) },
	}}
	m := measurements{}
	measure := func(a axis, step string) string { return step + " by " + a.of + ", ms" }
	name := func(a axis, factor int) string { return fmt.Sprintf("%d %s", a.least*factor, a.of) }
	var turns []turn
	for _, a := range axes {
		for _, factor := range growths {
			t, err := a.template(a.least * factor)
			if err != nil {
				return nil, err
			}
			turns = append(turns, turn{name(a, factor), t, func(d database) error {
				took, err := a.measure(d, t, a.least*factor)
				if err != nil {
					return err
				}
				for i, step := range a.steps {
					m.add(measure(a, step), name(a, factor), took[i])
				}
				return nil
			}})
		}
	}
	if err := r.byTurns(ctx, "growth", turns...); err != nil {
		return nil, err
	}
	var rows []Row
	for _, a := range axes {
		for _, step := range a.steps {
			for _, factor := range growths[1:] {
				rows = append(rows, m.compare(measure(a, step), name(a, factor), name(a, 1), ""))
			}
		}
	}
	return rows, nil
}

// timeEach returns the median of the milliseconds of each call.
func timeEach(do func(i int) error) (float64, error) {
	var took []float64
	for i := range growthCalls {
		started := time.Now()
		if err := do(i); err != nil {
			return 0, err
		}
		took = append(took, milliseconds(time.Since(started)))
	}
	return quantile(took, 0.5), nil
}

// growEvents purges nine tenths of a room. Before that it reads its newest pages as a
// member, and the list of rooms.
func (d database) growEvents(ctx context.Context, of room) ([]float64, error) {
	var page, list float64
	if err := d.makeReaders(ctx, of); err != nil {
		return nil, err
	}
	places, err := d.places(ctx, of, of.events)
	if err != nil {
		return nil, err
	}
	err = d.rig.serving(ctx, d.url(), func(ctx context.Context, base string, _ *os.Process) (err error) {
		next, at := pager.HTTP(base+pager.MemberPath(of.id), memberToken), places[0]
		if page, err = timeEach(func(int) error {
			place, more, err := next(ctx, at)
			if at = place; !more {
				at = places[0]
			}
			return err
		}); err != nil {
			return err
		}
		list, err = timeEach(func(int) error { return get(ctx, base+"/_synapse/admin/v1/rooms") })
		return err
	})
	if err != nil {
		return nil, err
	}
	took, err := d.purgeByJob(ctx, d.url(), true, of)
	return []float64{milliseconds(took), page, list}, err
}

// growRooms lists the rooms, purges one of them, and lets a sweep decide about all. A tenth
// of them gets a purge.
func (d database) growRooms(ctx context.Context, n int) ([]float64, error) {
	if err := d.makeAdmin(ctx); err != nil {
		return nil, err
	}
	var list float64
	if err := d.rig.serving(ctx, d.url(), func(ctx context.Context, base string, _ *os.Process) (err error) {
		list, err = timeEach(func(int) error { return get(ctx, base+"/_synapse/admin/v1/rooms") })
		return err
	}); err != nil {
		return nil, err
	}
	purge, err := d.purgeByJob(ctx, d.url(), true, room{id: "!swept10:" + serverName, depth: sweptDepth})
	if err != nil {
		return nil, err
	}
	s, err := d.sweep(ctx, 1, n, 0)
	return []float64{s.seconds * 1000, list, milliseconds(purge)}, err
}

// growJobs accepts, lists and claims jobs while n others are queued.
func (d database) growJobs(ctx context.Context, rooms []room, n int) (took []float64, err error) {
	if err := d.makeAdmin(ctx); err != nil {
		return nil, err
	}
	db, err := postgres.Open(ctx, d.url(), postgres.Options{})
	if err != nil {
		return nil, err
	}
	defer db.Close()
	j := journal.New(db)
	var ids []string
	for queued := range slices.Chunk(make([]journal.Job, n), 5000) {
		for i := range queued {
			queued[i] = journal.Job{
				ID: jobs.NewID(), Kind: jobs.PurgeHistory, Room: fmt.Sprintf("!queued%d:%s", len(ids), serverName), Queue: journal.LowQueue,
				Parameters: []byte("{}"), Requester: requester,
			}
			ids = append(ids, queued[i].ID)
		}
		if _, err := j.InsertJobs(ctx, queued); err != nil {
			return nil, err
		}
	}
	if err := d.rig.exec(ctx, d.name, `ANALYZE lethe.jobs`); err != nil {
		return nil, err
	}
	var enqueue, list, claim float64
	err = d.withClient(ctx, func(client *tasks.Client) (err error) {
		enqueue, err = timeEach(func(i int) error { return submitPurge(ctx, client, rooms[i]) })
		return err
	})
	if err != nil {
		return nil, err
	}
	if claim, err = timeEach(func(i int) error {
		_, err := j.ClaimJob(ctx, ids[i*n/growthCalls], 1, time.Minute, math.MaxInt32)
		return err
	}); err != nil {
		return nil, err
	}
	err = d.rig.serving(ctx, d.url(), func(ctx context.Context, base string, _ *os.Process) (err error) {
		list, err = timeEach(func(int) error { return get(ctx, base+"/_lethe/v1/jobs") })
		return err
	})
	return []float64{enqueue, list, claim}, err
}

// makeAdmin creates an admin with the access token adminToken.
func (d database) makeAdmin(ctx context.Context) error {
	return d.rig.query(ctx, d.name, func(conn *pgx.Conn) error {
		return roomgen.Account(ctx, conn, "@bench-admin:"+serverName, adminToken, true)
	})
}

// get reads an answer as the admin, and fails unless it is 200 and names a room: to list
// nothing costs nothing.
func get(ctx context.Context, url string) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	request.Header.Set("Authorization", "Bearer "+adminToken)
	client := http.Client{Timeout: getTimeout}
	response, err := client.Do(request)
	if err != nil {
		return err
	}
	defer func() { _ = response.Body.Close() }()
	body, err := io.ReadAll(response.Body)
	switch {
	case err != nil:
		return err
	case response.StatusCode != http.StatusOK:
		return fmt.Errorf("%s was refused with status %d", url, response.StatusCode)
	case !bytes.Contains(body, []byte(`"room_id":`)):
		return fmt.Errorf("%s lists no room", url)
	}
	return nil
}
