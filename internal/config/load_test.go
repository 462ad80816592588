package config

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/stretchr/testify/require"

	"lethe/internal/retention"
	"lethe/internal/schema"
)

const (
	databaseURL = "postgres://lethe:hunter2@db.example.org:5432/synapse?sslmode=disable"
	redisURL    = "redis://:hunter2@redis.example.org:6379/3"
)

// write makes a YAML file and returns the entry that names it.
func write(t *testing.T, yaml string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "lethe.yaml")
	require.NoError(t, os.WriteFile(path, []byte(yaml), 0o600))
	return "LETHE_CONFIG=" + path
}

// homeserverYAML makes a file of Synapse's and returns its path.
func homeserverYAML(t *testing.T, yaml string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "homeserver.yaml")
	require.NoError(t, os.WriteFile(path, []byte(yaml), 0o600))
	return path
}

// problems returns the lines of an error, without the file's folder.
func problems(t *testing.T, err error) []string {
	t.Helper()
	require.Error(t, err)
	require.NotContains(t, err.Error(), "hunter2")
	lines := strings.Split(err.Error(), "\n")
	require.Equal(t, "load configuration:", lines[0])
	for i, line := range lines {
		for _, name := range []string{"lethe.yaml", "homeserver.yaml"} {
			if j := strings.Index(line, name); j >= 0 {
				lines[i] = line[j:]
			}
		}
	}
	return lines[1:]
}

func TestDefaultsAreValid(t *testing.T) {
	t.Parallel()
	config, err := Load([]string{"HOME=/root", "LETHE_CONFIG="})
	require.NoError(t, err)
	require.Empty(t, cmp.Diff(Default(), config, cmpopts.EquateComparable(netip.Prefix{})))

	for path, text := range map[string]string{
		"api.listen":      config.API.Listen,
		"asynqmon.listen": config.Asynqmon.Listen,

		"api.metrics_listen":      config.API.MetricsListen,
		"asynqmon.metrics_listen": config.Asynqmon.MetricsListen,

		"console.enabled":      fmt.Sprint(config.Console.Enabled),
		"console.readers":      "",
		"console.session_time": config.Console.SessionTime.String(),

		"auth":             config.Auth,
		"dialect":          config.Dialect,
		"journal.keep":     config.JournalKeep.String(),
		"log.format":       config.Log.Format,
		"log.level":        config.Log.Level,
		"scheduler.listen": config.Scheduler.Listen,
		"grace":            config.Grace.String(),
		"purge_delay":      config.PurgeDelay.String(),

		"homeserver.config_file":                "",
		"retention.allowed_lifetime_max":        "",
		"retention.default_policy.max_lifetime": "",
		"retention.enabled":                     fmt.Sprint(config.Retention.Rules.Enabled),
		"retention.max_queued":                  fmt.Sprint(config.Retention.Limits.MaxQueued),
		"retention.max_running":                 fmt.Sprint(config.Retention.Limits.MaxRunning),
		"retention.purge_jobs":                  "[]",
		"retention.rows_per_second":             fmt.Sprint(config.Retention.Limits.RowsPerSecond),
		"retention.serve_configuration":         fmt.Sprint(config.Retention.ServeConfiguration),

		"schema.compat":    fmt.Sprint(config.SchemaCompat),
		"signing_key_file": config.SigningKeyFile,
		"status_ttl":       config.StatusTTL.String(),
		"trusted_proxies":  "",
		"worker.listen":    config.Worker.Listen,

		"vacuum.cost_delay":    config.Vacuum.CostDelay.String(),
		"vacuum.cost_limit":    fmt.Sprint(config.Vacuum.CostLimit),
		"vacuum.database_url":  "",
		"vacuum.dead_share":    fmt.Sprint(config.Vacuum.DeadShare),
		"vacuum.enabled":       fmt.Sprint(config.Vacuum.Enabled),
		"vacuum.index_walk":    fmt.Sprint(config.Vacuum.IndexWalk),
		"vacuum.min_rows":      fmt.Sprint(config.Vacuum.MinRows),
		"vacuum.snapshot_wait": config.Vacuum.SnapshotWait.String(),
		"vacuum.timeout":       config.Vacuum.Timeout.String(),

		"database.max_connections": fmt.Sprint(config.Database.MaxConnections),
		"worker.batch_events":      fmt.Sprint(config.Worker.BatchEvents),
		"worker.batch_time":        config.Worker.BatchTime.String(),
		"worker.concurrency":       fmt.Sprint(config.Worker.Concurrency),
		"worker.drain_timeout":     config.Worker.DrainTimeout.String(),
		"worker.mapping_delay":     config.Worker.MappingDelay.String(),
		"worker.max_lock_wait":     config.Worker.MaxLockWait.String(),
		"worker.time_slice":        config.Worker.TimeSlice.String(),
		"worker.wal_compression":   config.Worker.WALCompression,
	} {
		_, err := Load([]string{variable(path) + "=" + text})
		require.NoError(t, err)
	}
}

func TestProxiesOnThisMachineAreTrusted(t *testing.T) {
	t.Parallel()
	loopback := []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("::1/128")}
	require.Equal(t, loopback, Default().TrustedProxies)
	for _, none := range [][]string{{"LETHE_TRUSTED_PROXIES="}, {write(t, "trusted_proxies: []\n")}} {
		config, err := Load(none)
		require.NoError(t, err)
		require.Empty(t, config.TrustedProxies, "with an empty list no proxy is trusted")
	}
}

