package bench

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"net/url"
	"os"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"golang.org/x/sync/errgroup"

	"lethe/internal/matrix"
	"lethe/internal/roomgen"
	"lethe/internal/wait"
)

const (
	// pageEvents is the number of events of a page.
	pageEvents = 100

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

	// pageTimeout is the longest time of a page.
	pageTimeout = time.Minute

	// maxPageSize is the size of the largest page, in bytes.
	maxPageSize = 64 << 20
)

// A pager reads a page backwards from a place. It returns where the next page begins,
// and whether there is one.
type pager func(ctx context.Context, at matrix.Token) (next matrix.Token, more bool, err error)

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
	perSecond, perProcessor := map[string][]float64{}, map[string][]float64{}
	quiet, busy, longer := map[float64][]float64{}, map[float64][]float64{}, []float64{}
	var batches, longest []float64
	for run := range r.options.Runs {
		r.say("pages, run %d", run+1)
		err := r.onCopy(ctx, t, func(d database) error {
			paces, err := d.pagesByEachWay(ctx, t.rooms[0])
			for name, pace := range paces {
				perSecond[name] = append(perSecond[name], pace.perSecond)
				perProcessor[name] = append(perProcessor[name], pace.perProcessor)
			}
			if err != nil {
				return err
			}
			before, beside, gaps, err := d.pagesBesidePurge(ctx, t.rooms[0])
			for _, q := range []float64{0.5, 0.99, 1} {
				quiet[q], busy[q] = append(quiet[q], quantile(before, q)), append(busy[q], quantile(beside, q))
			}
			longer = append(longer, max(quantile(beside, 0.99)-quantile(before, 0.99), 0))
			batches, longest = append(batches, quantile(gaps, 0.5)), append(longest, quantile(gaps, 1))
			return err
		})
		if err != nil {
			return nil, err
		}
	}
	var rows []Row
	for _, of := range []struct {
		measure string
		values  map[string][]float64
	}{{"pages per second", perSecond}, {"pages per CPU second", perProcessor}} {
		bare := sample("bare query", of.values["bare"])
		rows = append(rows,
			compare("pages", of.measure, sample("admin", of.values["admin"]), bare, "≥ 0.5"),
			compare("pages", of.measure, sample("member", of.values["member"]), bare, "≥ 0.35"))
	}
	for _, q := range []struct {
		name string
		of   float64
	}{{"p50", 0.5}, {"p99", 0.99}, {"max", 1}} {
		rows = append(rows, compare("pages", "a page, ms", sample(q.name+" beside a purge", busy[q.of]), sample(q.name+" without", quiet[q.of]), ""))
	}
	rows = append(rows,
		compare("pages", "a purge's batch, ms", sample("longest, commit to commit", longest), sample("p50", batches), ""),
		compare("pages", "p99 longer by, ms", sample("beside a purge", longer), sample("longest batch", longest), "≤ 1"))
	if r.options.Synapse == "" {
		return rows, nil
	}
	synapse, err := r.measureSynapse(ctx)
	return append(rows, synapse...), err
}

