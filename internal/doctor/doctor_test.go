package doctor

import (
	"bytes"
	"context"
	"log/slog"
	"math"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"lethe/internal/config"
	"lethe/internal/devstack/devstacktest"
	"lethe/internal/jobs"
	"lethe/internal/matrix"
	"lethe/internal/messages"
	"lethe/internal/redisdb"
	"lethe/internal/retention"
	"lethe/internal/roomgen"
	"lethe/internal/schema"
	"lethe/internal/store/admin"
	"lethe/internal/store/checkup"
	"lethe/internal/store/journal"
	"lethe/internal/store/migrate"
	"lethe/internal/store/postgres"
	"lethe/internal/store/purge"
	"lethe/internal/store/storetest"
	"lethe/internal/tasks"
)

func TestMain(m *testing.M) { devstacktest.Main(m) }

const serverName = "doctor.test"

// A ward is a database with two rooms, and how its superuser and a role that
// owns nothing reach it.
type ward struct {
	t     *testing.T
	ctx   context.Context
	url   string
	role  string
	conn  *pgx.Conn
	rooms []roomgen.Summary
}

func admit(t *testing.T, url string) *ward {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	t.Cleanup(cancel)
	conn, err := pgx.Connect(ctx, url)
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close(context.Background()) })
	w := &ward{t: t, ctx: ctx, url: url, conn: conn, role: "Doctor's " + jobs.NewID()}
	w.exec(`SET search_path = public`) // the role is called lethe, like a schema
	w.exec(`CREATE ROLE ` + pgx.Identifier{w.role}.Sanitize() + ` LOGIN`)
	w.exec(`REVOKE CREATE ON SCHEMA public FROM PUBLIC`) // before PostgreSQL 15 everyone has it
	for seed := range uint64(2) {
		room, err := roomgen.Generate(ctx, conn, roomgen.Room{Server: serverName, Seed: seed, StateEvery: 10})
		require.NoError(t, err)
		w.rooms = append(w.rooms, room)
	}
	return w
}

// onBoth runs check on an embedded database and on one of Synapse.
func onBoth(t *testing.T, check func(*testing.T, *ward)) {
	t.Helper()
	t.Run("embedded", func(t *testing.T) {
		t.Parallel()
		check(t, embedded(t))
	})
	t.Run("Synapse", func(t *testing.T) {
		t.Parallel()
		url := devstacktest.Restored(t, devstacktest.Shared(t, "fixtures", "synapse-1.160-corpus.dump"))
		require.NoError(t, migrate.Up(t.Context(), url))
		check(t, admit(t, url))
	})
}

func embedded(t *testing.T) *ward {
	t.Helper()
	return admit(t, devstacktest.Database(t, "embedded", migrate.UpEmbedded))
}

func (w *ward) exec(sql ...string) {
	w.t.Helper()
	for _, sql := range sql {
		_, err := w.conn.Exec(w.ctx, sql)
		require.NoError(w.t, err)
	}
}

// plainURL is that of the role.
func (w *ward) plainURL() string {
	u, err := url.Parse(w.url)
	require.NoError(w.t, err)
	u.User = url.User(w.role)
	return u.String()
}

func examineAs(w *ward, url string, change ...func(*config.Config)) Report {
	settings := config.Default()
	settings.Database.URL, settings.ServerName, settings.SynapseBeside = config.Secret(url), serverName, "false"
	for _, change := range change {
		change(&settings)
	}
	return Examine(w.ctx, settings, checkup.Role{Processes: Processes()})
}

// finding returns what the report says about something, once.
func finding(t *testing.T, report Report, about string) Finding {
	t.Helper()
	var found []Finding
	for _, f := range report {
		if f.About == about {
			found = append(found, f)
		}
	}
	require.Len(t, found, 1, "%v", report)
	return found[0]
}

