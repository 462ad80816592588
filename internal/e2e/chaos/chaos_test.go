package chaos

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"lethe/internal/devstack/devstacktest"
	"lethe/internal/roomgen"
	"lethe/internal/store/migrate"
)

func TestMain(m *testing.M) { devstacktest.Main(m) }

const (
	server = "demo.test"
	admin  = "@admin:" + server
	token  = "an_access_token"

	// endTime is how long the fleet may take to end all jobs after the last fault. A queued
	// job whose task Redis has lost is missed after a minute.
	endTime = 150 * time.Second
)

var processKinds = []string{"api", "worker", "scheduler"}

// A world is the fleet of a round, its servers and its rooms.
type world struct {
	t      *testing.T
	report *report
	client *http.Client
	db     *database
	redis  *redisFleet
	env    []string

	apis, workers, schedulers []*process

	rooms []*room
	byID  map[string]*room

	lanesMu sync.Mutex
	lanes   map[any]*sync.Mutex

	mu      sync.Mutex
	ids     []string          // of accepted jobs
	states  map[string]string // of all jobs, by id
	cancels map[string]bool   // jobs that an operator wanted to cancel
	steered map[string]bool   // jobs that operators may disturb
}

// set changes what goroutines share.
func (w *world) set(change func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	change()
}

// lane waits until no other fault meets the target, and returns the function that frees it.
func (w *world) lane(target any) (free func()) {
	w.lanesMu.Lock()
	if w.lanes[target] == nil {
		w.lanes[target] = &sync.Mutex{}
	}
	lane := w.lanes[target]
	w.lanesMu.Unlock()
	lane.Lock()
	return lane.Unlock
}

// number is a number in the environment.
func number(t *testing.T, variable string, byDefault uint64) uint64 {
	t.Helper()
	text := os.Getenv(variable)
	if text == "" {
		return byDefault
	}
	n, err := strconv.ParseUint(text, 10, 64)
	require.NoError(t, err, variable)
	return n
}

// A fleet that works on its jobs meets faults, by a plan that SEED gives. Afterwards every
// accepted job has ended for a reason of its own, every room is as it is without faults, no
// page has shown what it must not, and nothing is left over. LETHE_CHAOS_FAULTS is the
// number of faults; without it there are few, and quick ones. LETHE_CHAOS_SEED is the seed.
func TestChaos(t *testing.T) {
	t.Parallel()
	seed := number(t, "LETHE_CHAOS_SEED", 1)
	faults := number(t, "LETHE_CHAOS_FAULTS", 0)
	rounds, rooms := plan(seed, int(cmp.Or(faults, 4)), faults == 0), roomNumbers{swept: 4, purged: 14, deleted: 10}
	if faults == 0 {
		rooms = roomNumbers{swept: 2, purged: 6, deleted: 4}
	}
	for n, r := range rounds {
		t.Logf("round %d on %s, seed %d", n+1, r.redis, r.seed)
		for i, f := range r.faults {
			t.Logf("%4d: %v", i+1, f)
		}
	}
	report := newReport(seed)
	defer report.write(t)
	db := newDatabase(t)
	prepare(t, db, rooms)
	want := reference(t, db, report)
	for n, r := range rounds {
		t.Run(fmt.Sprintf("round %d on %s", n+1, r.redis), func(t *testing.T) {
			w := newWorld(t, db, report, r, fmt.Sprintf("round_%d", n+1))
			w.suffer(r)
			w.verify(want)
		})
	}
}

// roomNumbers are the numbers of rooms. Those that are left to sweeps are the oldest, so that
// what is deleted of the others does not change what has expired.
type roomNumbers struct{ swept, purged, deleted int }

