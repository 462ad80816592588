package process

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"lethe/internal/config"
	"lethe/internal/devstack/devstacktest"
	"lethe/internal/monitor"
	"lethe/internal/observe"
	"lethe/internal/schedule"
	"lethe/internal/store/migrate"
	"lethe/internal/synapse"
)

// unreachable is the URL of a Redis that is not there.
const unreachable = "redis://127.0.0.1:1"

// A record is a line of the log.
type record struct {
	message    string
	attributes map[string]string
}

// newLog returns a logger and what is logged, up to 100 lines.
func newLog() (*slog.Logger, <-chan record) {
	records := make(chan record, 100)
	return slog.New(recorder{slog.DiscardHandler, records}), records
}

type recorder struct {
	slog.Handler
	records chan<- record
}

func (recorder) Enabled(context.Context, slog.Level) bool { return true }

func (r recorder) WithAttrs([]slog.Attr) slog.Handler { return r }

func (r recorder) Handle(_ context.Context, line slog.Record) error {
	attributes := map[string]string{}
	line.Attrs(func(a slog.Attr) bool {
		attributes[a.Key] = a.Value.String()
		return true
	})
	select {
	case r.records <- record{line.Message, attributes}:
	default:
	}
	return nil
}

// requireLine waits for a line of the log and returns its attributes.
func requireLine(t *testing.T, records <-chan record, message string) map[string]string {
	t.Helper()
	for {
		select {
		case r := <-records:
			if r.message == message {
				return r.attributes
			}
		case <-t.Context().Done():
			require.Fail(t, "never logged", message)
		case <-time.After(time.Minute):
			require.Fail(t, "not logged", message)
		}
	}
}

// newSettings returns settings for a new database with Lethe's schema, and for a
// Redis that is not there. Port 0 is for all addresses.
func newSettings(t *testing.T) config.Config {
	t.Helper()
	settings := config.Default()
	settings.Database.URL = config.Secret(devstacktest.Database(t, "embedded", migrate.UpEmbedded))
	settings.Database.MaxConnections = 4
	settings.Redis.URL = unreachable
	settings.ServerName = "lethe.test"
	for _, listen := range []*string{&settings.API.Listen, &settings.API.MetricsListen, &settings.Asynqmon.Listen, &settings.Asynqmon.MetricsListen, &settings.Scheduler.Listen, &settings.Worker.Listen} {
		*listen = "127.0.0.1:0"
	}
	return settings
}

// requireOpen opens a process, which is closed when the test has ended.
func requireOpen(t *testing.T, settings config.Config, purposes ...config.Purpose) (*process, <-chan record) {
	t.Helper()
	log, records := newLog()
	p, err := open(t.Context(), settings, log, nil, purposes)
	require.NoError(t, err)
	t.Cleanup(func() { p.close(context.Background()) })
	return p, records
}

func requireExec(t *testing.T, url config.Secret, sql string) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), string(url))
	require.NoError(t, err)
	_, err = conn.Exec(t.Context(), sql)
	require.NoError(t, err)
	require.NoError(t, conn.Close(t.Context()))
}

// get returns the status and the body of an answer.
func get(ctx context.Context, client *http.Client, url string) (int, string, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, http.NoBody)
	if err != nil {
		return 0, "", err
	}
	response, err := client.Do(request)
	if err != nil {
		return 0, "", err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	return response.StatusCode, string(body), err
}

// newClient returns a client that keeps no connection, so that none is left when a
// test has ended.
func newClient(t *testing.T, trusted *x509.CertPool) *http.Client {
	t.Helper()
	return &http.Client{Timeout: time.Minute, Transport: &http.Transport{
		DisableKeepAlives: true, TLSClientConfig: &tls.Config{RootCAs: trusted, MinVersion: tls.VersionTLS12},
	}}
}

func TestName(t *testing.T) {
	t.Parallel()
	require.Equal(t, "lethe asynqmon", name([]config.Purpose{config.ForAsynqmon}))
	require.Equal(t, "lethe api worker scheduler", name([]config.Purpose{config.ForAPI, config.ForWorker, config.ForScheduler}))
}