// purge has an api and a worker of the role purge a room and then delete it, and
// returns why references were checked row by row.
func (w *ward) purge(room roomgen.Summary) string {
	w.t.Helper()
	db, err := postgres.Open(w.ctx, w.plainURL(), postgres.Options{})
	require.NoError(w.t, err)
	defer db.Close()
	queries := admin.New(db)
	catalog, err := purge.New(db, purge.Options{}).HistoryCatalog(w.ctx)
	require.NoError(w.t, err)

	_, err = queries.Requester(w.ctx, "nobody's", true)
	require.ErrorIs(w.t, err, postgres.ErrNotFound)
	_, err = queries.TokenAtTimestamp(w.ctx, room.Room, math.MaxInt64)
	require.NoError(w.t, err)
	_, token, err := queries.EventPosition(w.ctx, room.Middle)
	require.NoError(w.t, err)
	server := devstacktest.Redis(w.t)
	client, err := redisdb.Open(server.URL())
	require.NoError(w.t, err)
	defer client.Close()
	log := slog.New(slog.DiscardHandler)
	deployment, err := migrate.Deployment(w.ctx, db)
	require.NoError(w.t, err)
	names := redisdb.NamesOf(deployment)
	board := jobs.NewBoard(db, client, time.Hour, log).In(names)
	submit := tasks.NewClient(db, client, names, log)
	id, err := submit.SubmitPurgeHistory(w.ctx,
		tasks.PurgeHistory{Room: room.Room, Token: token, DeleteLocalEvents: true, Requester: "@a:b"})
	require.NoError(w.t, err)
	_, _, err = queries.Rooms(w.ctx, admin.RoomList{Order: "name", Limit: 10})
	require.NoError(w.t, err)
	_, err = queries.RoomDetails(w.ctx, room.Room)
	require.NoError(w.t, err)
	key := filepath.Join(w.t.TempDir(), "signing.key")
	require.NoError(w.t, os.WriteFile(key, []byte(matrix.GenerateSigningKey()), 0o600))

	worker := exec.CommandContext(w.ctx, filepath.Join(devstacktest.Binaries(w.t), "worker"))
	worker.Env = []string{
		"LETHE_DATABASE_URL=" + w.plainURL(), "LETHE_REDIS_URL=" + server.URL(), "LETHE_SERVER_NAME=" + serverName,
		"LETHE_SIGNING_KEY_FILE=" + key, "LETHE_SYNAPSE_BESIDE=false", "LETHE_WORKER_LISTEN=",
	}
	require.NoError(w.t, worker.Start())
	defer func() {
		_ = worker.Process.Signal(syscall.SIGTERM)
		_ = worker.Wait()
	}()
	completes := func(kind journal.Kind, id string) {
		var status jobs.Status
		require.Eventually(w.t, func() bool {
			var err error
			status, err = board.Status(w.ctx, kind, id)
			return err == nil && status.State.Ended()
		}, time.Minute, 20*time.Millisecond)
		require.Equal(w.t, journal.Complete, status.State, status.Error)
	}
	completes(jobs.PurgeHistory, id)
	w.exec(`UPDATE federation_stream_position SET stream_id = 1000000000 WHERE type = 'events'`) // other servers are told at once
	id, err = submit.SubmitDeleteRoom(w.ctx, tasks.DeleteRoom{
		Room: room.Room, Requester: "@a:b", NewRoomUser: room.Creator, RoomName: "n", Message: "m", Block: true, Purge: true,
	})
	require.NoError(w.t, err)
	completes(jobs.DeleteRoom, id)
	return catalog.RowWise()
}

// What is printed is all that it takes, for the checked path and for the fast.
func TestTheGrantsAreEnough(t *testing.T) {
	t.Parallel()
	check := func(t *testing.T, w *ward) {
		w.exec(
			`REVOKE TEMPORARY ON DATABASE `+pgx.Identifier{w.conn.Config().Database}.Sanitize()+` FROM PUBLIC`,
			`REVOKE CREATE ON SCHEMA public FROM PUBLIC`)
		report := examineAs(w, w.plainURL())
		require.False(t, report.Healthy())
		lacking := finding(t, report, "privileges")
		require.Equal(t, Mend, lacking.Verdict)
		role := pgx.Identifier{w.role}.Sanitize()
		require.Contains(t, lacking.Do, `GRANT SELECT, DELETE ON event_relations TO `+role+`;`)
		require.Equal(t, "not checked, because the role lacks privileges", finding(t, report, "schema").Says)

		w.exec(lacking.Do...)
		report = examineAs(w, w.plainURL())
		require.True(t, report.Healthy(), "%v", report)
		require.Equal(t, OK, finding(t, report, "privileges").Verdict)
		speed := finding(t, report, "speed")
		require.Equal(t, Advice, speed.Verdict)
		require.Contains(t, speed.Says, "session_replication_role")
		require.NotEmpty(t, w.purge(w.rooms[0]), "it is done row by row")

		if storetest.RowWise(t, w.conn) != "" {
			require.Empty(t, speed.Do, "before PostgreSQL 15 it cannot be granted")
			w.readPages()
			w.hold()
			return
		}
		require.Contains(t, speed.Do, `GRANT SET ON PARAMETER session_replication_role TO `+role+`;`)
		w.exec(speed.Do[0])
		if len(speed.Do) > 1 {
			half := finding(t, examineAs(w, w.plainURL()), "speed")
			require.Equal(t, Mend, half.Verdict, "with half of them a purge would fail")
			require.Equal(t, speed.Do[1:], half.Do)
		}
		w.exec(speed.Do...)
		report = examineAs(w, w.plainURL())
		require.Equal(t, OK, finding(t, report, "speed").Verdict)
		w.mendWAL(report, w.plainURL(), role)
		require.Empty(t, w.purge(w.rooms[1]), "it is done at once")
		w.readPages()
		w.hold()
	}
	onBoth(t, check)
}