func TestExampleFile(t *testing.T) {
	t.Parallel()
	const path = "../../docs/config.example.yaml"
	config, err := Load([]string{"LETHE_CONFIG=" + path})
	require.NoError(t, err)
	require.Empty(t, cmp.Diff(Default(), config, cmpopts.EquateComparable(netip.Prefix{})))

	// With the examples in force it is complete for every process, and lacks
	// no setting.
	data, err := os.ReadFile(path)
	require.NoError(t, err)
	full := regexp.MustCompile(`(?m)^( *)#(\w)`).ReplaceAllString(string(data), "$1$2")
	synapse := homeserverYAML(t, "server_name: other.example.org\n")
	full = strings.ReplaceAll(full, "/etc/synapse/homeserver.yaml", synapse)
	config, err = Load([]string{write(t, full)}, ForAPI, ForDatabase, ForScheduler, ForWorker)
	require.NoError(t, err)
	require.Equal(t, "example.org", config.ServerName)
	root, err := parseYAML([]byte(full))
	require.NoError(t, err)
	l := loader{settings: map[string]setting{}, unset: map[string]bool{}}
	for _, s := range settings(&config) {
		l.settings[s.path] = s
	}
	f := file{loader: &l, lines: map[string]int{}}
	f.section("", root)
	for path := range l.settings {
		require.Contains(t, f.lines, path)
	}
}