// prepare fills the template: the rooms, an admin, and the roles of the processes.
func prepare(t *testing.T, db *database, rooms roomNumbers) {
	t.Helper()
	ctx, at := t.Context(), db.primary.URL(template)
	require.NoError(t, migrate.UpEmbedded(ctx, at))
	require.NoError(t, migrate.Up(ctx, at))
	conn, err := pgx.Connect(ctx, at)
	require.NoError(t, err)
	defer func() { require.NoError(t, conn.Close(ctx)) }()
	require.NoError(t, roomgen.Account(ctx, conn, admin, token, true))
	for i := range rooms.swept + rooms.purged + rooms.deleted {
		kind, events := "swept", 120
		switch {
		case i >= rooms.swept+rooms.purged:
			kind, events = "deleted", 60
		case i >= rooms.swept:
			kind, events = "purged", 200
		}
		_, err := roomgen.Generate(ctx, conn, roomgen.Room{
			ID: fmt.Sprintf("!%s%02d:%s", kind, i, server), Server: server, Seed: uint64(i + 1), Events: events, RemoteMembers: -1,
		})
		require.NoError(t, err)
	}
	// The events arrived an hour after each other, and half of each swept room has expired.
	// Half an hour is added, so that no lifetime ends in the meantime. Each batch takes its
	// time, so that faults meet it. Commits are durable, so that a standby has them.
	_, err = conn.Exec(ctx, `
		UPDATE events e SET received_ts = extract(epoch FROM now()) * 1000 - (newest - stream_ordering + 0.5) * 3600000
		FROM (SELECT max(stream_ordering) AS newest FROM events) n;
		CREATE SCHEMA aside;
		GRANT USAGE ON SCHEMA aside TO PUBLIC;
		CREATE TABLE aside.events AS SELECT event_id, room_id, topological_ordering AS depth FROM events;
		CREATE TABLE aside.halves AS
			SELECT room_id, (extract(epoch FROM now()) * 1000 - percentile_disc(0.5) WITHIN GROUP (ORDER BY received_ts))::bigint AS lifetime,
			       (percentile_disc(0.5) WITHIN GROUP (ORDER BY topological_ordering))::bigint AS depth
			FROM events WHERE room_id LIKE '!swept%' GROUP BY room_id;
		INSERT INTO current_state_events (event_id, room_id, type, state_key)
			SELECT '$policy' || room_id, room_id, 'm.room.retention', '' FROM aside.halves;
		INSERT INTO room_retention (room_id, event_id, max_lifetime) SELECT room_id, '$policy' || room_id, lifetime FROM aside.halves;
		CREATE FUNCTION lethe.lengthen() RETURNS trigger LANGUAGE plpgsql AS $$
		BEGIN
			PERFORM pg_catalog.pg_sleep(0.06);
			RETURN NEW;
		END $$;
		CREATE TRIGGER lengthen AFTER UPDATE OF checkpoint ON lethe.jobs FOR EACH ROW
		WHEN (NEW.checkpoint IS DISTINCT FROM OLD.checkpoint) EXECUTE FUNCTION lethe.lengthen();
		ALTER DATABASE `+template+` SET synchronous_commit = on`)
	require.NoError(t, err)
	for _, kind := range processKinds {
		db.role(kind, []string{"LETHE_DATABASE_URL=" + at, "LETHE_SERVER_NAME=" + server, "LETHE_SYNAPSE_BESIDE=false"})
	}
}

// newFleet is a world on a new copy of the rooms, with that many processes of each kind.
func newFleet(t *testing.T, db *database, report *report, redis *redisFleet, name string, replicas map[string]int) *world {
	t.Helper()
	db.clone(name)
	w := &world{
		t: t, report: report, client: &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 8}}, db: db, redis: redis,
		byID: map[string]*room{}, lanes: map[any]*sync.Mutex{},
		states: map[string]string{}, cancels: map[string]bool{}, steered: map[string]bool{},
	}
	t.Cleanup(w.client.CloseIdleConnections)
	w.env = append(redis.env(),
		"LETHE_SERVER_NAME="+server,
		"LETHE_SYNAPSE_BESIDE=false",
		"LETHE_API_LISTEN=127.0.0.1:0",
		"LETHE_API_METRICS_LISTEN=127.0.0.1:0",
		"LETHE_WORKER_LISTEN=127.0.0.1:0",
		"LETHE_SCHEDULER_LISTEN=127.0.0.1:0",
		"LETHE_LOG_FORMAT=json",
		"LETHE_WORKER_BATCH_EVENTS=5",
		"LETHE_DATABASE_MAX_CONNECTIONS=10",
		"LETHE_RETENTION_ENABLED=true",
		"LETHE_RETENTION_PURGE_JOBS=[{name: often, interval: 4s}]",
	)
	w.apis, w.workers, w.schedulers = w.start("api", replicas["api"]), w.start("worker", replicas["worker"]), w.start("scheduler", replicas["scheduler"])
	w.ready()
	w.meet()
	return w
}