func TestCloseClosesTheLastFirst(t *testing.T) {
	t.Parallel()
	var closed []string
	p := &process{}
	for _, what := range []string{"a", "b", "c"} {
		p.onClose(func(context.Context) { closed = append(closed, what) })
	}
	p.close(t.Context())
	p.close(t.Context())
	require.Equal(t, []string{"c", "b", "a"}, closed)
}

// What open has opened before it fails is closed: TestMain finds what is left.
func TestOpenFails(t *testing.T) {
	t.Parallel()
	badKey := filepath.Join(t.TempDir(), "bad.key")
	require.NoError(t, os.WriteFile(badKey, []byte("not a key"), 0o600))
	errMonitor := errors.New("no pages")
	for name, test := range map[string]struct {
		change func(*config.Config)
		want   string
	}{
		"database":       {func(c *config.Config) { c.Database.URL = "postgres://[" }, "database"},
		"redis":          {func(c *config.Config) { c.Redis.URL = "x" }, "a Redis URL is"},
		"locks":          {func(c *config.Config) { c.Lock.RedisURLs = []config.Secret{unreachable, "x"} }, "a Redis URL is"},
		"homeserver":     {func(c *config.Config) { c.Homeserver.URL = "x" }, "homeserver"},
		"no signing key": {func(c *config.Config) { c.SigningKeyFile = "/nowhere/a.key" }, "read the signing key: open /nowhere/a.key"},
		"a bad key":      {func(c *config.Config) { c.SigningKeyFile = badKey }, "read the signing key in " + badKey},
		"monitor":        {func(*config.Config) {}, "no pages"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			settings := config.Default()
			settings.Database.URL, settings.Redis.URL = "postgres://127.0.0.1:1/x", unreachable
			test.change(&settings)
			log, _ := newLog()
			p, err := open(t.Context(), settings, log, func(string, monitor.Options) (*monitor.Handler, error) {
				return nil, errMonitor
			}, []config.Purpose{config.ForAPI})
			require.ErrorContains(t, err, test.want)
			require.Nil(t, p)
		})
	}
}

func TestOpenMonitor(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		purpose  config.Purpose
		readOnly bool
		want     monitor.Options
	}{
		"an api":                   {config.ForAPI, false, monitor.Options{Root: "/asynqmon", ReadOnly: true}},
		"asynqmon":                 {config.ForAsynqmon, false, monitor.Options{}},
		"asynqmon that only reads": {config.ForAsynqmon, true, monitor.Options{ReadOnly: true}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			settings := config.Default()
			settings.Database.URL, settings.Redis.URL = "postgres://127.0.0.1:1/x", unreachable
			settings.Asynqmon.ReadOnly = test.readOnly
			log, _ := newLog()
			var got monitor.Options
			p, err := open(t.Context(), settings, log, func(url string, options monitor.Options) (*monitor.Handler, error) {
				require.Equal(t, unreachable, url)
				got = options
				return monitor.New(url, options)
			}, []config.Purpose{test.purpose})
			require.NoError(t, err)
			defer p.close(t.Context())
			require.Equal(t, test.want, got)
			require.NotNil(t, p.monitor)
		})
	}
}

func TestOpenKnowsTheHomeserver(t *testing.T) {
	t.Parallel()
	settings := newSettings(t)
	p, _ := requireOpen(t, settings, config.ForWorker)
	require.Nil(t, p.homeserver)
	require.Nil(t, p.service)

	settings.Homeserver.ASToken = "token"
	p, _ = requireOpen(t, settings, config.ForWorker)
	require.Nil(t, p.service, "there is no homeserver that knows the token")

	settings.Homeserver.URL = "http://127.0.0.1:1"
	p, _ = requireOpen(t, settings, config.ForWorker)
	require.NotNil(t, p.homeserver)
	require.NotNil(t, p.service)
}

