package bench

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"golang.org/x/sync/errgroup"

	"lethe/internal/bench/pager"
	"lethe/internal/matrix"
	"lethe/internal/roomgen"
)

const (
	// pageClients is the number of clients that read at the same time, each one page
	// after the other.
	pageClients = 4

	// minPages is the smallest number of pages that each client reads.
	minPages = 25

	// pageEvery is the interval at which pages are requested during a purge.
	pageEvery = 20 * time.Millisecond

	// maxReaders is the largest number of pages that are requested at once during a
	// purge. It keeps a slow machine from breaking down.
	maxReaders = 32
)

// The measures of a pace.
const (
	pagesPerSecond    = "pages per second"
	pagesPerProcessor = "pages per CPU second"
)

// A pace is how fast pages were read: per second, and per second of processor time.
type pace struct{ perSecond, perProcessor float64 }

// measurePages reads the pages of a room through the API, as a server admin and as a
// member, and with one bare query for each page. Then it reads them again while the
// room is purged.
func measurePages(ctx context.Context, r *rig) ([]Row, error) {
	t, err := r.template(ctx, "purge", r.options.Events)
	if err != nil {
		return nil, err
	}
	m := measurements{}
	const bare, page, batch, longer = "bare query", "a page, ms", "a purge's batch, ms", "p99 longer by, ms"
	quantiles := []struct {
		name string
		of   float64
	}{{"p50", 0.5}, {"p99", 0.99}, {"max", 1}}
	err = r.byTurns(ctx, "pages", turn{"alone, and beside a purge", t, func(d database) error {
		if err := d.pagesByEachWay(ctx, t.rooms[0], m); err != nil {
			return err
		}
		before, beside, gaps, err := d.pagesBesidePurge(ctx, t.rooms[0])
		for _, q := range quantiles {
			m.add(page, q.name+" without", quantile(before, q.of))
			m.add(page, q.name+" beside a purge", quantile(beside, q.of))
		}
		m.add(longer, "beside a purge", max(quantile(beside, 0.99)-quantile(before, 0.99), 0))
		m.add(longer, "longest batch", quantile(gaps, 1))
		m.add(batch, "longest, commit to commit", quantile(gaps, 1))
		m.add(batch, "p50", quantile(gaps, 0.5))
		return err
	}})
	if err != nil {
		return nil, err
	}
	var rows []Row
	for _, measure := range []string{pagesPerSecond, pagesPerProcessor} {
		rows = append(rows, m.compare(measure, "admin", bare, "≥ 0.5"), m.compare(measure, "member", bare, "≥ 0.35"))
	}
	for _, q := range quantiles {
		rows = append(rows, m.compare(page, q.name+" beside a purge", q.name+" without", ""))
	}
	rows = append(rows,
		m.compare(batch, "longest, commit to commit", "p50", ""),
		m.compare(longer, "beside a purge", "longest batch", "≤ 1"))
	if r.options.SynapseDatabase == "" {
		return rows, nil
	}
	synapse, err := r.measureSynapse(ctx)
	return append(rows, synapse...), err
}

// pagesByEachWay reads pages with the bare query, and through the API, as an admin and as
// a member.
func (d database) pagesByEachWay(ctx context.Context, of room, m measurements) error {
	return d.rig.query(ctx, "postgres", func(conn *pgx.Conn) error {
		places, err := d.places(ctx, of, of.events)
		if err != nil {
			return err
		}
		pool, err := pgxpool.New(ctx, d.url())
		if err != nil {
			return err
		}
		measure := func(ctx context.Context, name string, page pager.Pager, pid int) error {
			pace, err := readAll(ctx, places, int(of.events), page, &meter{pid: pid, conn: conn, of: d.name})
			if err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
			m.add(pagesPerSecond, name, pace.perSecond)
			m.add(pagesPerProcessor, name, pace.perProcessor)
			return nil
		}
		err = measure(ctx, "bare query", pager.Bare(pool, of.id), os.Getpid())
		pool.Close()
		if err != nil {
			return err
		}
		if err := d.makeReaders(ctx, of); err != nil {
			return err
		}
		return d.rig.serving(ctx, d.url(), func(ctx context.Context, base string, api *os.Process) error {
			if err := measure(ctx, "admin", pager.HTTP(base+pager.AdminPath(of.id), adminToken), api.Pid); err != nil {
				return err
			}
			return measure(ctx, "member", pager.HTTP(base+pager.MemberPath(of.id), memberToken), api.Pid)
		})
	})
}