func TestVariablesOverrideTheFile(t *testing.T) {
	t.Parallel()
	hourly, err := retention.Every(3600 * 1000)
	require.NoError(t, err)
	daily, err := retention.ParseCron("CRON_TZ=UTC @daily")
	require.NoError(t, err)
	want := Config{
		AccountValidity: true,
		API:             API{CacheBytes: 1 << 20, Listen: "[::1]:0", MetricsListen: ":9", TLS: TLS{CertFile: "/a.crt", KeyFile: "/a.key"}},
		Asynqmon:        Asynqmon{Listen: ":8", TLS: TLS{CertFile: "/m.crt", KeyFile: "/m.key"}},
		Auth:            AuthHomeserver,
		Brake:           Brake{Standbys: []string{"one", "two"}, DiskPath: "/data", PrometheusURL: "http://:hunter2@p:9090/x", PrometheusQuery: "up"},
		Console:         Console{Enabled: true, Readers: []string{"@one:example.org", "@two:example.org"}, SessionTime: time.Hour},
		Database:        Database{MaxConnections: 7, URL: databaseURL},
		Dialect:         DialectSeed,
		Homeserver:      Homeserver{ASToken: "hunter2", RedisURL: "redis://:hunter2@synapse", URL: "https://matrix.example.org"},
		JournalKeep:     48 * time.Hour,
		Lock:            Lock{RedisURLs: []Secret{"redis://a", "rediss://:hunter2@b:1", "redis://c/2"}},
		Log:             Log{Format: "json", Level: "debug"},
		MAS:             MAS{Secret: "hunter2", URL: "https://mas.example.org/auth/"},
		Messages:        Messages{DepartedSeeLater: true, FilterTime: 3 * time.Second, MaxPageBytes: 1 << 16, MaxTotalBytes: 1 << 25, Wait: 2 * time.Second},
		Grace:           24 * time.Hour,
		PurgeDelay:      5 * time.Minute,
		Redis:           Redis{URL: redisURL},
		Retention: Retention{
			Rules: retention.Config{
				Abandoned: retention.Abandoned{
					Enabled: true, After: 60 * dayInMS, CoolOff: 2 * dayInMS, Cron: daily, MaxPerRun: 5, Exclude: []string{"x.org"},
				},
				Enabled:            true,
				DefaultPolicy:      retention.Policy{MinLifetime: new(int64(1)), MaxLifetime: new(int64(2000))},
				AllowedLifetimeMin: new(int64(3000)), AllowedLifetimeMax: new(int64(4000)),
				ClampReads: true,
				Jobs: []retention.Job{
					{Name: "short", Schedule: hourly, LongestMaxLifetime: new(int64(5000))},
					{Name: "over-5s-at-CRON_TZ=UTC_@daily", Schedule: daily, ShortestMaxLifetime: new(int64(5000))},
				},
			},
			ServeConfiguration: true,
			Limits:             RetentionLimits{MaxQueued: 6, MaxRunning: 4, RowsPerSecond: 500},
		},
		Scheduler:      Scheduler{Listen: ":http"},
		SchemaCompat:   85,
		ServerName:     "example.org",
		SigningKeyFile: "/signing.key",
		StatusTTL:      time.Hour,
		SynapseBeside:  "false",
		Tables:         schema.Rules{"future": schema.Keep},
		TrustedProxies: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("::1/128")},
		Vacuum: Vacuum{
			CostDelay: time.Millisecond, CostLimit: 300, DatabaseURL: "postgres://vacuum:hunter2@db", DeadShare: 0.2, MinRows: 7,
			SnapshotWait: time.Minute, Timeout: 2 * time.Hour,
		},
		Worker: Worker{
			BatchEvents: 1, BatchTime: time.Second, Concurrency: 9, DrainTimeout: time.Minute,
			Listen: "", MappingDelay: 7 * time.Second, MaxLockWait: 2 * time.Hour, TimeSlice: time.Hour, WALCompression: "lz4",
		},
	}

	yaml := `
account_validity: true
api: {cache_bytes: 1048576, listen: "[::1]:0", metrics_listen: ":9", tls_cert_file: /a.crt, tls_key_file: /a.key}
asynqmon: {listen: ":8", metrics_listen: "", read_only: false, tls_cert_file: /m.crt, tls_key_file: /m.key}
auth: homeserver
console: {enabled: true, readers: ["@one:example.org", "@two:example.org"], session_time: 1h}
brake: {enabled: false, standbys: [one, two], disk_path: /data, prometheus_url: "http://:hunter2@p:9090/x", prometheus_query: up}
database:
  max_connections: "7"
  url: ` + databaseURL + `
dialect: seed
homeserver: {as_token: hunter2, redis_url: "redis://:hunter2@synapse", url: "https://matrix.example.org"}
journal: {keep: 48h}
lock: {redis_urls: [redis://a, 'rediss://:hunter2@b:1', redis://c/2]}
log: {format: json, level: debug}
mas: {url: "https://mas.example.org/auth/", secret: hunter2}
messages: {backfill: false, departed_see_later: true, filter_time: 3s, max_page_bytes: 65536, max_total_bytes: 33554432, wait: 2s}
grace: 24h
purge_delay: 5m
redis: {url: "` + redisURL + `"}
retention:
  enabled: true
  default_policy: {min_lifetime: 1, max_lifetime: 2s}
  allowed_lifetime_min: "3s"
  allowed_lifetime_max: 4000
  clamp_reads: true
  abandoned: {enabled: true, after: 60d, cool_off: 2d, interval: "", cron: CRON_TZ=UTC @daily, max_per_run: 5, exclude: [x.org]}
  serve_configuration: true
  max_queued: 6
  max_running: 4
  rows_per_second: 500
  purge_jobs:
    - {name: short, interval: 1h, longest_max_lifetime: 5s}
    - {cron: CRON_TZ=UTC @daily, shortest_max_lifetime: 5s}
scheduler: {listen: ":http"}
server_name: example.org
signing_key_file: /signing.key
status_ttl: 1h
synapse_beside: false
schema: {compat: 85}
tables: [future=keep]
trusted_proxies: [10.1.2.3/8, "::1"]
vacuum: {cost_delay: 1ms, cost_limit: 300, database_url: "postgres://vacuum:hunter2@db", dead_share: 0.2, enabled: false, index_walk: false, min_rows: 7, snapshot_wait: 1m, timeout: 2h}
worker: {batch_events: 1, batch_time: 1s, concurrency: 9, drain_timeout: 1m, listen: "", mapping_delay: 7s, max_lock_wait: 2h, time_slice: 1h, wal_compression: lz4}
`
	synapse := homeserverYAML(t, "server_name: other.example.org\nretention: {enabled: false, allowed_lifetime_max: 9s, purge_jobs: [{interval: 9d}]}\nredis: {enabled: true, host: other}\n")
	want.Homeserver.ConfigFile = synapse
	config, err := Load([]string{write(t, strings.Replace(yaml, "homeserver: {", "homeserver: {config_file: "+synapse+", ", 1))}, ForAPI, ForWorker)
	require.NoError(t, err)
	require.Empty(t, cmp.Diff(want, config, cmpopts.EquateComparable(netip.Prefix{})))

	environ := []string{
		"LETHE_ACCOUNT_VALIDITY=true", "LETHE_API_CACHE_BYTES=1048576", "LETHE_API_LISTEN=[::1]:0", "LETHE_API_METRICS_LISTEN=:9", "LETHE_ASYNQMON_METRICS_LISTEN=",
		"LETHE_API_TLS_CERT_FILE=/a.crt", "LETHE_API_TLS_KEY_FILE=/a.key", "LETHE_ASYNQMON_LISTEN=:8", "LETHE_ASYNQMON_READ_ONLY=false",
		"LETHE_CONSOLE_ENABLED=true", "LETHE_CONSOLE_READERS=@one:example.org,@two:example.org", "LETHE_CONSOLE_SESSION_TIME=60m",
		"LETHE_BRAKE_ENABLED=false", "LETHE_BRAKE_STANDBYS=one,two", "LETHE_BRAKE_DISK_PATH=/data",
		"LETHE_BRAKE_PROMETHEUS_URL=http://:hunter2@p:9090/x", "LETHE_BRAKE_PROMETHEUS_QUERY=up",
		"LETHE_ASYNQMON_TLS_CERT_FILE=/m.crt", "LETHE_ASYNQMON_TLS_KEY_FILE=/m.key", "LETHE_SCHEMA_COMPAT=85", "LETHE_TABLES=future=keep", "LETHE_TRUSTED_PROXIES=10.0.0.0/8, ::1", "LETHE_AUTH=homeserver", "LETHE_HOMESERVER_AS_TOKEN=hunter2",
		"LETHE_HOMESERVER_REDIS_URL=redis://:hunter2@synapse",
		"LETHE_HOMESERVER_CONFIG_FILE=" + synapse,
		"LETHE_HOMESERVER_URL=https://matrix.example.org", "LETHE_DATABASE_MAX_CONNECTIONS=7",
		"LETHE_DATABASE_URL=" + databaseURL, "LETHE_DIALECT=seed", "LETHE_JOURNAL_KEEP=48h", "LETHE_LOCK_REDIS_URLS=redis://a, rediss://:hunter2@b:1,redis://c/2,", "LETHE_LOG_FORMAT=json", "LETHE_LOG_LEVEL=debug",
		"LETHE_REDIS_URL=" + redisURL, "LETHE_SCHEDULER_LISTEN=:http", "LETHE_SERVER_NAME=example.org",
		"LETHE_MAS_SECRET=hunter2", "LETHE_MAS_URL=https://mas.example.org/auth/",
		"LETHE_MESSAGES_BACKFILL=false", "LETHE_MESSAGES_DEPARTED_SEE_LATER=true", "LETHE_MESSAGES_WAIT=2s",
		"LETHE_MESSAGES_FILTER_TIME=3s", "LETHE_MESSAGES_MAX_PAGE_BYTES=65536", "LETHE_MESSAGES_MAX_TOTAL_BYTES=33554432",
		"LETHE_RETENTION_ENABLED=true", "LETHE_RETENTION_DEFAULT_POLICY_MIN_LIFETIME=1", "LETHE_RETENTION_DEFAULT_POLICY_MAX_LIFETIME=2s",
		"LETHE_RETENTION_ALLOWED_LIFETIME_MIN=3s", "LETHE_RETENTION_ALLOWED_LIFETIME_MAX=4s",
		"LETHE_RETENTION_ABANDONED_ENABLED=true", "LETHE_RETENTION_ABANDONED_AFTER=60d", "LETHE_RETENTION_ABANDONED_COOL_OFF=2d",
		"LETHE_RETENTION_ABANDONED_INTERVAL=", "LETHE_RETENTION_ABANDONED_CRON=CRON_TZ=UTC @daily",
		"LETHE_RETENTION_ABANDONED_MAX_PER_RUN=5", "LETHE_RETENTION_ABANDONED_EXCLUDE=x.org",
		"LETHE_RETENTION_CLAMP_READS=true", "LETHE_RETENTION_SERVE_CONFIGURATION=true",
		"LETHE_RETENTION_MAX_QUEUED=6", "LETHE_RETENTION_MAX_RUNNING=4", "LETHE_RETENTION_ROWS_PER_SECOND=500",
		`LETHE_RETENTION_PURGE_JOBS=[{"name": "short", "interval": "60m", "longest_max_lifetime": 5000}, {cron: CRON_TZ=UTC @daily, shortest_max_lifetime: 5s}]`,
		"LETHE_GRACE=24h", "LETHE_PURGE_DELAY=5m", "LETHE_SIGNING_KEY_FILE=/signing.key",
		"LETHE_VACUUM_COST_DELAY=1ms", "LETHE_VACUUM_COST_LIMIT=300", "LETHE_VACUUM_DATABASE_URL=postgres://vacuum:hunter2@db",
		"LETHE_VACUUM_DEAD_SHARE=0.2", "LETHE_VACUUM_ENABLED=false", "LETHE_VACUUM_INDEX_WALK=false", "LETHE_VACUUM_MIN_ROWS=7",
		"LETHE_VACUUM_SNAPSHOT_WAIT=1m", "LETHE_VACUUM_TIMEOUT=2h",
		"LETHE_STATUS_TTL=1h", "LETHE_SYNAPSE_BESIDE=false", "LETHE_WORKER_BATCH_EVENTS=1", "LETHE_WORKER_BATCH_TIME=1s",
		"LETHE_WORKER_CONCURRENCY=9", "LETHE_WORKER_DRAIN_TIMEOUT=1m", "LETHE_WORKER_LISTEN=", "LETHE_WORKER_MAPPING_DELAY=7s", "LETHE_WORKER_MAX_LOCK_WAIT=2h",
		"LETHE_WORKER_TIME_SLICE=1h", "LETHE_WORKER_WAL_COMPRESSION=lz4",
	}
	require.Len(t, environ, len(settings(&config)))
	config, err = Load(environ, ForAPI, ForWorker)
	require.NoError(t, err)
	require.Empty(t, cmp.Diff(want, config, cmpopts.EquateComparable(netip.Prefix{})))

	config, err = Load(append(environ, write(t, "dialect: now\nworker: {listen: ':1', time_slice: 2s}\nlog: {level: error}\nhomeserver: {config_file: /nowhere}\nretention: {purge_jobs: [{interval: 5d}]}")))
	require.NoError(t, err)
	require.Empty(t, cmp.Diff(want, config, cmpopts.EquateComparable(netip.Prefix{})))
}