// readPages reads pages as the role, all of a room and what a member of it sees.
func (w *ward) readPages() {
	w.t.Helper()
	db, err := postgres.Open(w.ctx, w.plainURL(), postgres.Options{MaxConnections: 1})
	require.NoError(w.t, err)
	defer db.Close()
	var user, room string
	require.NoError(w.t, w.conn.QueryRow(w.ctx, `
		SELECT user_id, room_id FROM local_current_membership WHERE membership = 'join' LIMIT 1`).Scan(&user, &room))
	from, err := matrix.ParsePageToken("m1000000~1.1000001") // asks for the names of writers
	require.NoError(w.t, err)
	month := int64(30 * 24 * time.Hour / time.Millisecond)
	pages := messages.New(db, messages.Options{
		Retention: retention.Config{Enabled: true, DefaultPolicy: retention.Policy{MaxLifetime: &month}},
	})
	for _, all := range []bool{true, false} {
		page, err := pages.Page(w.ctx, messages.Request{
			Room: room, Reader: messages.Reader{UserID: user, Admin: true}, All: all, Backwards: true, From: &from, Limit: 100,
		})
		require.NoError(w.t, err)
		require.NotEmpty(w.t, page.Chunk)
	}
}

// hold holds a room as the role, and releases it.
func (w *ward) hold() {
	w.t.Helper()
	db, err := postgres.Open(w.ctx, w.plainURL(), postgres.Options{MaxConnections: 1})
	require.NoError(w.t, err)
	defer db.Close()
	holds := journal.NewHolds(db)
	_, err = holds.Place(w.ctx, w.rooms[0].Room, "why", "@admin:x")
	require.NoError(w.t, err)
	require.ErrorIs(w.t, holds.Check(w.ctx, w.rooms[0].Room), journal.ErrHeld)
	_, err = holds.Release(w.ctx, w.rooms[0].Room, "@admin:x")
	require.NoError(w.t, err)
	_, err = journal.New(db).ResumeHeld(w.ctx, 1)
	require.NoError(w.t, err)
}

func TestASuperuserNeedsNothing(t *testing.T) {
	t.Parallel()
	w := embedded(t)
	redis := devstacktest.Redis(t)
	report := examineAs(w, w.url, func(c *config.Config) { c.Redis.URL = config.Secret(redis.URL()) })
	require.True(t, report.Healthy())
	for _, f := range report {
		require.Equal(t, OK, f.Verdict, "%v", f)
		require.Empty(t, f.Do)
	}
}

func TestTheCommandSaysByItsStatusWhetherLetheCanWork(t *testing.T) {
	t.Parallel()
	w := embedded(t)
	lethe := filepath.Join(devstacktest.Binaries(t), "lethe")
	run := func(url string) ([]byte, error) {
		command := exec.CommandContext(w.ctx, lethe, "doctor")
		command.Env = []string{"LETHE_DATABASE_URL=" + url}
		return command.Output()
	}
	report, err := run(w.url)
	require.NoError(t, err)
	require.Regexp(t, `(?m)^ok      database    it answers$`, string(report))
	report, err = run(w.plainURL())
	var status *exec.ExitError
	require.ErrorAs(t, err, &status)
	require.Equal(t, 1, status.ExitCode())
	require.Regexp(t, `(?m)^MEND    privileges  .*:\n {20}GRANT `, string(report))
}

