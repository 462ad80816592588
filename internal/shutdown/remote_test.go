package shutdown_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"lethe/internal/devstack/devstacktest"
	"lethe/internal/homeserver"
	"lethe/internal/jobs"
	"lethe/internal/schema"
	"lethe/internal/shutdown"
	"lethe/internal/store/journal"
	"lethe/internal/store/migrate"
	"lethe/internal/store/postgres"
	"lethe/internal/store/roomwriter"
	"lethe/internal/store/storetest"
)

const (
	asToken = "as-secret"
	oldRoom = "!old/1:x"
	newRoom = "!new:x"
)

// A town is a homeserver that knows only the requests that a shutdown makes, and
// takes them only as they have to be.
type town struct {
	t      *testing.T
	server *httptest.Server
	conn   *pgx.Conn

	// before, unless nil, sees a request first, as "PUT /path @user", and may
	// answer it in the town's place.
	before func(w http.ResponseWriter, request string) (answered bool)

	// after, unless nil, is called when a request has had its effect.
	after func()

	mu       sync.Mutex
	requests []string
	aliases  map[string]string
	members  map[string]map[string]string // by room and user
	messages map[string]string            // by transaction
	blocked  map[string]string
	rooms    int
}

// A remoteLab is a Remote on a town, and a job of the old room.
type remoteLab struct {
	*town
	ctx    context.Context
	store  *postgres.DB
	remote driver
	batch  storetest.Work
}

func setupRemote(t *testing.T) *remoteLab {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	database := devstacktest.Database(t, "embedded", migrate.UpEmbedded)
	conn, err := pgx.Connect(ctx, database)
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close(context.Background()) })
	db, err := postgres.Open(ctx, storetest.AsKnownColumns(t, database, schema.Worker), postgres.Options{})
	require.NoError(t, err)
	t.Cleanup(db.Close)
	town := &town{
		t: t, conn: conn, aliases: map[string]string{}, messages: map[string]string{}, blocked: map[string]string{},
		members: map[string]map[string]string{oldRoom: {}, newRoom: {}},
	}
	town.server = httptest.NewServer(town)
	t.Cleanup(town.server.Close)
	return &remoteLab{
		town: town, ctx: ctx, store: db, batch: begin(t, ctx, db, oldRoom),
		remote: remoteOf(t, db, town.server.URL, homeserver.Options{MostWait: time.Second, Timeout: 10 * time.Second}),
	}
}

func remoteOf(t *testing.T, db *postgres.DB, url string, options homeserver.Options) driver {
	t.Helper()
	client, err := homeserver.New(url, options)
	require.NoError(t, err)
	t.Cleanup(client.Close)
	return drive(db, shutdown.NewRemote(db, shutdown.RemoteOptions{Homeserver: client.Service(asToken), Parallel: 4}))
}

// begin makes a job of the room and what its batches need.
func begin(t tester, ctx context.Context, db *postgres.DB, room string) storetest.Work {
	t.Helper()
	j := journal.New(db)
	wanted := storetest.NewJob(jobs.NewID(), room)
	wanted.Kind = jobs.DeleteRoom
	require.NoError(t, j.InsertJob(ctx, wanted, false))
	job, err := j.ClaimJob(ctx, wanted.ID, 1, jobs.HeartbeatStale, 0)
	require.NoError(t, err)
	fence, err := j.NextFence(ctx, room)
	require.NoError(t, err)
	return storetest.Work{Run: storetest.RunOf(job), RoomLock: journal.RoomLock{Room: room, Fence: fence, Lease: time.Minute}}
}

// outcome is what the last step wrote to the job's row.
func (l *remoteLab) outcome() stepOutcome {
	l.t.Helper()
	job, err := journal.New(l.store).Job(l.ctx, l.batch.Run.JobID)
	require.NoError(l.t, err)
	var o stepOutcome
	require.NoError(l.t, json.Unmarshal(job.Checkpoint, &o))
	return o
}