func newWorld(t *testing.T, db *database, report *report, r round, name string) *world {
	t.Helper()
	return newFleet(t, db, report, newRedisFleet(t, r.redis), name, map[string]int{"api": 2, "worker": 3, "scheduler": 2})
}

func (w *world) start(kind string, n int) (all []*process) {
	for range n {
		all = append(all, supervise(w.t, w.report, kind, append(slices.Clone(w.env), "LETHE_DATABASE_URL="+w.db.url(roleOf(kind)))))
	}
	return all
}

func (w *world) all() []*process { return slices.Concat(w.apis, w.workers, w.schedulers) }

// ready waits until every process says that it is ready.
func (w *world) ready() {
	w.t.Helper()
	for _, p := range w.all() {
		w.eventually(time.Minute, p.kind+" is not ready", func() bool {
			ctx, cancel := context.WithTimeout(w.t.Context(), 5*time.Second)
			defer cancel()
			request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+p.at()+"/readyz", nil)
			if err != nil {
				return false
			}
			response, err := w.client.Do(request)
			if err != nil {
				return false
			}
			_ = response.Body.Close()
			return response.StatusCode == http.StatusOK
		})
	}
}

// eventually waits until the condition holds. If it does not within that time, that is a
// violation, and the round ends.
func (w *world) eventually(within time.Duration, message string, condition func() bool) {
	w.t.Helper()
	for end := time.Now().Add(within); !condition(); w.pause(100 * time.Millisecond) {
		if time.Now().After(end) || w.t.Context().Err() != nil {
			w.report.violation("%s, after %v: %v", message, within, w.openJobs())
			w.t.FailNow()
		}
	}
}

func (w *world) openJobs() []string {
	return read(w.db, pgx.RowTo[string], `SELECT to_jsonb(j)::text FROM lethe.jobs j WHERE ended_at IS NULL ORDER BY id LIMIT 5`)
}

// meet notes the rooms, and what their pages show before the first fault.
func (w *world) meet() {
	w.t.Helper()
	type event struct {
		ID, Room string
		Depth    int64
	}
	depths := map[string]int64{}
	for _, e := range read(w.db, pgx.RowToStructByPos[event], `SELECT event_id, room_id, depth FROM aside.events ORDER BY depth DESC`) {
		depths[e.ID] = e.Depth
		r := w.byID[e.Room]
		if r == nil {
			r = &room{id: e.Room, depths: map[string]int64{}, at: map[int64]string{}}
			switch {
			case strings.HasPrefix(e.Room, "!deleted"):
				r.sort = deleted
			case strings.HasPrefix(e.Room, "!swept"):
				r.sort = swept
				r.cut = one[int64](w.db, `SELECT depth + 1 FROM aside.halves WHERE room_id = $1`, r.id)
			}
			w.byID[e.Room], w.rooms = r, append(w.rooms, r)
		}
		r.at[e.Depth] = e.ID
	}
	slices.SortFunc(w.rooms, func(a, b *room) int { return strings.Compare(a.id, b.id) })
	for _, r := range w.rooms {
		status, page := w.ask(w.t.Context(), w.apis[0], http.MethodGet, "/_synapse/admin/v1/rooms/"+url.PathEscape(r.id)+"/messages?dir=b&limit=1000", nil)
		require.Equal(w.t, http.StatusOK, status, "%v", page)
		for _, event := range page["chunk"].([]any) {
			// A redaction is not shown without the event that it redacts.
			if event := event.(map[string]any); event["type"] != "m.room.redaction" {
				r.depths[event["event_id"].(string)] = depths[event["event_id"].(string)]
			}
		}
		require.Greater(w.t, len(r.depths), 50)
	}
}