func TestIndexes(t *testing.T) {
	t.Parallel()
	w := embedded(t)
	w.exec(
		`DROP INDEX events_order_room`,
		`DROP INDEX ev_edges_prev_id`,
		`DROP INDEX room_memberships_stream_ordering_idx`,
		// A wider one serves, a partial one does not.
		`DROP INDEX evauth_edges_id`, `CREATE INDEX ON event_auth (event_id, auth_id)`,
		`DROP INDEX event_to_state_groups_sg_index`, `CREATE INDEX ON event_to_state_groups (state_group) WHERE state_group > 5`)
	require.NotContains(t, finding(t, examineAs(w, w.url), "indexes").Do,
		`CREATE INDEX CONCURRENTLY ON room_memberships (event_stream_ordering);`, "it is as small as an index")
	w.exec(`
		INSERT INTO room_memberships (event_id, user_id, sender, room_id, membership)
		SELECT i, 'user', 'sender', 'room', 'join' FROM generate_series(1, 20000) i`)
	report := examineAs(w, w.url)
	require.True(t, report.Healthy())
	lacking := finding(t, report, "indexes")
	require.Equal(t, Advice, lacking.Verdict)
	require.Equal(t, []string{
		`CREATE INDEX CONCURRENTLY ON event_edges (prev_event_id);`,
		`CREATE INDEX CONCURRENTLY ON event_to_state_groups (state_group);`,
		`CREATE INDEX CONCURRENTLY ON events (room_id, topological_ordering, stream_ordering);`,
		`CREATE INDEX CONCURRENTLY ON room_memberships (event_stream_ordering);`,
	}, lacking.Do)
	w.exec(lacking.Do...)
	require.Equal(t, OK, finding(t, examineAs(w, w.url), "indexes").Verdict)
}

func TestTables(t *testing.T) {
	t.Parallel()
	w := embedded(t)
	w.exec(`CREATE TABLE stars (about text REFERENCES events (event_id))`,
		`CREATE TABLE moons (about text REFERENCES events (event_id))`)
	var found []string
	for _, f := range examineAs(w, w.url) {
		if f.About == "tables" {
			require.Equal(t, Mend, f.Verdict)
			found = append(found, f.Says)
		}
	}
	require.Len(t, found, 2)
	require.Contains(t, found[0], "moons")
	require.Contains(t, found[1], "stars")
}

func TestSchema(t *testing.T) {
	t.Parallel()
	w := embedded(t)
	w.exec(`DROP SCHEMA lethe CASCADE`)
	report := examineAs(w, w.url)
	require.False(t, report.Healthy())
	require.Contains(t, finding(t, report, "schema").Says, "run `lethe migrate`")
}

func TestSettings(t *testing.T) {
	t.Parallel()
	w := embedded(t)
	report := examineAs(w, w.url, func(c *config.Config) { c.ServerName, c.SynapseBeside = "", "auto" })
	require.True(t, report.Healthy())
	for _, about := range []string{"server name", "redis"} {
		require.Equal(t, Advice, finding(t, report, about).Verdict, about)
		require.Contains(t, finding(t, report, about).Says, "set LETHE_", about)
	}
	report = examineAs(w, w.url, func(c *config.Config) { c.ServerName = "elsewhere.test" })
	require.Equal(t, Mend, finding(t, report, "server name").Verdict)
}

func TestServers(t *testing.T) {
	t.Parallel()
	w := embedded(t)
	var masters []config.Secret
	for range 3 {
		masters = append(masters, config.Secret(devstacktest.Redis(t).URL()))
	}
	evicting := devstacktest.Redis(t)
	options, err := redis.ParseURL(evicting.URL())
	require.NoError(t, err)
	client := redis.NewClient(options)
	defer client.Close()
	require.NoError(t, client.ConfigSet(w.ctx, "maxmemory-policy", "allkeys-lru").Err())

	report := examineAs(w, w.url, func(c *config.Config) {
		c.Redis.URL, c.Lock.RedisURLs = config.Secret(evicting.URL()), masters
	})
	require.Equal(t, Mend, finding(t, report, "redis").Verdict)
	require.Contains(t, finding(t, report, "redis").Says, "noeviction")
	require.Equal(t, OK, finding(t, report, "locks").Verdict)

	away := strings.Replace(w.url, "//lethe@", "//lethe:verysecret@", 1)
	away = strings.Replace(away, w.conn.Config().Database, "nowhere", 1)
	report = examineAs(w, away, func(c *config.Config) { c.Redis.URL = "redis://u:verysecret@127.0.0.1:1/0" })
	require.Equal(t, Mend, finding(t, report, "database").Verdict)
	require.Equal(t, Mend, finding(t, report, "redis").Verdict)
	var printed bytes.Buffer
	require.NoError(t, report.Print(&printed))
	require.Contains(t, printed.String(), "nowhere")
	require.NotContains(t, printed.String(), "verysecret")
}