// The access tokens of the readers.
const (
	adminToken  = "bench-admin"
	memberToken = "bench-member"
)

// makeReaders creates an admin, and an access token for a local member of the room.
func (d database) makeReaders(ctx context.Context, of room) error {
	return d.rig.query(ctx, d.name, func(conn *pgx.Conn) error {
		var user string
		if err := conn.QueryRow(ctx, `
			SELECT user_id FROM local_current_membership WHERE room_id = $1 AND membership = 'join' ORDER BY 1 LIMIT 1`, of.id).Scan(&user); err != nil {
			return fmt.Errorf("find a member: %w", err)
		}
		if err := roomgen.Account(ctx, conn, "@bench-admin:"+serverName, adminToken, true); err != nil {
			return err
		}
		return roomgen.Account(ctx, conn, user, memberToken, false)
	})
}

// places returns the place where each client begins to read. The places are spread
// evenly over the newest events of the room; newest is their number.
func (d database) places(ctx context.Context, of room, newest int64) (places []matrix.Token, err error) {
	err = d.rig.query(ctx, d.name, func(conn *pgx.Conn) (err error) {
		places, err = placesIn(ctx, conn, of.id, newest)
		return err
	})
	return places, err
}

func placesIn(ctx context.Context, conn *pgx.Conn, room string, newest int64) (places []matrix.Token, err error) {
	for i := range pageClients {
		var place matrix.Token
		if err := conn.QueryRow(ctx, `
			SELECT topological_ordering, stream_ordering FROM events WHERE room_id = $1 AND NOT outlier
			ORDER BY 1 DESC, 2 DESC OFFSET $2 LIMIT 1`, room, newest*int64(i)/pageClients).
			Scan(&place.Topological, &place.Stream); err != nil {
			return nil, fmt.Errorf("find a place to read from: %w", err)
		}
		places = append(places, place)
	}
	return places, nil
}

// readAll reads about all pages of a room, each client a part of them. Some pages
// before that do not count, so that all statements are prepared. Without a meter the
// pace has no processor time.
func readAll(ctx context.Context, places []matrix.Token, events int, page pager.Pager, m *meter) (pace, error) {
	pages := max(events/pager.Events/pageClients, minPages)
	if err := readPart(ctx, places, minPages, page); err != nil {
		return pace{}, err
	}
	before, err := m.total(ctx)
	if err != nil {
		return pace{}, err
	}
	started := time.Now()
	if err := readPart(ctx, places, pages, page); err != nil {
		return pace{}, err
	}
	took := time.Since(started)
	after, err := m.total(ctx)
	all := float64(pages * len(places))
	read := pace{perSecond: all / took.Seconds()}
	if m != nil {
		read.perProcessor = all / (after - before).Seconds()
	}
	return read, err
}

// readPart reads pages: each client reads this many, one after the other. A client
// that reaches the beginning of the room starts again from its place.
func readPart(ctx context.Context, places []matrix.Token, pages int, page pager.Pager) error {
	clients, ctx := errgroup.WithContext(ctx)
	for _, place := range places {
		clients.Go(func() error {
			at := place
			for range pages {
				next, more, err := page(ctx, at)
				if err != nil {
					return err
				}
				if at = next; !more {
					at = place
				}
			}
			return nil
		})
	}
	return clients.Wait()
}