func TestListen(t *testing.T) {
	t.Parallel()
	authority := devstacktest.NewAuthority(t)
	cert, key := authority.Certificate(t, "127.0.0.1")
	folder := t.TempDir()
	files := config.TLS{CertFile: filepath.Join(folder, "tls.crt"), KeyFile: filepath.Join(folder, "tls.key")}
	require.NoError(t, os.WriteFile(files.CertFile, cert, 0o600))
	require.NoError(t, os.WriteFile(files.KeyFile, key, 0o600))
	trusted := x509.NewCertPool()
	require.True(t, trusted.AppendCertsFromPEM(authority.PEM))

	p, records := requireOpen(t, newSettings(t), config.ForAPI)
	text := func(body string) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, body) })
	}
	parts := []part{
		{name: "a", listen: "127.0.0.1:0"},
		{name: "b", listen: ""},
		{name: "c", listen: "127.0.0.1:0", metricsListen: "127.0.0.1:0", tls: files, handler: func(http.Handler) http.Handler { return text("more") }},
	}
	servers, err := p.listen(t.Context(), p.health(), parts)
	require.NoError(t, err)
	require.Len(t, servers, 3)
	require.Equal(t, map[string]string{"process": "lethe a", "address": servers[0].Addr()}, requireLine(t, records, "listening"))
	require.Equal(t, map[string]string{"process": "lethe c", "address": servers[1].Addr()}, requireLine(t, records, "listening"))

	require.Equal(t, map[string]string{"process": "lethe c", "metrics_address": servers[2].Addr()}, requireLine(t, records, "listening for metrics"))

	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- p.run(ctx, servers, nil) }()
	client := newClient(t, trusted)
	for url, want := range map[string]string{
		"http://" + servers[0].Addr() + "/healthz":  "ok",
		"http://" + servers[0].Addr() + "/metrics":  "lethe_build_info",
		"https://" + servers[1].Addr() + "/metrics": "more", // not metrics
		"http://" + servers[2].Addr() + "/metrics":  "lethe_build_info",
	} {
		status, body, err := get(t.Context(), client, url)
		require.NoError(t, err)
		require.Equal(t, http.StatusOK, status)
		require.Contains(t, body, want, url)
	}
	cancel()
	require.NoError(t, <-ended)
}

func TestListenFails(t *testing.T) {
	t.Parallel()
	p, _ := requireOpen(t, newSettings(t), config.ForAPI)
	servers, err := p.listen(t.Context(), observe.NewHealth(observe.NewRegistry(), p.log, nil), []part{{listen: "127.0.0.1:0"}})
	require.NoError(t, err)
	taken := servers[0].Addr()
	_, err = p.listen(t.Context(), observe.NewHealth(observe.NewRegistry(), p.log, nil), []part{{listen: taken}})
	require.ErrorContains(t, err, "listen for HTTP")
	_, err = p.listen(t.Context(), observe.NewHealth(observe.NewRegistry(), p.log, nil), []part{{listen: "127.0.0.1:0", tls: config.TLS{CertFile: "/nowhere"}}})
	require.ErrorContains(t, err, "read the certificate")

	p.close(t.Context())
	listener, err := new(net.ListenConfig).Listen(t.Context(), "tcp", taken)
	require.NoError(t, err, "close has not freed the address")
	require.NoError(t, listener.Close())
}

func TestRunWaitsForRedis(t *testing.T) {
	t.Parallel()
	server := devstacktest.Redis(t)
	settings := newSettings(t)
	settings.Redis.URL = config.Secret(server.URL())
	p, records := requireOpen(t, settings, config.ForScheduler)
	server.Kill()

	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	started, ended := make(chan struct{}), make(chan error, 1)
	go func() {
		ended <- p.run(ctx, nil, []part{{run: func(ctx context.Context) error {
			close(started)
			<-ctx.Done()
			return nil
		}}})
	}()
	line := requireLine(t, records, "waiting to start")
	require.Contains(t, line["error"], "connection refused")
	select {
	case <-started:
		require.Fail(t, "it has started without Redis")
	default:
	}
	require.NoError(t, server.Restart(t.Context()))
	<-started
	cancel()
	require.NoError(t, <-ended)
}

func TestRunStopsWhileItWaits(t *testing.T) {
	t.Parallel()
	p, records := requireOpen(t, newSettings(t), config.ForScheduler) // there is no Redis
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		ended <- p.run(ctx, nil, []part{{run: func(context.Context) error { return errors.New("it has started") }}})
	}()
	requireLine(t, records, "waiting to start")
	cancel()
	require.NoError(t, <-ended)
}

