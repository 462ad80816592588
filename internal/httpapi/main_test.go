package httpapi_test

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"lethe/internal/devstack/devstacktest"
	"lethe/internal/httpapi"
	"lethe/internal/jobs"
	"lethe/internal/schema"
	"lethe/internal/store/journal"
	"lethe/internal/store/migrate"
	"lethe/internal/store/postgres"
	"lethe/internal/store/storetest"
	"lethe/internal/tasks"
)

func TestMain(m *testing.M) { devstacktest.Main(m) }

// admin is the access token of @admin:x.
const admin = "admin"

// fixture is what every test finds in its database.
const fixture = `
	INSERT INTO users (name, admin, is_guest, locked, deactivated) VALUES
		('@admin:x',   1, 0, false, 0),
		('@user:x',    0, 0, false, 0),
		('@guest:x',   0, 1, false, 0),
		('@old:x',     0, 1, false, 0),
		('@locked:x',  0, 1, true,  0),
		('@gone:x',    1, 0, false, 1);
	INSERT INTO account_validity (user_id, expiration_ts_ms, email_sent) VALUES
		('@old:x', 1, false), ('@locked:x', 1, false);
	INSERT INTO access_tokens (id, user_id, puppets_user_id, token, valid_until_ms) VALUES
		(1, '@admin:x',  NULL,       'admin',      NULL),
		(2, '@user:x',   NULL,       'user',       NULL),
		(3, '@guest:x',  NULL,       'guest',      NULL),
		(4, '@old:x',    NULL,       'old',        NULL),
		(5, '@locked:x', NULL,       'locked',     NULL),
		(6, '@locked:x', NULL,       'expired',    1),
		(7, '@gone:x',   NULL,       'gone',       NULL),
		(8, '@admin:x',  '@user:x',  'puppeteer',  NULL),
		(9, '@user:x',   '@admin:x', 'puppet',     NULL),
		(10, '@admin:x', NULL,       'a+b c/d%41', NULL);
	INSERT INTO events (event_id, room_id, type, topological_ordering, depth, stream_ordering, processed, outlier, received_ts) VALUES
		('$other',    '!other:x',    't', 1, 1, 1, true, false, 500),
		('$one',      '!room:x',     't', 1, 1, 2, true, false, 1000),
		('$two/2',    '!room:x',     't', 2, 2, 3, true, false, 2000),
		('$rejected', '!room:x',     't', 3, 3, 4, true, false, 3000),
		('$odd',      '!o/%2F ü<:x', 't', 9, 9, 5, true, false, 4000),
		('$nobody',   '',            't', 8, 8, 6, true, false, 5000);
	INSERT INTO event_json (event_id, room_id, internal_metadata, json) SELECT event_id, room_id, '{}', '{}' FROM events;
	INSERT INTO rejections (event_id, reason, last_check) VALUES ('$rejected', 'auth', '')`

func prepare(ctx context.Context, url string) error {
	if err := migrate.UpEmbedded(ctx, url); err != nil {
		return err
	}
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		return err
	}
	_, err = conn.Exec(ctx, fixture)
	return errors.Join(err, conn.Close(ctx))
}

// submittedDelete is the id of every delete that a submitter accepts.
const submittedDelete = "QrStUvWxYzQrStUv"

// submitter remembers what was submitted.
type submitter struct {
	mu      sync.Mutex
	purges  []tasks.PurgeHistory
	deletes []tasks.DeleteRoom

	// instead, unless nil, is called in place of accepting.
	instead func(ctx context.Context) error
}

func (s *submitter) SubmitPurgeHistory(ctx context.Context, purge tasks.PurgeHistory) (string, error) {
	if s.instead != nil {
		return "", s.instead(ctx)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.purges = append(s.purges, purge)
	return "AbCdEfGhIjKlMnOp", nil
}

func (s *submitter) SubmitDeleteRoom(ctx context.Context, request tasks.DeleteRoom) (string, error) {
	if s.instead != nil {
		return "", s.instead(ctx)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.deletes = append(s.deletes, request)
	return submittedDelete, nil
}

// taken returns what was submitted since the last call.
func (s *submitter) taken() []tasks.PurgeHistory {
	s.mu.Lock()
	defer s.mu.Unlock()
	purges := s.purges
	s.purges = nil
	return purges
}

// takenDeletes returns the deletes that were submitted since the last call.
func (s *submitter) takenDeletes() []tasks.DeleteRoom {
	s.mu.Lock()
	defer s.mu.Unlock()
	deletes := s.deletes
	s.deletes = nil
	return deletes
}

// board has a status for some ids: that of a history purge, unless it says what
// of.
type board map[string]jobs.Status

func (b board) Status(_ context.Context, kind journal.Kind, id string) (jobs.Status, error) {
	status, ok := b[id]
	switch {
	case id == "broken":
		return jobs.Status{}, errors.New("the secret is out")
	case !ok || kind != cmp.Or(status.Kind, jobs.PurgeHistory):
		return jobs.Status{}, jobs.ErrNotFound
	}
	return status, nil
}

// log is what was logged.
type log struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *log) Write(line []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(line)
}

func (l *log) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

type observed struct {
	route, method string
	status        int
}

// bundle is a server over a real connection, with a database of its own.
type bundle struct {
	server   *httptest.Server
	url      string // of the database
	tasks    *submitter
	jobs     board
	log      *log
	observed chan observed
}

func setup(t *testing.T, options httpapi.Options) *bundle {
	t.Helper()
	url := devstacktest.Database(t, "httpapi", prepare)
	b := setupOn(t, openStore(t, url), options)
	b.url = url
	return b
}

// setupOn is setup on another database.
func setupOn(t *testing.T, db *postgres.DB, options httpapi.Options) *bundle {
	t.Helper()
	b := &bundle{tasks: &submitter{}, jobs: board{}, log: &log{}, observed: make(chan observed, 1000)}
	options.Log = slog.New(slog.NewTextHandler(b.log, nil))
	options.Observe = func(route, method string, status int, _ time.Duration) {
		b.observed <- observed{route, method, status}
	}
	b.server = httptest.NewUnstartedServer(nil)
	b.server.Config = serverOf(httpapi.New(db, b.tasks, b.jobs, options))
	b.server.Start()
	t.Cleanup(b.server.Close)
	return b
}

// setupWith is setup with more in the database, and a connection to look into it
// by.
func setupWith(t *testing.T, sql string) (*bundle, *pgx.Conn) {
	t.Helper()
	url := devstacktest.Database(t, "httpapi", prepare)
	conn, err := pgx.Connect(t.Context(), url)
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close(context.Background()) })
	_, err = conn.Exec(t.Context(), sql)
	require.NoError(t, err)
	return setupOn(t, openStore(t, url), httpapi.Options{}), conn
}