func TestFederation(t *testing.T) {
	t.Parallel()
	w := embedded(t)
	about := func() (found []Finding) {
		for _, f := range examineAs(w, w.url) {
			if f.About == "federation" {
				found = append(found, f)
			}
		}
		return found
	}
	require.Empty(t, about())
	w.exec(`INSERT INTO federation_stream_position VALUES ('federation', 9999, 'a'), ('events', 9999, 'a'), ('events', 41, 'b')`,
		`INSERT INTO lethe.jobs (id, kind, room_id, parameters, requester, checkpoint)
		 SELECT repeat(chr(n), 16), 'delete_room', '!' || n, '{}', 'x', jsonb_build_object('phase', 'shutting_down', 'leaves_at', n - 23)
		 FROM generate_series(65, 70) n`)
	found := about()
	require.Len(t, found, 1)
	require.Equal(t, Advice, found[0].Verdict)
	require.Contains(t, found[0].Says, "6 deletes wait")
	require.Contains(t, found[0].Says, "federation_stream_position is 41 and must reach 47")
	require.Contains(t, found[0].Says, "force_purge")
	w.exec(found[0].Do...) // it is a statement that works

	w.exec(`UPDATE federation_stream_position SET stream_id = 47 WHERE instance_name = 'b'`)
	require.Empty(t, about())
}

// The role must be able to delete from the tables that the operator's rules name.
func TestRulesNeedGrants(t *testing.T) {
	t.Parallel()
	w := embedded(t)
	w.exec(`CREATE TABLE public.event_reports (id bigint, room_id text, event_id text)`)
	grant := `GRANT SELECT, DELETE ON event_reports TO ` + pgx.Identifier{w.role}.Sanitize() + `;`
	about := func(rules schema.Rules) []string {
		return finding(t, examineAs(w, w.plainURL(), func(c *config.Config) { c.Tables = rules }), "privileges").Do
	}
	require.NotContains(t, about(nil), grant)
	require.NotContains(t, about(schema.Rules{"event_reports": schema.Keep}), grant)
	require.Contains(t, about(schema.Rules{"event_reports": schema.DeleteByEvent}), grant)
	require.Contains(t, about(schema.Rules{"event_reports": schema.DeleteByRoom, "room_reports": schema.DeleteByRoom}), grant)
}

// Neither Lethe's own sessions nor those of tools are a homeserver's, and a single
// session does not count.
func TestHomeserverAtWork(t *testing.T) {
	t.Parallel()
	w := embedded(t)
	w.exec(`DROP TABLE lethe.migrations_embedded`) // as if Synapse had made the tables
	connect := func(name string) {
		config, err := pgx.ParseConfig(w.url)
		require.NoError(t, err)
		config.RuntimeParams["application_name"] = name
		conn, err := pgx.ConnectConfig(w.ctx, config)
		require.NoError(t, err)
		t.Cleanup(func() { _ = conn.Close(context.Background()) })
	}
	about := func() Finding {
		report := examineAs(w, w.url)
		i := slices.IndexFunc(report, func(f Finding) bool { return f.About == "beside" })
		require.NotEqual(t, -1, i)
		return report[i]
	}
	for _, name := range []string{"lethe worker", "lethe worker heartbeat", "pg_dump", "pg_dump", "psql", "psql"} {
		connect(name)
	}
	require.Equal(t, OK, about().Verdict)
	w.exec(`CREATE TABLE public.worker_locks (lock_name text, instance_name text, last_renewed_ts bigint)`,
		`INSERT INTO public.worker_locks VALUES ('a', 'b', extract(epoch FROM now()) * 1000 - 200000)`)
	require.Equal(t, OK, about().Verdict)
	w.exec(`UPDATE public.worker_locks SET last_renewed_ts = extract(epoch FROM now()) * 1000 - 20000`)
	require.Equal(t, Mend, about().Verdict)
	require.Contains(t, about().Says, "1 of its locks is fresh")
	w.exec(`DROP TABLE public.worker_locks`)

	connect("") // besides that of the test
	require.Equal(t, Mend, about().Verdict)
	require.Contains(t, about().Says, "has 2 sessions that are not Lethe's: stop it, or set synapse_beside to auto")
}

func TestSequenceOfEventsBehindTheTable(t *testing.T) {
	t.Parallel()
	w := embedded(t)
	w.exec(`CREATE SEQUENCE IF NOT EXISTS events_stream_seq`, `SELECT setval('events_stream_seq', 999)`)
	look := func() Finding { return finding(t, examineAs(w, w.url), "stream") }
	require.Equal(t, OK, look().Verdict, look().Says)
	w.exec(`
		INSERT INTO events (event_id, room_id, type, topological_ordering, depth, stream_ordering, processed, outlier, sender)
		VALUES ('$e', '!r:x', 't', 1, 1, 1000, true, false, '@u:x')`)
	found := look()
	require.Equal(t, Mend, found.Verdict)
	require.Contains(t, found.Says, "at 999, but events have numbers up to 1000")
	w.exec(found.Do...)
	require.Equal(t, OK, look().Verdict)
}