// pagesBesidePurge returns how long a member waits for pages of the newest tenth of a
// room, in milliseconds: before, while nothing else happens, and beside, while the
// rest of the room is purged. A page that was refused counts too. The gaps are the times
// between the commits of that purge.
func (d database) pagesBesidePurge(ctx context.Context, of room) (before, beside, gaps []float64, err error) {
	places, err := d.places(ctx, of, of.events/10)
	if err != nil {
		return nil, nil, nil, err
	}
	err = d.rig.serving(ctx, d.url(), func(ctx context.Context, base string, _ *os.Process) (err error) {
		page := pager.HTTP(base+pager.MemberPath(of.id), memberToken)
		if err := readPart(ctx, places, minPages, page); err != nil {
			return err
		}
		c := clock{
			every: pageEvery, atOnce: maxReaders, calls: max(min(int(of.events)/100, 500), minPages),
			do: func(ctx context.Context, i int) (time.Duration, error) {
				started := time.Now()
				_, _, err := page(ctx, places[i%len(places)])
				if errors.Is(err, pager.ErrBusy) {
					err = nil
				}
				return time.Since(started), err
			},
		}
		if before, err = c.run(ctx, nil); err != nil {
			return err
		}
		c.calls = math.MaxInt
		beside, gaps, err = d.besidePurge(ctx, of, c)
		return err
	})
	return before, beside, gaps, err
}

// measureSynapse reads pages from a Synapse, and the same pages from an api of Lethe on
// the same database.
func (r *rig) measureSynapse(ctx context.Context) ([]Row, error) {
	var of room
	var places []matrix.Token
	conn, err := pgx.Connect(ctx, r.options.SynapseDatabase)
	if err != nil {
		return nil, fmt.Errorf("connect to Synapse's database: %w", err)
	}
	err = conn.QueryRow(ctx, `
		SELECT m.room_id, count(*)
		FROM access_tokens t
		JOIN local_current_membership m ON m.user_id = t.user_id AND m.membership = 'join'
		JOIN events e ON e.room_id = m.room_id AND NOT e.outlier
		WHERE t.token = $1
		GROUP BY 1 ORDER BY 2 DESC LIMIT 1`, r.options.SynapseToken).Scan(&of.id, &of.events)
	of.events = min(of.events, int64(r.options.Events)) // only the newest events
	if err == nil {
		places, err = placesIn(ctx, conn, of.id, of.events)
	}
	if err = errors.Join(err, conn.Close(context.WithoutCancel(ctx))); err != nil {
		return nil, fmt.Errorf("find a room whose pages Synapse can be asked for: %w", err)
	}
	m := measurements{}
	read := func(ctx context.Context, whose, base string) error {
		for name, endpoint := range map[string]string{"admin": pager.AdminPath(of.id), "member": pager.MemberPath(of.id)} {
			pace, err := readAll(ctx, places, int(of.events), pager.HTTP(base+endpoint, r.options.SynapseToken), nil)
			if err != nil {
				return fmt.Errorf("%s, as %s: %w", whose, name, err)
			}
			m.add(pagesPerSecond, whose+", "+name, pace.perSecond)
		}
		return nil
	}
	for run := range r.options.Runs {
		r.say("pages of a Synapse's room of %d events, run %d", of.events, run+1)
		if err := read(ctx, "Synapse", r.options.Synapse); err != nil {
			return nil, err
		}
		if err := r.serving(ctx, r.options.SynapseDatabase, func(ctx context.Context, base string, _ *os.Process) error {
			return read(ctx, "Lethe", base)
		}); err != nil {
			return nil, err
		}
	}
	return []Row{
		m.compare(pagesPerSecond, "Lethe, admin", "Synapse, admin", "≥ 25"),
		m.compare(pagesPerSecond, "Lethe, member", "Synapse, member", "≥ 25"),
	}, nil
}