// suffer lets the fleet work while the faults of the round meet it, and waits until all jobs
// have ended.
func (w *world) suffer(r round) {
	w.t.Helper()
	random := rand.New(rand.NewPCG(r.seed, 3))
	ctx, cancel := context.WithCancel(w.t.Context())
	watching, stopWatching := context.WithCancel(w.t.Context())
	defer stopWatching()
	defer cancel()
	var load, reads, faults sync.WaitGroup
	for range 2 {
		own := rand.New(rand.NewPCG(random.Uint64(), 4))
		load.Go(func() { w.load(ctx, own) })
	}
	for range 3 {
		own := rand.New(rand.NewPCG(random.Uint64(), 5))
		reads.Go(func() { w.read(watching, own) })
	}
	reads.Go(func() { w.watch(watching) })
	for _, f := range r.faults {
		w.pause(f.after)
		faults.Go(func() {
			i := slices.IndexFunc(kinds, func(kind faultKind) bool { return kind.name == f.kind })
			w.report.met(f.kind)
			if err := kinds[i].do(w, f); err != nil && w.t.Context().Err() == nil {
				w.report.violation("the fault %q cannot be made: %v", f.kind, err)
			}
		})
	}
	faults.Wait()
	w.pause(time.Second)
	cancel()
	load.Wait()
	quiet := time.Now()
	for _, r := range w.rooms {
		w.eventually(30*time.Second, "the hold of "+r.id+" cannot be lifted", func() bool { return w.lift(w.t.Context(), w.apis[0], r) })
	}
	until := one[time.Time](w.db, `SELECT clock_timestamp()`)
	w.eventually(endTime, "jobs have not ended", func() bool {
		return one[int](w.db, `SELECT count(*) FROM lethe.jobs WHERE ended_at IS NULL AND created_at < $1`, until) == 0
	})
	w.report.set(func(r *report) {
		r.Counts["slowest end after the last fault, in ms"] = max(r.Counts["slowest end after the last fault, in ms"], int(time.Since(quiet).Milliseconds()))
	})
	require.NoError(w.t, w.look(w.t.Context()))
	stopWatching()
	reads.Wait()
	w.ready()
}

// verify compares what is left with the jobs and with a run without faults.
func (w *world) verify(want map[string]map[string]string) {
	w.t.Helper()
	w.verifyJobs()
	for _, r := range w.rooms {
		for i, api := range w.apis {
			if !w.readRoom(w.t.Context(), api, r) {
				w.report.violation("api %d does not answer with a page of %s", i, r.id)
			}
		}
	}
	w.finish()
	w.require(want)
	w.verifyNothingIsLeft()
}

func (w *world) verifyJobs() {
	w.t.Helper()
	states := map[string]string{}
	for _, job := range read(w.db, pgx.RowToStructByPos[row], selectJobs) {
		states[job.ID] = job.State
		if job.State == "complete" || job.State == "cancelled" {
			w.report.count("jobs that ended " + job.State)
		}
		switch {
		case job.State == "complete" || job.State == "cancelled" && w.cancels[job.ID]:
		case job.State == "queued" || job.State == "running" || job.State == "absorbed":
			// A scheduler has just made the sweep, or the sweep this purge: others have ended.
			if r := w.byID[job.Room]; r != nil && r.sort != swept {
				w.report.violation("the job %+v has not ended", job)
			}
		default:
			w.report.violation("the job %+v has no cause for its end", job)
		}
	}
	for _, id := range w.ids {
		if states[id] == "" {
			w.report.violation("the job %s was accepted and is lost", id)
		}
	}
}