// serverOf puts the handler into a server that limits nothing but headers.
func serverOf(handler http.Handler) *http.Server {
	return &http.Server{Handler: handler, DisableGeneralOptionsHandler: true, MaxHeaderBytes: 64 << 10}
}

// openStore opens the database as a role that may do what an api does.
func openStore(t testing.TB, url string) *postgres.DB {
	t.Helper()
	return openStoreAs(t, url, schema.API)
}

func openStoreAs(t testing.TB, url string, process schema.Process) *postgres.DB {
	t.Helper()
	db, err := postgres.Open(t.Context(), storetest.AsKnownColumns(t, url, process), postgres.Options{MaxConnections: 4})
	require.NoError(t, err)
	t.Cleanup(db.Close)
	return db
}

// requireExec executes SQL in the server's database.
func (b *bundle) requireExec(t *testing.T, sql string, args ...any) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), b.url)
	require.NoError(t, err)
	defer func() { _ = conn.Close(t.Context()) }()
	_, err = conn.Exec(t.Context(), sql, args...)
	require.NoError(t, err)
}

// A reply is a response that has been read.
type reply struct {
	status int
	header http.Header
	body   string
}

// raw sends a request as it stands, with \n for \r\n, on a connection of its
// own, and reads the reply.
func (b *bundle) raw(t *testing.T, request string) reply {
	t.Helper()
	head, body, _ := strings.Cut(request, "\n\n")
	conn := b.requireDial(t)
	// A server may close before it has read all, which is no failure of ours.
	_, _ = io.WriteString(conn, strings.ReplaceAll(head, "\n", "\r\n")+"\r\n\r\n"+body)
	method, _, _ := strings.Cut(request, " ")
	return requireReply(t, conn, method)
}

func (b *bundle) requireDial(t *testing.T) net.Conn {
	t.Helper()
	conn, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", b.server.Listener.Addr().String())
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close() })
	require.NoError(t, conn.SetDeadline(time.Now().Add(time.Minute)))
	return conn
}

func requireReply(t *testing.T, conn net.Conn, method string) reply {
	t.Helper()
	response, err := http.ReadResponse(bufio.NewReader(conn), &http.Request{Method: method})
	require.NoError(t, err)
	body, err := io.ReadAll(response.Body)
	require.NoError(t, err)
	require.NoError(t, response.Body.Close())
	return reply{response.StatusCode, response.Header, string(body)}
}

// send sends a request with the admin's access token.
func (b *bundle) send(t *testing.T, method, path, body string) reply {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), method, b.server.URL+path, strings.NewReader(body))
	require.NoError(t, err)
	request.Header.Set("Authorization", "Bearer "+admin)
	response, err := b.server.Client().Do(request)
	require.NoError(t, err)
	text, err := io.ReadAll(response.Body)
	require.NoError(t, err)
	require.NoError(t, response.Body.Close())
	return reply{response.StatusCode, response.Header, string(text)}
}

// requireJSON holds a reply against a status and a body, and against what all
// replies have.
func requireJSON(t *testing.T, r reply, status int, body string) {
	t.Helper()
	require.Equal(t, status, r.status, r.body)
	require.JSONEq(t, body, r.body)
	requireHeaders(t, r.header)
	require.Equal(t, "application/json", r.header.Get("Content-Type"))
}

func requireHeaders(t require.TestingT, h http.Header) {
	require.Equal(t, "*", h.Get("Access-Control-Allow-Origin"))
	require.Contains(t, h.Get("Access-Control-Allow-Methods"), "DELETE")
	require.Contains(t, h.Get("Access-Control-Allow-Headers"), "Authorization")
	require.Equal(t, "no-cache, no-store, must-revalidate", h.Get("Cache-Control"))
	require.NotEmpty(t, h.Get("X-Request-Id"))
}

// refusal is the body of an error.
func refusal(code, text string) string {
	body, _ := json.Marshal(map[string]string{"errcode": code, "error": text})
	return string(body)
}