func TestRunStopsAllPartsWhenOneFails(t *testing.T) {
	t.Parallel()
	p, _ := requireOpen(t, newSettings(t), config.ForAPI)
	broken := errors.New("broken")
	started, stopped := make(chan struct{}), make(chan struct{})
	err := p.run(t.Context(), nil, []part{
		{name: "served only"},
		{run: func(ctx context.Context) error {
			close(started)
			<-ctx.Done()
			close(stopped)
			return nil
		}},
		{run: func(context.Context) error {
			<-started
			return broken
		}},
	})
	require.ErrorIs(t, err, broken)
	<-stopped
}

func TestDatabaseThatDoesNotFit(t *testing.T) {
	t.Parallel()
	redis := devstacktest.Redis(t)
	const bySynapse = `DROP TABLE lethe.migrations_embedded`
	const elsewhere = `INSERT INTO users (name, creation_ts) VALUES ('@a:other.test', 0)`
	for name, test := range map[string]struct {
		sql     string
		beside  string
		purpose config.Purpose
		want    error
	}{
		"a schema of another version":  {`INSERT INTO lethe.migrations_lethe (version_id, is_applied) VALUES (99, true)`, "auto", config.ForAPI, migrate.ErrSchema},
		"Synapse's, but too old":       {bySynapse, "auto", config.ForWorker, synapse.ErrTooOld},
		"Synapse's, which is stopped":  {bySynapse, "false", config.ForWorker, nil},
		"of another server":            {elsewhere, "auto", config.ForWorker, ErrServerName},
		"Synapse's, and not a worker":  {bySynapse, "auto", config.ForScheduler, nil},
		"of another server, in an api": {elsewhere, "auto", config.ForAPI, nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			settings := newSettings(t)
			settings.Redis.URL = config.Secret(redis.URL())
			settings.SynapseBeside = test.beside
			requireExec(t, settings.Database.URL, test.sql)
			p, _ := requireOpen(t, settings, test.purpose)
			if test.want == nil {
				require.NoError(t, p.awaitServers(t.Context()))
				return
			}
			require.ErrorIs(t, p.awaitServers(t.Context()), test.want)
		})
	}
}

func TestHealth(t *testing.T) {
	t.Parallel()
	settings := newSettings(t) // there is no Redis
	for name, test := range map[string]struct {
		purpose config.Purpose
		want    int
	}{
		"an api is ready without Redis":   {config.ForAPI, http.StatusOK},
		"a worker is not ready":           {config.ForWorker, http.StatusServiceUnavailable},
		"asynqmon is ready without Redis": {config.ForAsynqmon, http.StatusOK},
		"a scheduler is not ready":        {config.ForScheduler, http.StatusServiceUnavailable},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p, _ := requireOpen(t, settings, test.purpose)
			servers, err := p.listen(t.Context(), p.health(), []part{{listen: "127.0.0.1:0"}})
			require.NoError(t, err)
			ctx, cancel := context.WithCancel(t.Context())
			ended := make(chan error, 1)
			go func() { ended <- servers[0].Serve(ctx) }()
			status, body, err := get(t.Context(), newClient(t, nil), "http://"+servers[0].Addr()+"/readyz")
			require.NoError(t, err)
			require.Equal(t, test.want, status, body)
			cancel()
			require.NoError(t, <-ended)
		})
	}
}

// An asynqmon with which the homeserver checks access tokens has no use for a database.
func TestAsynqmonWithoutADatabase(t *testing.T) {
	t.Parallel()
	redis := devstacktest.Redis(t)
	homeserver := httptest.NewServer(http.NotFoundHandler())
	t.Cleanup(homeserver.Close)
	settings := config.Default()
	settings.Auth, settings.Homeserver.URL = config.AuthHomeserver, homeserver.URL
	settings.Redis.URL, settings.Asynqmon.Listen = config.Secret(redis.URL()), "127.0.0.1:0"
	settings.Asynqmon.MetricsListen = "127.0.0.1:0"
	log, records := newLog()
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- Run(ctx, settings, log, monitor.New, config.ForAsynqmon) }()
	address := "http://" + requireLine(t, records, "listening")["address"]
	metrics := "http://" + requireLine(t, records, "listening for metrics")["metrics_address"]
	client := newClient(t, nil)
	for path, want := range map[string]int{"/readyz": http.StatusOK, "/": http.StatusUnauthorized, "/metrics": http.StatusUnauthorized} {
		status, body, err := get(t.Context(), client, address+path)
		require.NoError(t, err)
		require.Equal(t, want, status, body)
	}
	_, body, err := get(t.Context(), client, metrics+"/metrics")
	require.NoError(t, err)
	require.Contains(t, body, `pool="redis_jobs"`)
	require.NotContains(t, body, `pool="database"`)
	cancel()
	require.NoError(t, <-ended)
}