func TestEachPurposeNeedsOnlyWhatItUses(t *testing.T) {
	t.Parallel()
	const (
		noDatabase   = "database.url: must be set, here or as LETHE_DATABASE_URL"
		noTokens     = "database.url: must be set, here or as LETHE_DATABASE_URL, since access tokens are looked up there"
		noRedis      = "redis.url: must be set, here or as LETHE_REDIS_URL"
		noServerName = "server_name: must be set, here or as LETHE_SERVER_NAME"
	)
	for name, test := range map[string]struct {
		purposes []Purpose
		want     []string
	}{
		"asynqmon":       {[]Purpose{ForAsynqmon}, []string{noRedis, noTokens}},
		"api":            {[]Purpose{ForAPI}, []string{noDatabase, noRedis, noServerName}},
		"database":       {[]Purpose{ForDatabase}, []string{noDatabase}},
		"scheduler":      {[]Purpose{ForScheduler}, []string{noDatabase, noRedis}},
		"worker":         {[]Purpose{ForWorker}, []string{noDatabase, noRedis, noServerName}},
		"api and worker": {[]Purpose{ForAPI, ForWorker}, []string{noDatabase, noRedis, noServerName}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := Load(nil, test.purposes...)
			require.Equal(t, test.want, problems(t, err))

			// Empty is missing, also when it empties what the file says.
			_, err = Load([]string{
				write(t, "server_name: example.org\ndatabase: {url: '"+databaseURL+"'}\nredis: {url: '"+redisURL+"'}"),
				"LETHE_DATABASE_URL=", "LETHE_REDIS_URL=", "LETHE_SERVER_NAME=",
			}, test.purposes...)
			require.Equal(t, test.want, problems(t, err))
		})
	}
}

func TestAsynqmonNeedsNoDatabaseIfTheHomeserverChecks(t *testing.T) {
	t.Parallel()
	environ := []string{"LETHE_AUTH=homeserver", "LETHE_HOMESERVER_URL=http://127.0.0.1:8008", "LETHE_REDIS_URL=" + redisURL}
	_, err := Load(environ, ForAsynqmon)
	require.NoError(t, err)
	_, err = Load(environ, ForAsynqmon, ForScheduler)
	require.Equal(t, []string{"database.url: must be set, here or as LETHE_DATABASE_URL"}, problems(t, err))
}