// pagesByEachWay reads pages through the API, as an admin and as a member, and with
// the bare query.
func (d database) pagesByEachWay(ctx context.Context, of room) (map[string]pace, error) {
	paces := map[string]pace{}
	err := d.rig.query(ctx, "postgres", func(conn *pgx.Conn) error {
		places, err := d.places(ctx, of, of.events)
		if err != nil {
			return err
		}
		pool, err := pgxpool.New(ctx, d.url())
		if err != nil {
			return err
		}
		m := &meter{pid: os.Getpid(), conn: conn, of: d.name}
		paces["bare"], err = readAll(ctx, places, int(of.events), barePager(pool, of.id), m)
		pool.Close()
		if err != nil {
			return fmt.Errorf("the bare query: %w", err)
		}
		if err := d.makeReaders(ctx, of); err != nil {
			return err
		}
		return d.rig.serving(ctx, d.url(), func(ctx context.Context, base string, api *os.Process) (err error) {
			m := &meter{pid: api.Pid, conn: conn, of: d.name}
			admin, member := httpPager(base+adminPages(of.id), adminToken), httpPager(base+memberPages(of.id), memberToken)
			if paces["admin"], err = readAll(ctx, places, int(of.events), admin, m); err != nil {
				return fmt.Errorf("as an admin: %w", err)
			}
			if paces["member"], err = readAll(ctx, places, int(of.events), member, m); err != nil {
				return fmt.Errorf("as a member: %w", err)
			}
			return nil
		})
	})
	return paces, err
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
func readAll(ctx context.Context, places []matrix.Token, events int, page pager, m *meter) (pace, error) {
	pages := max(events/pageEvents/pageClients, minPages)
	if err := readPart(ctx, places, minPages, page); err != nil {
		return pace{}, err
	}
	var before, after time.Duration
	var err error
	if m != nil {
		if before, err = m.total(ctx); err != nil {
			return pace{}, err
		}
	}
	started := time.Now()
	if err := readPart(ctx, places, pages, page); err != nil {
		return pace{}, err
	}
	took := time.Since(started)
	all := float64(pages * len(places))
	read := pace{perSecond: all / took.Seconds()}
	if m != nil {
		if after, err = m.total(ctx); err != nil {
			return pace{}, err
		}
		read.perProcessor = all / (after - before).Seconds()
	}
	return read, nil
}

// readPart reads pages: each client reads this many, one after the other. A client
// that reaches the beginning of the room starts again from its place.
func readPart(ctx context.Context, places []matrix.Token, pages int, page pager) error {
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

// barePager reads pages with a query that only reads the events.
func barePager(pool *pgxpool.Pool, room string) pager {
	return func(ctx context.Context, at matrix.Token) (next matrix.Token, more bool, err error) {
		rows, err := pool.Query(ctx, `
			SELECT e.event_id, e.type, e.sender, e.state_key, e.topological_ordering, e.stream_ordering, e.origin_server_ts,
			       j.json, j.internal_metadata, j.format_version
			FROM events e JOIN event_json j ON j.event_id = e.event_id
			WHERE e.room_id = $1 AND NOT e.outlier AND (e.topological_ordering, e.stream_ordering) <= ($2, $3)
			ORDER BY e.topological_ordering DESC, e.stream_ordering DESC
			LIMIT $4`, room, at.Topological, at.Stream, pageEvents)
		if err != nil {
			return next, false, err
		}
		var id, kind string
		var sender, key, text, metadata *string
		var origin *int64
		var format *int
		_, err = pgx.ForEachRow(rows, []any{&id, &kind, &sender, &key, &next.Topological, &next.Stream, &origin, &text, &metadata, &format},
			func() error { more = true; return nil })
		next.Stream--
		return next, more, err
	}
}

func adminPages(room string) string {
	return "/_synapse/admin/v1/rooms/" + url.PathEscape(room) + "/messages"
}

func memberPages(room string) string {
	return "/_matrix/client/v3/rooms/" + url.PathEscape(room) + "/messages"
}

// httpPager reads pages from an endpoint. Of a page it parses only where the page
// ends. It keeps its connections open.
func httpPager(endpoint, token string) pager {
	transport := &http.Transport{MaxIdleConnsPerHost: 64, IdleConnTimeout: 10 * time.Second, DisableCompression: true}
	client := &http.Client{Transport: transport, Timeout: pageTimeout}
	return func(ctx context.Context, at matrix.Token) (next matrix.Token, more bool, err error) {
		request, err := http.NewRequestWithContext(ctx, http.MethodGet,
			fmt.Sprintf("%s?dir=b&limit=%d&from=%s", endpoint, pageEvents, at), http.NoBody)
		if err != nil {
			return next, false, err
		}
		request.Header.Set("Authorization", "Bearer "+token)
		response, err := client.Do(request)
		if err != nil {
			return next, false, err
		}
		body, err := io.ReadAll(io.LimitReader(response.Body, maxPageSize))
		_ = response.Body.Close() // it has been read
		switch {
		case err != nil:
			return next, false, fmt.Errorf("read a page: %w", err)
		case response.StatusCode == http.StatusServiceUnavailable, response.StatusCode == http.StatusGatewayTimeout:
			return next, false, errBusy
		case response.StatusCode != http.StatusOK:
			return next, false, fmt.Errorf("a page was refused with status %d", response.StatusCode)
		}
		return endOf(body)
	}
}

var (
	errNoPage = errors.New("the response is not a page")

	// errBusy is returned for a reader that waited too long, and was told to try again.
	errBusy = errors.New("the room is busy")
)

// endOf returns where a page ends. The key "end" is the last key of a page, except for
// state.
func endOf(body []byte) (next matrix.Token, more bool, err error) {
	const key = `"end":`
	i := bytes.LastIndex(body, []byte(key))
	if i < 0 {
		if !bytes.Contains(body, []byte(`"chunk":`)) {
			err = errNoPage
		}
		return next, false, err
	}
	var text string
	if err := json.NewDecoder(bytes.NewReader(body[i+len(key):])).Decode(&text); err != nil {
		return next, false, fmt.Errorf("%w: %w", errNoPage, err)
	}
	token, err := matrix.ParsePageToken(text)
	if err != nil {
		return next, false, err
	}
	next, more = token.Historic()
	if !more {
		err = errNoPage
	}
	return next, more, err
}

// pagesBesidePurge returns how long a member waits for pages of the newest tenth of a
// room, in milliseconds: before, while nothing else happens, and beside, while the
// rest of the room is purged. The gaps are the times between the commits of that
// purge.
func (d database) pagesBesidePurge(ctx context.Context, of room) (before, beside, gaps []float64, err error) {
	places, err := d.places(ctx, of, of.events/10)
	if err != nil {
		return nil, nil, nil, err
	}
	err = d.rig.serving(ctx, d.url(), func(ctx context.Context, base string, _ *os.Process) (err error) {
		page := httpPager(base+memberPages(of.id), memberToken)
		if err := readPart(ctx, places, minPages, page); err != nil {
			return err
		}
		over := make(chan struct{})
		pages := max(min(int(of.events)/100, 500), minPages)
		if before, err = pagesByTheClock(ctx, places, page, over, pages); err != nil {
			return err
		}
		return d.atWork(ctx, d.url(), 1, func(ctx context.Context, _ []*os.Process) error {
			readers, ctx := errgroup.WithContext(ctx)
			readers.Go(func() (err error) { beside, err = pagesByTheClock(ctx, places, page, over, math.MaxInt); return err })
			var last time.Time
			purged := d.purgeAtWork(ctx, of, func(commit time.Time) {
				if !last.IsZero() {
					gaps = append(gaps, milliseconds(commit.Sub(last)))
				}
				last = commit
			})
			close(over)
			return errors.Join(purged, readers.Wait())
		})
	})
	return before, beside, gaps, err
}

// pagesByTheClock requests a page at each interval, without waiting for the pages
// before it, until over is closed or enough pages have begun. It returns how long each
// page took, in milliseconds, including the pages that were refused.
func pagesByTheClock(ctx context.Context, places []matrix.Token, page pager, over <-chan struct{}, enough int) ([]float64, error) {
	var mu sync.Mutex
	var times []float64
	readers, ctx := errgroup.WithContext(ctx)
	readers.SetLimit(maxReaders)
	reading, stop := context.WithCancel(ctx)
	defer stop()
	begun := 0
	wait.Every(reading, pageEvery, func(context.Context) {
		select {
		case <-over:
			stop()
			return
		default:
		}
		at := places[begun%len(places)]
		readers.Go(func() error {
			started := time.Now()
			if _, _, err := page(ctx, at); err != nil && !errors.Is(err, errBusy) {
				return err
			}
			took := milliseconds(time.Since(started))
			mu.Lock()
			defer mu.Unlock()
			times = append(times, took)
			return nil
		})
		if begun++; begun >= enough {
			stop()
		}
	})
	ended := ctx.Err() // before Wait, which ends ctx
	return times, errors.Join(readers.Wait(), ended)
}

func milliseconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