// finish has the quiet fleet do what was cancelled or refused: afterwards the history of each
// room is purged up to its last cut, and each room that has to be deleted is.
func (w *world) finish() {
	w.t.Helper()
	w.db.exec(`DROP TRIGGER lengthen ON lethe.jobs`)
	begun := one[time.Time](w.db, `SELECT clock_timestamp()`)
	var ids []string
	for _, r := range w.rooms {
		var status int
		var answer map[string]any
		switch v := r.view(); {
		case r.sort == deleted && !v.gone:
			status, answer = w.ask(w.t.Context(), w.apis[0], http.MethodDelete, "/_synapse/admin/v2/rooms/"+url.PathEscape(r.id), map[string]any{})
		case r.sort == purged && v.floor < lastCut:
			status, answer = w.ask(w.t.Context(), w.apis[0], http.MethodPost, "/_synapse/admin/v1/purge_history/"+url.PathEscape(r.id),
				map[string]any{"purge_up_to_event_id": r.at[lastCut], "delete_local_events": true})
		default:
			continue
		}
		require.Equal(w.t, http.StatusOK, status, "%s: %v", r.id, answer)
		id, _ := cmp.Or(answer["purge_id"], answer["delete_id"]).(string)
		ids = append(ids, id)
	}
	w.eventually(endTime, "jobs of the quiet fleet have not ended", func() bool {
		return one[int](w.db, `SELECT count(*) FROM lethe.jobs WHERE id = ANY ($1) AND ended_at IS NOT NULL`, ids) == len(ids)
	})
	w.eventually(endTime, "no sweep of the quiet fleet is complete", func() bool {
		return one[bool](w.db, `
			SELECT count(*) FILTER (WHERE kind = 'retention_sweep' AND state = 'complete' AND created_at > $1) > 0
			   AND count(*) FILTER (WHERE kind <> 'retention_sweep' AND ended_at IS NULL) = 0
			FROM lethe.jobs`, begun)
	})
	for _, job := range read(w.db, pgx.RowToStructByPos[row], selectJobs+` WHERE id = ANY ($1) AND state <> 'complete'`, ids) {
		w.report.violation("the job %+v of the quiet fleet", job)
	}
}

// lastCut is the depth up to which every purged room is purged in the end.
const lastCut = 190

// require compares the rooms with what they are without faults. What is left of a deleted
// room has ids of the events with which its users have left.
func (w *world) require(want map[string]map[string]string) {
	w.t.Helper()
	got := contents(w.db)
	for _, table := range slices.Sorted(maps.Keys(want)) {
		for _, r := range w.rooms {
			got, want := got[table][r.id], want[table][r.id]
			if r.sort == deleted {
				got, _, _ = strings.Cut(got, " ")
				want, _, _ = strings.Cut(want, " ")
			}
			if got != want {
				w.report.violation("%s differs in %s: %q, and %q without faults", r.id, table, got, want)
			}
		}
	}
}

// contents returns a digest of each room's rows of each table of the homeserver, by table
// and room.
func contents(db *database) map[string]map[string]string {
	db.t.Helper()
	all := map[string]map[string]string{}
	type table struct {
		Name   string
		ByRoom bool
	}
	type digest struct{ Room, Digest string }
	for _, of := range read(db, pgx.RowToStructByPos[table], `
		SELECT c.relname::text, bool_or(a.attname = 'room_id')
		FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid
		WHERE c.relnamespace = 'public'::regnamespace AND c.relkind = 'r' AND a.attname IN ('room_id', 'event_id') AND NOT a.attisdropped
		GROUP BY 1`) {
		name := pgx.Identifier{of.Name}.Sanitize()
		sql := `SELECT room_id, count(*) || ' rows ' || md5(string_agg(t::text, E'\n' ORDER BY t::text COLLATE "C")) FROM ` + name + ` t WHERE room_id IS NOT NULL GROUP BY 1`
		if !of.ByRoom {
			sql = `SELECT e.room_id, count(*) || ' rows ' || md5(string_agg(t::text, E'\n' ORDER BY t::text COLLATE "C")) FROM ` + name + ` t JOIN aside.events e USING (event_id) GROUP BY 1`
		}
		all[of.Name] = map[string]string{}
		for _, d := range read(db, pgx.RowToStructByPos[digest], sql) {
			all[of.Name][d.Room] = d.Digest
		}
	}
	return all
}