func TestAllErrorsAtOnce(t *testing.T) {
	t.Parallel()
	config, err := Load([]string{
		write(t, "dialect: klingon\nworker:\n  concurency: 3\n  batch_time: 3\nredis: [a]\n"),
		"LETHE_TYPO=hunter2", "LETHE_LOG_LEVEL=hunter2", "LETHE_CONFIGS=x",
	}, ForWorker)
	require.Equal(t, []string{
		"lethe.yaml:1: dialect: must be one of: now, seed",
		"lethe.yaml:3: worker.concurency: no such setting",
		"lethe.yaml:4: worker.batch_time: must be a duration with its unit, such as 300ms, 30s or 24h, from 10ms to 5s",
		"lethe.yaml:5: redis: must be a mapping: indented lines of key: value",
		"LETHE_CONFIGS: no such setting",
		"LETHE_LOG_LEVEL: must be one of: debug, info, warn, error",
		"LETHE_TYPO: no such setting",
		"database.url: must be set, here or as LETHE_DATABASE_URL",
		"redis.url: must be set, here or as LETHE_REDIS_URL",
		"server_name: must be set, here or as LETHE_SERVER_NAME",
	}, problems(t, err))
	require.Empty(t, cmp.Diff(Config{}, config, cmpopts.EquateComparable(netip.Prefix{})))
}

func TestValues(t *testing.T) {
	t.Parallel()
	const (
		address = "must be host:port"
		boolean = "must be true or false"
		term    = "must be a duration with its unit"
		count   = "must be a whole number from "
	)
	for _, test := range []struct {
		path, text string
		want       string // a piece of the error; none if empty
	}{
		{"account_validity", "true", ""},
		{"account_validity", "yes", boolean},
		{"account_validity", "", boolean},
		{"api.listen", "localhost:0", ""},
		{"api.listen", ":65535", ""},
		{"api.listen", "", address},
		{"api.listen", "8470", address},
		{"api.listen", "localhost:", address},
		{"api.listen", ":65536", address},
		{"api.listen", ":-1", address},
		{"api.listen", "::1:80", address},
		{"api.listen", ":no-such-service", address},
		{"auth", "auto", ""},
		{"auth", "database", ""},
		{"auth", "", "must be one of: auto, database, homeserver, mas"},
		{"auth", "MAS", "must be one of: auto, database, homeserver, mas"},
		{"database.max_connections", "2", ""},
		{"database.max_connections", "1", count + "2 to 10000"},
		{"database.max_connections", "-5", count},
		{"database.max_connections", "10001", count},
		{"database.max_connections", "16.5", count},
		{"database.max_connections", "99999999999999999999", count},
		{"dialect", "Now", "must be one of: now, seed"},
		{"dialect", "", "must be one of"},
		{"homeserver.as_token", "a+b/c=.~", ""},
		{"homeserver.as_token", "", ""},
		{"homeserver.as_token", "hunter2 hunter2", "must be an access token"},
		{"homeserver.as_token", "hunter2\n", "must be an access token"},
		{"homeserver.url", "", ""},
		{"homeserver.url", "http://[::1]:8008/", ""},
		{"homeserver.url", "https://matrix.example.org", ""},
		{"homeserver.url", "matrix.example.org", "must be a homeserver's URL"},
		{"homeserver.url", "unix:///run/synapse", "must be a homeserver's URL"},
		{"homeserver.url", "http://", "must be a homeserver's URL"},
		{"homeserver.url", "http://u:hunter2@h", "must be a homeserver's URL"},
		{"homeserver.url", "http://h/_matrix", "must be a homeserver's URL"},
		{"homeserver.url", "http://h?hunter2", "must be a homeserver's URL"},
		{"homeserver.url", "http://h:0", "must be a homeserver's URL with a port"},
		{"homeserver.url", "http://h:hunter2", "must be a homeserver's URL"},
		{"schema.compat", "85", ""},
		{"schema.compat", "83", count + "84 to 10000"},
		{"tables", "", ""},
		{"tables", "future=keep, rumours=delete_by_room", ""},
		{"tables", "event_reports=delete_by_event, room_reports=delete_by_room", ""},
		{"tables", "room_reports=delete_by_event", "number 1: \"room_reports=delete_by_event\": the table room_reports has no column event_id"},
		{"tables", "future=keep,events=keep", "number 2: \"events=keep\": Lethe knows the table events"},
		{"tables", "future=forget", "number 1: \"future=forget\" must be table=keep"},
		{"tables", "a=keep,a=delete_by_event", "number 2: a is listed twice"},
		{"tables", "a;DROP TABLE events=keep", "number 1: \"a;DROP TABLE events=keep\" does not begin with the name of a table"},
		{"lock.redis_urls", "", ""},
		{"lock.redis_urls", "redis://a:1,redis://a:2,redis://b", ""},
		{"lock.redis_urls", "redis://a", "must be an odd number of URLs, three or more"},
		{"lock.redis_urls", "redis://a,redis://b,redis://c,redis://d", "must be an odd number"},
		{"lock.redis_urls", "redis://a,redis://b/1,redis://a:6379/2", "number 3: the same server"},
		{"lock.redis_urls", "redis://a,redis-cluster://b,redis://c", "number 2: must be redis:// or rediss://"},
		{"lock.redis_urls", "redis://a,redis://:hunter,2@b,redis://c", "number 2: a Redis URL is"},
		{"lock.redis_urls", "redis://a;redis://b;redis://c", "number 1: "},
		{"log.format", "logfmt", "must be one of: text, json"},
		{"log.level", "trace", "must be one of: debug, info, warn, error"},
		{"api.metrics_listen", "", ""},
		{"api.metrics_listen", "x", address},
		{"asynqmon.metrics_listen", "x", address},
		{"console.enabled", "yes", "must be true or false"},
		{"console.readers", "", ""},
		{"console.readers", "@one:example.org,two", "number 2: must be the id of a user"},
		{"console.session_time", "1m", ""},
		{"console.session_time", "168h", ""},
		{"console.session_time", "0s", term},
		{"console.session_time", "169h", term},
		{"scheduler.listen", "", ""},
		{"scheduler.listen", "x", address},
		{"server_name", "[::1]:8448", ""},
		{"server_name", "https://example.org", "must be a Matrix server name"},
		{"purge_delay", "0", ""},
		{"purge_delay", "0s", ""},
		{"purge_delay", "720h", ""},
		{"purge_delay", "-1s", term},
		{"purge_delay", "721h", term},
		{"grace", "8760h", ""},
		{"grace", "8761h", term},
		{"grace", "-1s", term},
		{"purge_delay", "5", term},
		{"status_ttl", "1m", ""},
		{"status_ttl", "8760h", ""},
		{"status_ttl", "59s", term + ", such as 300ms, 30s or 24h, from 1m to 8760h"},
		{"status_ttl", "8761h", term},
		{"status_ttl", "24", term},
		{"status_ttl", "-24h", term},
		{"status_ttl", "0", term},
		{"status_ttl", "", term},
		{"synapse_beside", "true", ""},
		{"synapse_beside", "maybe", "must be one of: auto, true, false"},
		{"vacuum.cost_delay", "0s", ""},
		{"vacuum.cost_delay", "101ms", term},
		{"vacuum.cost_limit", "0", count},
		{"vacuum.database_url", "", ""},
		{"vacuum.database_url", "mysql://u:hunter2@h/d", "must be a PostgreSQL URL"},
		{"vacuum.dead_share", "0", ""},
		{"vacuum.dead_share", "1", ""},
		{"vacuum.dead_share", "1.01", "must be a number from 0 to 1"},
		{"vacuum.dead_share", "-0.1", "must be a number from 0 to 1"},
		{"vacuum.dead_share", "NaN", "must be a number from 0 to 1"},
		{"vacuum.dead_share", "5%", "must be a number from 0 to 1"},
		{"vacuum.min_rows", "-1", count},
		{"vacuum.snapshot_wait", "0s", ""},
		{"vacuum.snapshot_wait", "25h", term},
		{"vacuum.timeout", "0s", term},
		{"worker.max_lock_wait", "59s", term},
		{"worker.max_lock_wait", "1m", ""},
		{"worker.mapping_delay", "4999ms", term},
		{"worker.mapping_delay", "5s", ""},
		{"trusted_proxies", "10.0.0.0/8,::1,", ""},
		{"trusted_proxies", "10.0.0.0/33", "number 1: must be an address or a network"},
		{"trusted_proxies", "::1,proxy.example.org", "number 2: must be an address or a network"},
		{"trusted_proxies", "::ffff:10.0.0.1", "number 1: must be"},
		{"worker.batch_events", "0", count + "1 to 1000000"},
		{"worker.batch_events", "1000000", ""},
		{"worker.batch_events", "1000001", count},
		{"worker.batch_time", "9ms", term},
		{"worker.batch_time", "5001ms", term},
		{"worker.concurrency", "0", count + "1 to 1000"},
		{"worker.concurrency", "1001", count},
		{"worker.drain_timeout", "999ms", term},
		{"worker.drain_timeout", "11m", term},
		{"worker.listen", "", ""},
		{"worker.time_slice", "0s", term},
		{"worker.time_slice", "61m", term},
		{"worker.wal_compression", "zstd", ""},
		{"worker.wal_compression", "gzip", "must be one of: auto, off, pglz, lz4, zstd"},
	} {
		t.Run(test.path+"="+test.text, func(t *testing.T) {
			t.Parallel()
			_, err := Load([]string{variable(test.path) + "=" + test.text})
			if test.want == "" {
				require.NoError(t, err)
				return
			}
			lines := problems(t, err)
			require.Len(t, lines, 1)
			require.Contains(t, lines[0], variable(test.path)+": "+test.want)
		})
	}
}