func (l *remoteLab) exec(sql string, args ...any) {
	l.t.Helper()
	_, err := l.conn.Exec(l.ctx, sql, args...)
	require.NoError(l.t, err)
}

// alias makes an alias of the old room.
func (l *remoteLab) alias(names ...string) {
	l.t.Helper()
	for _, name := range names {
		l.exec(`INSERT INTO room_aliases (room_alias, room_id) VALUES ($1, $2)`, name, oldRoom)
		l.aliases[name] = oldRoom
	}
}

func (s *town) setBefore(before func(w http.ResponseWriter, request string) bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.before = before
}

func (s *town) setAfter(after func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.after = after
}

// see returns what is in one of the town's maps.
func (s *town) see(m map[string]string) map[string]string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return maps.Clone(m)
}

// taken returns the requests since the last call.
func (s *town) taken() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	requests := s.requests
	s.requests = nil
	return requests
}

func refuse(w http.ResponseWriter, status int, code string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = fmt.Fprintf(w, `{"errcode":%q,"error":"no"}`, code)
}

// ServeHTTP implements http.Handler.
func (s *town) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	user := r.URL.Query().Get("user_id")
	name := r.Method + " " + strings.TrimPrefix(r.URL.EscapedPath(), "/_matrix/client/v3") + " " + user
	s.mu.Lock()
	s.requests = append(s.requests, name)
	before, after := s.before, s.after
	s.mu.Unlock()
	if before != nil && before(w, name) {
		return
	}
	if r.URL.Path == "/_matrix/client/versions" {
		_, _ = io.WriteString(w, `{"versions":[]}`)
		return
	}
	if r.Header.Get("Authorization") != "Bearer "+asToken {
		refuse(w, 401, "M_UNKNOWN_TOKEN")
		return
	}
	body := map[string]any{}
	if r.Method != "GET" && r.Method != "DELETE" {
		if r.Header.Get("Content-Type") != "application/json" || json.NewDecoder(r.Body).Decode(&body) != nil {
			refuse(w, 400, "M_NOT_JSON")
			return
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	var path []string
	for segment := range strings.SplitSeq(strings.Trim(r.URL.EscapedPath(), "/"), "/") {
		decoded, err := url.PathUnescape(segment)
		if err != nil {
			s.t.Error(err)
		}
		path = append(path, decoded)
	}
	answer := map[string]any{}
	what := r.Method + " " + path[len(path)-1]
	if len(path) > 4 {
		what = r.Method + " " + path[3]
	}
	switch {
	case what == "POST createRoom":
		s.rooms++
		answer["room_id"] = fmt.Sprintf("!new%d:x", s.rooms)
		s.write(answer["room_id"].(string), user, body)
	case what == "POST join":
		s.members[path[4]][user] = "join"
		answer["room_id"] = path[4]
	case what == "POST rooms" && path[5] == "leave":
		if _, there := s.members[path[4]][user]; !there {
			refuse(w, 403, "M_FORBIDDEN")
			return
		}
		s.members[path[4]][user] = "leave"
	case what == "POST rooms" && path[5] == "forget":
		if m := s.members[path[4]][user]; m != "leave" && m != "forgotten" {
			refuse(w, 400, "M_UNKNOWN")
			return
		}
		s.members[path[4]][user] = "forgotten"
	case what == "PUT rooms" && path[2] == "v3" && path[5] == "send" && path[6] == "m.room.message":
		s.messages[path[7]] += user + " " + body["msgtype"].(string) + " " + body["body"].(string)
		answer["event_id"] = "$e"
		event, _ := json.Marshal(map[string]any{"content": body})
		for sql, args := range map[string][]any{
			`INSERT INTO events (event_id, room_id, sender, type, topological_ordering, depth, stream_ordering, processed, outlier)
			 VALUES ('$e', $1, $2, 'm.room.message', 1, 1, nextval('events_stream_seq'), true, false)`: {path[4], user},
			`INSERT INTO event_json (event_id, room_id, internal_metadata, json) VALUES ('$e', $1, '{}', $2)`: {path[4], string(event)},
		} {
			if _, err := s.conn.Exec(context.WithoutCancel(r.Context()), sql, args...); err != nil {
				s.t.Error(err)
			}
		}
	case what == "PUT rooms" && path[0] == "_synapse" && path[5] == "block" && body["block"] == true:
		s.blocked[path[4]] = user
	case path[3] == "directory":
		alias := path[5]
		leadsTo, there := s.aliases[alias]
		switch {
		case r.Method == "GET" && there:
			answer["room_id"] = leadsTo
		case r.Method == "GET":
			refuse(w, 404, "M_NOT_FOUND")
			return
		case r.Method == "DELETE":
			delete(s.aliases, alias)
			if _, err := s.conn.Exec(context.WithoutCancel(r.Context()), `DELETE FROM room_aliases WHERE room_alias = $1`, alias); err != nil {
				s.t.Error(err)
			}
		case there:
			refuse(w, 409, "M_UNKNOWN")
			return
		default:
			s.aliases[alias] = body["room_id"].(string)
		}
	default:
		s.t.Errorf("unexpected request %s", name)
		refuse(w, 404, "M_UNRECOGNIZED")
		return
	}
	if after != nil {
		after()
	}
	_ = json.NewEncoder(w).Encode(answer)
}

// write makes a room's rows.
func (s *town) write(room, creator string, request map[string]any) {
	content := map[string]any{"creator": creator}
	for key, value := range request["creation_content"].(map[string]any) {
		content[key] = value
	}
	event, _ := json.Marshal(map[string]any{"content": content})
	for _, sql := range []string{
		`INSERT INTO rooms (room_id, creator) VALUES ($1, $2)`,
		`INSERT INTO events (event_id, room_id, type, topological_ordering, depth, stream_ordering, processed, outlier, received_ts)
		 SELECT $1 || $2 || s, $1, 't', 1, 1, nextval('events_stream_seq'), true, false, extract(epoch FROM now()) * 1000
		 FROM unnest('{1,2}'::text[]) s`,
		`INSERT INTO current_state_events (event_id, room_id, type, state_key)
		 VALUES ($1 || $2 || 1, $1, 'm.room.create', ''), ($1 || $2 || 2, $1, 'm.room.join_rules', '')`,
	} {
		if _, err := s.conn.Exec(context.Background(), sql, room, creator); err != nil {
			s.t.Error(err)
		}
	}
	if _, err := s.conn.Exec(context.Background(), `
		INSERT INTO event_json (event_id, room_id, internal_metadata, json) VALUES ($1 || $2 || 1, $1, '{}', $3)`,
		room, creator, string(event)); err != nil {
		s.t.Error(err)
	}
}

func TestRemoteBlocks(t *testing.T) {
	t.Parallel()
	l := setupRemote(t)
	for range 2 {
		require.NoError(t, l.remote.Block(l.ctx, l.batch, "@admin:x"))
	}
	require.Equal(t, map[string]string{oldRoom: "@admin:x"}, l.see(l.blocked))
	require.Equal(t, "PUT /_synapse/admin/v1/rooms/%21old%2F1:x/block @admin:x", strings.Replace(l.taken()[0], "!", "%21", 1))
}

func TestRemoteCreatesOneRoom(t *testing.T) {
	t.Parallel()
	l := setupRemote(t)
	room := shutdown.NewRoom{JobID: l.batch.Run.JobID, Creator: "@owner:x", Name: "Moved"}
	lost := l.batch
	lost.Fence--
	require.ErrorIs(t, errOf(l.remote.CreateRoom(l.ctx, lost, room)), journal.ErrFenced, "it was made, and not recorded")
	for range 2 {
		require.NoError(t, errOf(l.remote.CreateRoom(l.ctx, l.batch, room)))
		require.Equal(t, "!new1:x", l.outcome().NewRoom)
	}
	require.Equal(t, []string{"POST /createRoom @owner:x"}, l.taken())

	// While it lacks its join rules, it is awaited; another job's is another.
	l.exec(`DELETE FROM current_state_events WHERE type = 'm.room.join_rules'`)
	require.ErrorIs(t, errOf(l.remote.CreateRoom(l.ctx, l.batch, room)), shutdown.ErrHomeserver)
	require.Empty(t, l.taken())
	room.JobID = "another"
	require.NoError(t, errOf(l.remote.CreateRoom(l.ctx, l.batch, room)))
	require.Equal(t, "!new2:x", l.outcome().NewRoom)
}

// A room that may exist is searched for before it is made again.
func TestRemoteDoesNotRepeatCreateRoom(t *testing.T) {
	t.Parallel()
	l := setupRemote(t)
	room := shutdown.NewRoom{JobID: l.batch.Run.JobID, Creator: "@owner:x", Name: "Moved"}
	for name, before := range map[string]func(http.ResponseWriter){
		"cut":       func(http.ResponseWriter) { panic(http.ErrAbortHandler) },
		"500":       func(w http.ResponseWriter) { refuse(w, 500, "M_UNKNOWN") },
		"502":       func(w http.ResponseWriter) { w.WriteHeader(502) },
		"no id":     func(w http.ResponseWriter) { _, _ = io.WriteString(w, `{}`) },
		"no string": func(w http.ResponseWriter) { _, _ = io.WriteString(w, `{"room_id":1}`) },
		"no object": func(w http.ResponseWriter) { _, _ = io.WriteString(w, `null`) },
		"HTML":      func(w http.ResponseWriter) { _, _ = io.WriteString(w, `<html>`) },
		"redirect":  func(w http.ResponseWriter) { w.Header().Set("Location", "/"); w.WriteHeader(302) },
		"endless": func(w http.ResponseWriter) {
			for {
				if _, err := io.WriteString(w, strings.Repeat(" ", 1<<16)); err != nil {
					return
				}
			}
		},
	} {
		l.setBefore(func(w http.ResponseWriter, _ string) bool { before(w); return true })
		require.ErrorIs(t, errOf(l.remote.CreateRoom(l.ctx, l.batch, room)), shutdown.ErrHomeserver, name)
		require.Len(t, l.taken(), 1, name)
	}
	l.setBefore(func(w http.ResponseWriter, _ string) bool { refuse(w, 403, "M_FORBIDDEN"); return true })
	err := errOf(l.remote.CreateRoom(l.ctx, l.batch, room))
	require.EqualError(t, err, "create a room: 403 M_FORBIDDEN: no")
	require.NotErrorIs(t, err, shutdown.ErrHomeserver)
}

func TestRemoteRemovesUsers(t *testing.T) {
	t.Parallel()
	l := setupRemote(t)
	for _, user := range []string{"@a:x", "@b/?:x", "@c:x", "@invited:x"} {
		l.members[oldRoom][user] = "there"
	}
	var broken, limited atomic.Int32
	l.setBefore(func(w http.ResponseWriter, request string) bool {
		switch {
		case strings.HasPrefix(request, "POST /join") && strings.HasSuffix(request, " @c:x"):
			refuse(w, 403, "M_USER_SUSPENDED")
		case strings.HasSuffix(request, "leave @a:x") && broken.Add(1) == 1:
			refuse(w, 503, "M_UNKNOWN")
		case strings.HasSuffix(request, "leave @a:x") && broken.Load() == 2:
			panic(http.ErrAbortHandler)
		case strings.HasSuffix(request, "leave @invited:x") && limited.Add(1) == 1:
			w.Header().Set("Retry-After", "86400")
			w.WriteHeader(429)
			_, _ = io.WriteString(w, `{"errcode":"M_LIMIT_EXCEEDED","error":"later","retry_after_ms":20}`)
		case strings.HasSuffix(request, " @broken:x"):
			refuse(w, 500, "M_UNKNOWN")
		default:
			return false
		}
		return true
	})
	removal := shutdown.Removal{NewRoom: newRoom, Requester: "@admin:x", Members: []roomwriter.LocalMember{
		{UserID: "@a:x", Membership: "join"},
		{UserID: "@b/?:x", Membership: "join"},
		{UserID: "@c:x", Membership: "join"},
		{UserID: "@invited:x", Membership: "invite"},
		{UserID: "@stranger:x", Membership: "knock"},
		{UserID: "@broken:x", Membership: "join"},
	}}
	for range 2 {
		require.NoError(t, errOf(l.remote.RemoveUsers(l.ctx, l.batch, removal)))
		got := l.outcome()
		require.ElementsMatch(t, []string{"@a:x", "@b/?:x", "@invited:x"}, got.Removed)
		require.ElementsMatch(t, []string{"@c:x", "@stranger:x", "@broken:x"}, got.Failed)
		require.Equal(t, map[string]string{
			"@a:x": "forgotten", "@b/?:x": "forgotten", "@c:x": "forgotten", "@invited:x": "forgotten",
		}, l.see(l.members[oldRoom]))
		require.Equal(t, map[string]string{"@a:x": "join", "@b/?:x": "join"}, l.see(l.members[newRoom]))
	}

	// Without a new room no user joins one.
	l.taken()
	removal.NewRoom, removal.Members = "", removal.Members[:2]
	require.NoError(t, errOf(l.remote.RemoveUsers(l.ctx, l.batch, removal)))
	require.Len(t, l.taken(), 4)
}

func TestRemoteRemovesSomeAtATime(t *testing.T) {
	t.Parallel()
	l := setupRemote(t)
	var removal shutdown.Removal
	for i := range 12 {
		user := fmt.Sprintf("@u%d:x", i)
		l.members[oldRoom][user] = "there"
		removal.Members = append(removal.Members, roomwriter.LocalMember{UserID: user, Membership: "join"})
	}
	var at, most atomic.Int32
	four := make(chan struct{})
	l.setBefore(func(http.ResponseWriter, string) bool {
		now := at.Add(1)
		defer at.Add(-1)
		for {
			before := most.Load()
			if now <= before || most.CompareAndSwap(before, now) {
				break
			}
		}
		if now == 4 {
			select {
			case <-four:
			default:
				close(four)
			}
		}
		<-four // so that there is a moment with four
		return false
	})
	require.NoError(t, errOf(l.remote.RemoveUsers(l.ctx, l.batch, removal)))
	require.Len(t, l.outcome().Removed, 12)
	require.EqualValues(t, 4, most.Load())
}

// No user has failed if the homeserver is down.
func TestRemoteWithoutAHomeserver(t *testing.T) {
	t.Parallel()
	l := setupRemote(t)
	members := []roomwriter.LocalMember{{UserID: "@a:x", Membership: "join"}, {UserID: "@b:x", Membership: "join"}}
	steps := func(remote driver) map[string]error {
		return map[string]error{
			"block": remote.Block(l.ctx, l.batch, "@admin:x"),
			"create": errOf(remote.CreateRoom(l.ctx, l.batch,
				shutdown.NewRoom{JobID: l.batch.Run.JobID, Creator: "@a:x", Name: "n"})),
			"users": errOf(remote.RemoveUsers(l.ctx, l.batch, shutdown.Removal{Members: members})),
			"message": remote.SendMessage(l.ctx, l.batch,
				shutdown.Message{JobID: "j", NewRoom: newRoom, Sender: "@a:x", Body: "b"}),
			"aliases": errOf(remote.MoveAliases(l.ctx, l.batch,
				shutdown.AliasMove{NewRoom: newRoom, Owner: "@a:x", Known: []string{"#a:x"}})),
		}
	}
	requireAway := func(t *testing.T, errs map[string]error, why string) {
		for step, err := range errs {
			require.ErrorIs(t, err, shutdown.ErrHomeserver, step)
			require.ErrorContains(t, err, why, step)
			require.NotContains(t, err.Error(), asToken)
		}
		job, err := journal.New(l.store).Job(l.ctx, l.batch.Run.JobID)
		require.NoError(t, err)
		require.NotContains(t, string(job.Checkpoint), "@a:x", "no user failed")
	}
	quick := homeserver.Options{Attempts: 2, MostWait: time.Second}

	gone := httptest.NewServer(nil)
	gone.Close()
	requireAway(t, steps(remoteOf(t, l.store, gone.URL, quick)), "connection refused")

	for why, before := range map[string]func(http.ResponseWriter){
		"status 502":       func(w http.ResponseWriter) { w.WriteHeader(502) },
		"no JSON object":   func(w http.ResponseWriter) { _, _ = io.WriteString(w, "[]") },
		"M_LIMIT_EXCEEDED": func(w http.ResponseWriter) { refuse(w, 429, "M_LIMIT_EXCEEDED") },
		"longer than": func(w http.ResponseWriter) {
			_, _ = io.WriteString(w, `{"a":"`+strings.Repeat("a", 2<<20)+`"}`)
		},
		"[secret]": func(w http.ResponseWriter) {
			w.WriteHeader(401)
			_, _ = io.WriteString(w, `{"errcode":"M_UNKNOWN_TOKEN","error":"no such token as `+asToken+`"}`)
		},
	} {
		l.setBefore(func(w http.ResponseWriter, _ string) bool { before(w); return true })
		requireAway(t, steps(remoteOf(t, l.store, l.server.URL, quick)), why)
	}

	over := make(chan struct{})
	t.Cleanup(func() { close(over) })
	l.setBefore(func(http.ResponseWriter, string) bool { <-over; return true })
	quick.Timeout = 200 * time.Millisecond
	requireAway(t, steps(remoteOf(t, l.store, l.server.URL, quick)), "no answer within 200ms")
}

// An unanswered request is the user's failure if other requests are answered.
func TestRemoteOneUserWithoutAnswer(t *testing.T) {
	t.Parallel()
	l := setupRemote(t)
	l.members[oldRoom]["@a:x"] = "there"
	over := make(chan struct{})
	t.Cleanup(func() { close(over) })
	l.setBefore(func(_ http.ResponseWriter, request string) bool {
		if strings.HasSuffix(request, "@stuck:x") {
			<-over
		}
		return false
	})
	remote := remoteOf(t, l.store, l.server.URL, homeserver.Options{Timeout: 300 * time.Millisecond})
	require.NoError(t, errOf(remote.RemoveUsers(l.ctx, l.batch, shutdown.Removal{Members: []roomwriter.LocalMember{
		{UserID: "@stuck:x", Membership: "invite"}, {UserID: "@a:x", Membership: "join"},
	}})))
	require.Equal(t, stepOutcome{Removed: []string{"@a:x"}, Failed: []string{"@stuck:x"}}, l.outcome())
}

// A step ends with the room's lock, and says why.
func TestRemoteEndsWithItsContext(t *testing.T) {
	t.Parallel()
	l := setupRemote(t)
	lost := errors.New("the lock is lost")
	ctx, cancel := context.WithCancelCause(l.ctx)
	l.setBefore(func(w http.ResponseWriter, request string) bool {
		cancel(lost)
		refuse(w, 503, "M_UNKNOWN")
		return true
	})
	err := errOf(l.remote.RemoveUsers(ctx, l.batch, shutdown.Removal{Members: []roomwriter.LocalMember{{UserID: "@a:x", Membership: "join"}}}))
	require.ErrorIs(t, err, lost)
	require.NotErrorIs(t, err, shutdown.ErrHomeserver)
	job, err := journal.New(l.store).Job(l.ctx, l.batch.Run.JobID)
	require.NoError(t, err)
	require.NotContains(t, string(job.Checkpoint), "@a:x")

	// A wait that would outlast the context is not begun.
	short, stop := context.WithTimeout(l.ctx, 5*time.Second)
	defer stop()
	l.setBefore(func(w http.ResponseWriter, _ string) bool {
		w.Header().Set("Retry-After", "30")
		refuse(w, 429, "M_LIMIT_EXCEEDED")
		return true
	})
	patient := remoteOf(t, l.store, l.server.URL, homeserver.Options{MostWait: time.Hour})
	require.ErrorIs(t, patient.Block(short, l.batch, "@admin:x"), shutdown.ErrHomeserver)
	require.NoError(t, short.Err())
}

func TestRemoteSendsOneMessage(t *testing.T) {
	t.Parallel()
	l := setupRemote(t)
	for range 2 {
		require.NoError(t, l.remote.SendMessage(l.ctx, l.batch,
			shutdown.Message{JobID: "job", NewRoom: newRoom, Sender: "@owner:x", Body: "closed \u2026"}))
	}
	require.Equal(t, map[string]string{"job": "@owner:x m.text closed \u2026"}, l.see(l.messages))
}

func TestRemoteMovesAliases(t *testing.T) {
	t.Parallel()
	l := setupRemote(t)
	l.alias("#a/b:x", "#c?:x")
	l.aliases["#other:x"] = "!other:x"
	move := shutdown.AliasMove{NewRoom: newRoom, Owner: "@owner:x", Requester: "@admin:x"}
	require.NoError(t, errOf(l.remote.MoveAliases(l.ctx, l.batch, move)))
	require.Equal(t, stepOutcome{Aliases: []string{"#a/b:x", "#c?:x"}}, l.outcome())
	require.Equal(t, map[string]string{"#a/b:x": newRoom, "#c?:x": newRoom, "#other:x": "!other:x"}, l.see(l.aliases))
	require.Contains(t, l.taken(), "PUT /directory/room/%23c%3F:x @owner:x")

	// Again, with what was known: nothing changes.
	move.Known = []string{"#a/b:x", "#c?:x", "#other:x"}
	require.NoError(t, errOf(l.remote.MoveAliases(l.ctx, l.batch, move)))
	require.Equal(t, stepOutcome{Aliases: []string{"#a/b:x", "#c?:x"}}, l.outcome())
	for _, request := range l.taken() {
		require.True(t, strings.HasPrefix(request, "GET "), request)
	}
	require.Equal(t, "!other:x", l.see(l.aliases)["#other:x"])
}

// However far an attempt got, the next one finds every alias.
func TestRemoteResumesAliases(t *testing.T) {
	t.Parallel()
	l := setupRemote(t)
	for _, late := range []bool{false, true} { // before or after the request has its effect
		for crashAt := 1; ; crashAt++ {
			l.exec(`DELETE FROM room_aliases`)
			clear(l.aliases)
			l.alias("#a:x", "#b:x")
			ctx, crash := context.WithCancel(l.ctx)
			requests := 0
			l.setBefore(func(http.ResponseWriter, string) bool {
				if requests++; requests == crashAt && !late {
					crash()
					panic(http.ErrAbortHandler)
				}
				return false
			})
			l.setAfter(func() {
				if requests == crashAt && late {
					crash()
					panic(http.ErrAbortHandler)
				}
			})
			move := shutdown.AliasMove{NewRoom: newRoom, Owner: "@owner:x"}
			err := errOf(l.remote.MoveAliases(ctx, l.batch, move))
			l.setBefore(nil)
			l.setAfter(nil)
			if crashAt > 6 { // as many requests as there are
				require.NoError(t, err)
				crash()
				break
			}
			require.ErrorIs(t, err, context.Canceled)
			move.Known = l.outcome().Planned
			require.NoError(t, errOf(l.remote.MoveAliases(l.ctx, l.batch, move)))
			require.Equal(t, []string{"#a:x", "#b:x"}, l.outcome().Aliases, "crash %d, late %t", crashAt, late)
			require.Equal(t, map[string]string{"#a:x": newRoom, "#b:x": newRoom}, l.see(l.aliases))
		}
	}
}

// An alias that cannot be moved does not keep others from being moved, and is
// reported.
func TestRemoteAliasThatCannotBeMoved(t *testing.T) {
	t.Parallel()
	l := setupRemote(t)
	l.alias("#a:x", "#b:x")
	l.setBefore(func(w http.ResponseWriter, request string) bool {
		if strings.HasPrefix(request, "DELETE ") && strings.Contains(request, "a:x") {
			refuse(w, 403, "M_FORBIDDEN")
			return true
		}
		return false
	})
	err := errOf(l.remote.MoveAliases(l.ctx, l.batch, shutdown.AliasMove{NewRoom: newRoom, Owner: "@owner:x"}))
	require.EqualError(t, err, "move the alias #a:x: delete an alias: 403 M_FORBIDDEN: no")
	require.Equal(t, map[string]string{"#a:x": oldRoom, "#b:x": newRoom}, l.see(l.aliases))
}

// A retry notices that the attempt without an answer has worked.
func TestRemoteAliasThatWasPutUnanswered(t *testing.T) {
	t.Parallel()
	l := setupRemote(t)
	l.alias("#a:x")
	puts := 0
	l.setBefore(func(_ http.ResponseWriter, request string) bool {
		if strings.HasPrefix(request, "PUT ") {
			if puts++; puts == 1 {
				l.mu.Lock()
				l.aliases["#a:x"] = newRoom
				l.mu.Unlock()
				panic(http.ErrAbortHandler)
			}
		}
		return false
	})
	require.NoError(t, errOf(l.remote.MoveAliases(l.ctx, l.batch, shutdown.AliasMove{NewRoom: newRoom, Owner: "@owner:x"})))
	require.Equal(t, 2, puts)
	require.Equal(t, []string{"#a:x"}, l.outcome().Aliases)
}

// The homeserver does not know holds, so it gets no request.
func TestRemoteOfAHeldRoom(t *testing.T) {
	t.Parallel()
	l := setupRemote(t)
	api := storetest.OnAs(t, l.conn.Config().ConnString(), schema.API)
	_, err := api.Holds.Place(l.ctx, oldRoom, "why", "@admin:x")
	require.NoError(t, err)
	members := []roomwriter.LocalMember{{UserID: "@a:x", Membership: "join"}}
	for name, err := range map[string]error{
		"block": l.remote.Block(l.ctx, l.batch, "@admin:x"),
		"create": errOf(l.remote.CreateRoom(l.ctx, l.batch,
			shutdown.NewRoom{JobID: l.batch.Run.JobID, Creator: "@a:x", Name: "n"})),
		"users": errOf(l.remote.RemoveUsers(l.ctx, l.batch, shutdown.Removal{Members: members})),
		"message": l.remote.SendMessage(l.ctx, l.batch,
			shutdown.Message{JobID: "j", NewRoom: newRoom, Sender: "@a:x", Body: "b"}),
		"aliases": errOf(l.remote.MoveAliases(l.ctx, l.batch,
			shutdown.AliasMove{NewRoom: newRoom, Owner: "@a:x", Known: []string{"#a:x"}})),
	} {
		require.ErrorIs(t, err, journal.ErrHeld, name)
	}
	require.Empty(t, l.requests)
}