// reference is what a small fleet makes of the rooms without faults.
func reference(t *testing.T, db *database, r *report) map[string]map[string]string {
	t.Helper()
	var want map[string]map[string]string
	require.True(t, t.Run("without faults", func(t *testing.T) {
		w := newFleet(t, db, r, newRedisFleet(t, redisKinds[0]), "reference", map[string]int{"api": 1, "worker": 1, "scheduler": 1})
		w.finish()
		require.True(t, one[bool](db, `
			SELECT count(DISTINCT room_id) = (SELECT count(*) FROM aside.halves) FROM lethe.jobs WHERE queue = 'low' AND kind = 'purge_history'`))
		want = contents(db)
		for _, room := range w.rooms {
			require.Equal(t, room.sort == deleted, want["events"][room.id] == "", room.id)
		}
	}))
	return want
}

// verifyNothingIsLeft ends the fleet, and compares what its processes and the servers have
// with a fleet that has just started.
func (w *world) verifyNothingIsLeft() {
	w.t.Helper()
	w.client.CloseIdleConnections()
	w.eventually(90*time.Second, "silent connections are still open", func() bool {
		_, silent := w.db.proxy.count()
		return silent == 0
	})
	w.eventually(time.Minute, "sessions are in a transaction for a long time", func() bool {
		return one[int](w.db, `
			SELECT count(*) FROM pg_stat_activity WHERE usename LIKE 'lethe\_%' AND xact_start < now() - interval '10 seconds'`) == 0
	})
	w.eventually(30*time.Second, "PostgreSQL has sessions without a client", func() bool {
		open, _ := w.db.proxy.count()
		return one[int](w.db, `SELECT count(*) FROM pg_stat_activity WHERE usename LIKE 'lethe\_%'`) <= open
	})
	fresh := map[string]*process{}
	for _, kind := range processKinds {
		fresh[kind] = w.start(kind, 1)[0]
	}
	for _, kind := range processKinds {
		w.eventually(time.Minute, "a new "+kind+" does not listen", func() bool { return fresh[kind].at() != "" })
	}
	w.pause(2 * time.Second)
	for _, kind := range processKinds {
		sessions := one[int](w.db, `SELECT count(*) FROM pg_stat_activity WHERE usename = $1`, roleOf(kind))
		if limit := (len(w.processes(kind)) + 1) * (10 + 1); sessions > limit {
			w.report.violation("processes of the kind %s have %d sessions, and %d at most are theirs", kind, sessions, limit)
		}
		base := fresh[kind].dissect(w.t)
		for _, p := range w.processes(kind) {
			const more = 12 // of pools and connections that a new process does not have yet
			got := p.dissect(w.t)
			w.report.set(func(r *report) {
				what := "most goroutines more than a new " + kind
				r.Counts[what] = max(r.Counts[what], sum(got)-sum(base))
			})
			if sum(got) > sum(base)+more {
				w.report.violation("%s has %d goroutines, and a new one %d: %v", kind, sum(got), sum(base), beyond(got, base))
			}
		}
	}
	w.eventually(20*time.Second, "sessions outlive their processes", func() bool {
		return one[int](w.db, `SELECT count(*) FROM pg_stat_activity WHERE usename LIKE 'lethe\_%'`) == 0
	})
}

func sum(of map[string]int) (n int) {
	for _, some := range of {
		n += some
	}
	return n
}

// beyond returns what got has more than base.
func beyond(got, base map[string]int) map[string]int {
	more := map[string]int{}
	for key, n := range got {
		if n > base[key] {
			more[key] = n - base[key]
		}
	}
	return more
}