func TestURLsKeepTheirPassword(t *testing.T) {
	t.Parallel()
	for i, test := range []struct {
		path, url string
		want      string // a piece of the error; none if empty
	}{
		{"database.url", databaseURL, ""},
		{"database.url", "postgresql:///synapse?host=/run/postgresql", ""},
		{"database.url", "host=/run/postgresql user=lethe password=hunter2", ""},
		{"database.url", "hunter2", "must be a PostgreSQL URL"},
		{"database.url", "user=lethe password='hunter2", "must be a PostgreSQL URL"},
		{"database.url", "mysql://u:hunter2@h/db", "must be a PostgreSQL URL"},
		{"database.url", "postgres://u:hunter2@h:port/db", "must be a PostgreSQL URL"},
		{"database.url", "postgres://u:hunter2@h:70000/db", "invalid port"},
		{"database.url", "postgres://u:hunter2@h/db?sslmode=maybe", "sslmode"},
		{"database.url", "postgres://u@h/db?password=hunter2&sslmode=maybe", "sslmode"},
		{"database.url", "postgres://u@h/db?sslpassword=hunter2&target_session_attrs=x", "target_session_attrs"},
		{"database.url", "postgres://u:a%zzhunter2@h/db", "must be a PostgreSQL URL"},
		{"database.url", "postgres://u:1/hunter2@h/db?sslmode=maybe", "must be a PostgreSQL URL"},
		{"database.url", "postgres://u:1?sslmode=hunter2@h/db", ""}, // as libpq reads it
		{"database.url", "postgres://u:1?sslmode=hunter2@h:70000/db", "must be a PostgreSQL URL"},
		{"database.url", "postgres://u:1#hunter2@h:bad/db?sslmode=maybe", "must be a PostgreSQL URL"},
		{"redis.url", redisURL, ""},
		{"redis.url", "rediss://u:hunter2@h", ""},
		{"redis.url", "hunter2", "a Redis URL is redis://"},
		{"redis.url", "http://u:hunter2@h", "a Redis URL is redis://"},
		{"redis.url", "redis://:hunter2@h:port", "a Redis URL is redis://"},
		{"redis.url", "redis://:hunter2@h/x", "invalid database number"},
		{"redis.url", "redis://:hunter2@h?nope=hunter2", "unexpected option: nope"},
		{"redis.url", "redis://u:1/hunter2@h/0", "has an @ after the host"},
		{"redis.url", "redis://u:1?hunter2@h/0", "has an @ after the host"},
		{"redis.url", "redis://u:1#hunter2@h/0", "has an @ after the host"},
		{"redis.url", "redis-cluster://u:hunter2@h:1,i:2", ""},
		{"redis.url", "redis-cluster://u:1/hunter2@h,i", "has an @ after the host"},
		{"redis.url", "redis-cluster://u:a%zzhunter2@h,i", "invalid URL"},
		{"redis.url", "redis-sentinel://:hunter2@h:1,i:2/3?master=m", ""},
		{"redis.url", "redis-sentinel://:hunter2@h:1,i:2/3", "redis-sentinel needs ?master=name"},
	} {
		// The folder of the file is named for the test, so this cannot be.
		t.Run(fmt.Sprint(i), func(t *testing.T) {
			t.Parallel()
			for _, environ := range [][]string{
				{variable(test.path) + "=" + test.url},
				{write(t, strings.Replace(test.path, ".", ":\n  ", 1)+": \""+test.url+"\"\n")},
			} {
				_, err := Load(environ)
				if test.want == "" {
					require.NoError(t, err)
					continue
				}
				lines := problems(t, err)
				require.Len(t, lines, 1)
				require.Contains(t, lines[0], test.want)
			}
		})
	}
}

