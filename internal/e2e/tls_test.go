package e2e

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"lethe/internal/devstack"
	"lethe/internal/devstack/devstacktest"
)

// TestPurgeByTLS purges a room where every connection is TLS and every server
// wants a password, and then has each proof fail.
func TestPurgeByTLS(t *testing.T) {
	t.Parallel()
	const password = "hunter2/hunter2@é"
	authority := devstacktest.NewAuthority(t)
	guard := func() *devstack.Guard {
		cert, key := authority.Certificate(t, "localhost")
		return &devstack.Guard{Authority: authority.PEM, Certificate: cert, Key: key, Password: password}
	}
	postgres, err := devstack.StartPostgres(t.Context(), devstack.PostgresOptions{Guard: guard()})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, postgres.Close()) })
	redis, err := devstack.StartRedis(t.Context(), devstack.RedisOptions{Guard: guard()})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, redis.Close()) })
	require.NoError(t, postgres.CreateDatabase(t.Context(), "lethe", ""))
	database := postgres.URL("lethe")
	require.NoError(t, populate(200)(t.Context(), database))

	folder := t.TempDir()
	file := func(name string, text []byte) string {
		path := filepath.Join(folder, name)
		require.NoError(t, os.WriteFile(path, text, 0o600))
		return path
	}
	cert, key := authority.Certificate(t, "127.0.0.1")
	f := &fleet{t: t, database: database, redis: redis, token: token, env: []string{
		"LETHE_DATABASE_URL_FILE=" + file("database", []byte(database+"\n")),
		"LETHE_REDIS_URL_FILE=" + file("redis", []byte(redis.URL()+"\n")),
		"LETHE_SERVER_NAME=" + server,
		"LETHE_SYNAPSE_BESIDE=false",
		"LETHE_API_LISTEN=127.0.0.1:0",
		"LETHE_API_METRICS_LISTEN=",
		"LETHE_ASYNQMON_METRICS_LISTEN=",
		"LETHE_API_TLS_CERT_FILE=" + file("tls.crt", cert),
		"LETHE_API_TLS_KEY_FILE=" + file("tls.key", key),
		"LETHE_WORKER_LISTEN=127.0.0.1:0",
		"LETHE_LOG_FORMAT=json",
	}}
	f.sql, err = pgx.Connect(t.Context(), database)
	require.NoError(t, err)
	t.Cleanup(func() { _ = f.sql.Close(context.WithoutCancel(t.Context())) })
	trusted := x509.NewCertPool()
	require.True(t, trusted.AppendCertsFromPEM(authority.PEM))
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: trusted}}
	t.Cleanup(transport.CloseIdleConnections)
	f.client, f.scheme = &http.Client{Transport: transport}, "https"
	f.api = f.start("api")
	f.start("worker")
	last := query[string](f, `SELECT event_id FROM events WHERE room_id = $1 ORDER BY topological_ordering DESC LIMIT 1`, large)
	f.await(time.Minute, f.purge(large, map[string]any{"purge_up_to_event_id": last, "delete_local_events": true}))
	require.Zero(t, f.left())
	require.Positive(t, query[int](f, `SELECT count(*) FROM pg_stat_ssl s JOIN pg_stat_activity a USING (pid)
		WHERE a.application_name LIKE 'lethe worker%' AND s.ssl`))
	require.Zero(t, query[int](f, `SELECT count(*) FROM pg_stat_ssl s JOIN pg_stat_activity a USING (pid)
		WHERE a.application_name LIKE 'lethe %' AND NOT s.ssl`))

	// What goes wrong is named, and nothing that is secret is.
	stranger := file("stranger.crt", devstacktest.NewAuthority(t).PEM)
	change := func(raw, host, secret, option, value string) string {
		u, err := url.Parse(raw)
		require.NoError(t, err)
		if host != "" {
			u.Host = host + ":" + u.Port()
		}
		if secret != "" {
			u.User = url.UserPassword(u.User.Username(), secret)
		}
		options := u.Query()
		if option != "" {
			options.Set(option, value)
		}
		u.RawQuery = options.Encode()
		return u.String()
	}
	for name, test := range map[string]struct {
		database, redis string
		want            string
	}{
		"another authority of PostgreSQL": {change(database, "", "", "sslrootcert", stranger), redis.URL(), "certificate signed by unknown authority"},
		"another host of PostgreSQL":      {change(database, "127.0.0.1", "", "", ""), redis.URL(), "cannot validate certificate for 127.0.0.1"},
		"another password of PostgreSQL":  {change(database, "", "hunter2", "", ""), redis.URL(), "password authentication failed"},
		"PostgreSQL without TLS":          {change(database, "", "", "sslmode", "disable"), redis.URL(), "no encryption"},
		"another authority of Redis":      {database, change(redis.URL(), "", "", "ca_file", stranger), "certificate signed by unknown authority"},
		"another host of Redis":           {database, change(redis.URL(), "127.0.0.1", "", "", ""), "cannot validate certificate for 127.0.0.1"},
		"another password of Redis":       {database, change(redis.URL(), "", "hunter2", "", ""), "WRONGPASS"},
	} {
		t.Run(name, func(t *testing.T) {
			stuck := *f
			stuck.t, stuck.env = t, append(append([]string{}, f.env[2:]...), "LETHE_DATABASE_URL="+test.database, "LETHE_REDIS_URL="+test.redis)
			worker := stuck.start("worker")
			stuck.eventually(30*time.Second, func() bool { return strings.Contains(worker.tail(), test.want) }, "it does not say why")
			require.Equal(t, http.StatusServiceUnavailable, get(t, worker, "/readyz"))
			require.NotContains(t, worker.tail(), "hunter2")
		})
	}
	require.Contains(t, refused(t, "api", "LETHE_DATABASE_URL="+database, "LETHE_SERVER_NAME=x", "LETHE_API_TLS_CERT_FILE="+file("new.crt", cert),
		"LETHE_API_TLS_KEY_FILE="+file("old.key", bytes.ToUpper(key))), "use the certificate in ")
}