// An asynqmon that reads access tokens uses no table of Lethe's.
func TestAsynqmonReadsTokensOnly(t *testing.T) {
	t.Parallel()
	settings := newSettings(t)
	requireExec(t, settings.Database.URL, `DROP SCHEMA lethe CASCADE`)
	p, _ := requireOpen(t, settings, config.ForAsynqmon)
	require.NoError(t, p.check(t.Context()))
	p, _ = requireOpen(t, settings, config.ForScheduler)
	require.ErrorIs(t, p.check(t.Context()), migrate.ErrSchema)
}

// TestRun runs everything in one process, with the pages of the queues.
func TestRun(t *testing.T) {
	t.Parallel()
	settings := newSettings(t)
	settings.Redis.URL = config.Secret(devstacktest.Redis(t).URL())
	settings.Worker.Listen, settings.Scheduler.Listen = "", ""
	log, records := newLog()
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		ended <- Run(ctx, settings, log, monitor.New, config.ForAPI, config.ForWorker, config.ForScheduler)
	}()
	api := "http://" + requireLine(t, records, "listening")["address"]
	metrics := "http://" + requireLine(t, records, "listening for metrics")["metrics_address"]
	client := newClient(t, nil)
	for path, want := range map[string]int{
		"/readyz":                                http.StatusOK,
		"/metrics":                               http.StatusNotFound,
		"/asynqmon/":                             http.StatusUnauthorized,
		"/_matrix/client/v3/rooms/!a:b/messages": http.StatusUnauthorized,
	} {
		status, body, err := get(t.Context(), client, api+path)
		require.NoError(t, err)
		require.Equal(t, want, status, body)
	}
	status, body, err := get(t.Context(), client, metrics+"/metrics")
	require.NoError(t, err)
	require.Equal(t, http.StatusOK, status)
	require.Contains(t, body, `lethe_pool_connections{pool="redis_locks"`)
	status, _, err = get(t.Context(), client, metrics+"/_matrix/client/v3/rooms/!a:b/messages")
	require.NoError(t, err)
	require.Equal(t, http.StatusNotFound, status, "it serves nothing else")
	cancel()
	require.NoError(t, <-ended)
}

// A worker compares a job with the plan that it was accepted with, before it begins.
func TestWorkersComparePlans(t *testing.T) {
	t.Parallel()
	settings := newSettings(t)
	settings.Redis.URL = config.Secret(devstacktest.Redis(t).URL())
	requireExec(t, settings.Database.URL, `
		INSERT INTO lethe.jobs (id, kind, room_id, parameters, requester, plan, task_missing_since)
		VALUES ('AAAAAAAAAAAAAAAA', 'delete_room', '!room:lethe.test', '{"purge": true}', '@admin:lethe.test',
		        '{"digest": "1-0--other-other", "tolerance": 0}', '-infinity')`)
	log, _ := newLog()
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- Run(ctx, settings, log, nil, config.ForWorker, config.ForScheduler) }()
	conn, err := pgx.Connect(t.Context(), string(settings.Database.URL))
	require.NoError(t, err)
	var state, reason string
	require.Eventually(t, func() bool {
		err := conn.QueryRow(t.Context(), `SELECT state, coalesce(error, '') FROM lethe.jobs WHERE ended_at IS NOT NULL`).Scan(&state, &reason)
		return err == nil
	}, time.Minute, 20*time.Millisecond)
	require.Equal(t, "failed", state)
	require.Contains(t, reason, "not the digest of a plan of this job")
	require.NoError(t, conn.Close(t.Context()))
	cancel()
	require.NoError(t, <-ended)
}

func TestRunOnce(t *testing.T) {
	t.Parallel()
	settings := newSettings(t)
	log, _ := newLog()
	require.NoError(t, RunOnce(t.Context(), settings, log, Once{}), "nothing is due: retention is not enabled")
	settings.Retention.Rules.Enabled = true
	require.ErrorIs(t, RunOnce(t.Context(), settings, log, Once{Job: "unknown"}), schedule.ErrNoSuchJob)
}