func TestSecretsAreNotPrinted(t *testing.T) {
	t.Parallel()
	config, err := Load([]string{
		"LETHE_DATABASE_URL=" + databaseURL, "LETHE_HOMESERVER_AS_TOKEN=hunter2", "LETHE_REDIS_URL=" + redisURL,
	})
	require.NoError(t, err)
	require.Equal(t, databaseURL, string(config.Database.URL))

	var out strings.Builder
	slog.New(slog.NewTextHandler(&out, nil)).Info("", "config", config, "url", config.Redis.URL)
	slog.New(slog.NewJSONHandler(&out, nil)).Info("", "config", config, "url", config.Redis.URL)
	require.NoError(t, json.NewEncoder(&out).Encode(config))
	fmt.Fprintf(&out, "%v %+v %#v %s %q %v", config, config, config, config.Redis.URL, config.Redis.URL, &config)
	require.NotContains(t, out.String(), "hunter2")
	require.Contains(t, out.String(), "[secret]")
	require.Empty(t, Secret("").String())
}

func TestFiles(t *testing.T) {
	t.Parallel()
	const empty = "lethe.yaml: the file is empty; unset LETHE_CONFIG to go without one"
	for name, test := range map[string]struct {
		yaml string
		want []string // exact lines; none if nil
	}{
		"null section":        {"worker:\nlog:\n  # level: info\n", nil},
		"alias":               {"worker: &w {listen: &l ''}\nscheduler: *w\n", nil},
		"end of document":     {"dialect: seed\n...\n", nil},
		"byte order mark":     {"\ufeffdialect: seed\n", nil},
		"alias with key":      {"log: &w {level: info}\nworker: *w\n", []string{"lethe.yaml:1: worker.level: no such setting"}},
		"empty":               {"", []string{empty}},
		"only comments":       {"# dialect: now\n\n", []string{empty}},
		"null":                {"---\n", []string{empty}},
		"list":                {"- dialect: now\n", []string{"lethe.yaml: the file must be a mapping: lines of key: value"}},
		"scalar":              {"hunter2\n", []string{"lethe.yaml: the file must be a mapping: lines of key: value"}},
		"two documents":       {"dialect: now\n---\ndialect: seed\n", []string{"lethe.yaml: the file holds more than one YAML document"}},
		"bad second document": {"dialect: now\n---\n}\n", []string{"lethe.yaml: yaml: line 2: did not find expected node content"}},
		"tab":                 {"worker:\n\tlisten: ''\n", []string{"lethe.yaml: line 2 is indented with a tab: YAML takes only spaces"}},
		"syntax":              {"worker: {\n", []string{"lethe.yaml: yaml: line 1: did not find expected node content"}},
		"unknown anchor":      {"redis:\n  url: *hunter2\n", []string{"lethe.yaml: a value that begins with * must be quoted"}},
		"duplicate key":       {"dialect: now\ndialect: seed\n", []string{"lethe.yaml:2: dialect: already set in line 1"}},
		"duplicate section":   {"log: {level: info}\nlog: {level: warn}\n", []string{"lethe.yaml:2: log: already set in line 1"}},
		"unknown key":         {"dialcet: now\n", []string{"lethe.yaml:1: dialcet: no such setting"}},
		"dotted key":          {"worker.listen: ''\n", []string{"lethe.yaml:1: no such setting"}},
		"a value as a key":    {"redis: {'redis://:hunter2@h': ''}\n", []string{"lethe.yaml:1: no such setting"}},
		"key that is a list":  {"? [a]\n: b\n", []string{"lethe.yaml:1: no such setting"}},
		"merge key":           {"log: &l {level: info}\nworker:\n  <<: *l\n", []string{"lethe.yaml:3: no such setting"}},
		"prefix of a section": {"work: {}\n", []string{"lethe.yaml:1: work: no such setting"}},
		"null value":          {"dialect:\n", []string{`lethe.yaml:1: dialect: has no value: leave the key out for its default, or write ""`}},
		"list for a value":    {"redis:\n  url: [hunter2]\n", []string{"lethe.yaml:2: redis.url: must be one value, not a list or a mapping"}},
		"list of URLs":        {"lock: {redis_urls: &l ['redis://a', 'redis://b', &c 'redis://c']}\n", nil},
		"list in a list":      {"lock: {redis_urls: [[hunter2]]}\n", []string{"lethe.yaml:1: lock.redis_urls: must be a list of values"}},
		"bad list":            {"lock:\n  redis_urls: ['redis://:hunter2@a']\n", []string{"lethe.yaml:2: lock.redis_urls: must be an odd number of URLs, three or more, with commas between them (in a password, write a comma as %2C)"}},
		"value for a section": {"redis: hunter2\n", []string{"lethe.yaml:1: redis: must be a mapping: indented lines of key: value"}},
		"endless alias":       {"worker: &w\n  listen: *w\n", []string{"lethe.yaml:2: worker.listen: must be one value, not a list or a mapping"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := Load([]string{write(t, test.yaml)})
			if test.want == nil {
				require.NoError(t, err)
				return
			}
			require.Equal(t, test.want, problems(t, err))
		})
	}
}

func TestOverriddenValuesAreCheckedToo(t *testing.T) {
	t.Parallel()
	_, err := Load([]string{write(t, "dialect: klingon\n"), "LETHE_DIALECT=now"})
	require.Equal(t, []string{"lethe.yaml:1: dialect: must be one of: now, seed"}, problems(t, err))
}

func TestJournalIsKeptAsLongAsStatuses(t *testing.T) {
	t.Parallel()
	_, err := Load([]string{"LETHE_JOURNAL_KEEP=23h59m"})
	require.Equal(t, []string{"journal.keep: must be at least status_ttl, since a status may be read from the journal"}, problems(t, err))
	_, err = Load([]string{"LETHE_JOURNAL_KEEP=24h"})
	require.NoError(t, err)
	_, err = Load([]string{"LETHE_STATUS_TTL=2161h", "LETHE_JOURNAL_KEEP=2160h"})
	require.Len(t, problems(t, err), 1)
	config, err := Load([]string{"LETHE_STATUS_TTL=2161h"})
	require.NoError(t, err)
	require.Equal(t, 2161*time.Hour, config.JournalKeep, "the default follows")
}

func TestUnreadableFile(t *testing.T) {
	t.Parallel()
	missing := filepath.Join(t.TempDir(), "missing.yaml")
	_, err := Load([]string{"LETHE_CONFIG=" + missing, "LETHE_DIALECT=x"}, ForWorker)
	require.ErrorIs(t, err, os.ErrNotExist)
	// What the file would have said is not reported as missing.
	require.Equal(t, []string{
		"LETHE_CONFIG: open " + missing + ": no such file or directory",
		"LETHE_DIALECT: must be one of: now, seed",
	}, problems(t, err))
}

func TestForeignVariables(t *testing.T) {
	t.Parallel()
	for _, entry := range []string{
		"LETHE_API_PORT=tcp://10.0.0.1:8470",
		"LETHE_API_PORT_8470_TCP=tcp://10.0.0.1:8470",
		"LETHE_API_PORT_8470_TCP_ADDR=10.0.0.1",
		"LETHE_API_PORT_8470_TCP_PORT=8470",
		"LETHE_API_PORT_8470_TCP_PROTO=tcp",
		"LETHE_API_PORT_53_UDP=udp://10.0.0.1:53",
		"LETHE_API_SERVICE_HOST=10.0.0.1",
		"LETHE_API_SERVICE_PORT=8470",
		"LETHE_API_SERVICE_PORT_HTTP_METRICS=8470",
		"LETHE_PORT=tcp://10.0.0.1:8470",
		"LETHE_SERVICE_HOST=10.0.0.1",
		"LETHE_TEST_DATABASE_URL=postgres://127.0.0.1/test",
		"LETHE_API_URL=http://127.0.0.1:8470",
		"LETHE_TOKEN=secret",
		"LETHE_TOKEN_FILE=/run/secrets/token",
		"lethe_api_listen=x",
		"LETHE=x",
		"no equals sign",
	} {
		_, err := Load([]string{entry})
		require.NoError(t, err, entry)
	}
	for _, name := range []string{"LETHE_", "LETHE_API_PORT", "LETHE_TEST", "LETHE_API_SERVICE", "LETHE_WORKER_LISTENS"} {
		_, err := Load([]string{name + "=8470"})
		require.Equal(t, []string{name + ": no such setting"}, problems(t, err))
	}
}

// FuzzYAML looks for a file that panics, and for a Config that breaks its own
// rules.
func FuzzYAML(f *testing.F) {
	example, err := os.ReadFile("../../docs/config.example.yaml")
	require.NoError(f, err)
	for _, seed := range []string{string(example), "", "a: &a [*a]", "? {a: b}\n: c", "--- \n...\n--- x", "worker:\n\t- x", "!!binary x: y", "<<: {a: b}"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, yaml string) {
		config := Default()
		l := loader{settings: map[string]setting{}, unset: map[string]bool{}}
		for _, s := range settings(&config) {
			l.settings[s.path] = s
		}
		root, err := parseYAML([]byte(yaml))
		if err != nil {
			return
		}
		(&file{loader: &l, lines: map[string]int{}}).section("", root)
		if config.Worker.Concurrency < 1 || config.StatusTTL < time.Minute || config.API.Listen == "" {
			t.Errorf("%q gives %+v", yaml, config)
		}
	})
}
