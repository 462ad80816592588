package config

import (
	"fmt"
	"net/netip"
	"time"

	"lethe/internal/retention"
	"lethe/internal/schema"
)

// These are the dialects of the admin API.
const (
	// DialectNow is the dialect of current Synapse.
	DialectNow = "now"
	// DialectSeed is the dialect that Synapse had when the first admin tools for it
	// were written.
	DialectSeed = "seed"
)

// These are the ways to check an access token.
const (
	// AuthAuto finds out which of the others is right: see [Config.TokensAt].
	AuthAuto = "auto"
	// AuthDatabase checks a token in the database.
	AuthDatabase = "database"
	// AuthHomeserver asks the homeserver.
	AuthHomeserver = "homeserver"
	// AuthMAS asks Matrix Authentication Service.
	AuthMAS = "mas"
)

// A Config is every setting of every Lethe process. Make one with [Load] or
// [Default]; the zero value is not valid.
//
// The comment of a field has the setting's key in the YAML file in brackets.
// docs/configuration.md describes each setting in full; it is generated from the
// same table that [Load] uses.
type Config struct {
	// API is the settings of the API process.
	API API

	// AccountValidity (account_validity) is whether accounts can expire. Defaults
	// to false.
	AccountValidity bool

	// Asynqmon is the settings of the asynqmon process.
	Asynqmon Asynqmon

	// Auth (auth) is where access tokens are checked: [AuthAuto], [AuthDatabase],
	// [AuthHomeserver] or [AuthMAS]. Defaults to "auto".
	Auth string

	// Brake is the settings of what slows jobs down.
	Brake Brake

	// Console is the settings of the console, which the api serves.
	Console Console

	// Database is how a process reaches PostgreSQL.
	Database Database

	// Dialect (dialect) is the dialect of the admin API: [DialectNow] or
	// [DialectSeed]. Defaults to "now".
	Dialect string

	// Homeserver is how a process reaches the homeserver.
	Homeserver Homeserver

	// JournalKeep (journal.keep) is how long the row of a job is kept after the job has
	// ended, and an entry of the audit, at least as long as StatusTTL. Defaults to 2160h.
	JournalKeep time.Duration

	// Lock is where the locks of rooms are kept.
	Lock Lock

	// Log is what a process writes to standard error.
	Log Log

	// MAS is how a process reaches Matrix Authentication Service.
	MAS MAS

	// Messages is how the history of rooms is read.
	Messages Messages

	// Grace (grace) is how long an accepted job waits before anything is done. Defaults
	// to 0s.
	Grace time.Duration

	// PurgeDelay (purge_delay) is the wait between the shutdown and the purge of a
	// room that is deleted asynchronously. Defaults to 0s.
	PurgeDelay time.Duration

	// Redis is how a process reaches Redis.
	Redis Redis

	// Retention is how long events are kept.
	Retention Retention

	// Scheduler is the settings of the scheduler process.
	Scheduler Scheduler

	// SchemaCompat (schema.compat) is the highest compat_version of Synapse's schema
	// that purges accept. Defaults to 84.
	SchemaCompat int

	// ServerName (server_name) is the name of the homeserver. Defaults to "", unset.
	ServerName string

	// SigningKeyFile (signing_key_file) is the path of the homeserver's signing
	// key. Defaults to "", unset.
	SigningKeyFile string

	// StatusTTL (status_ttl) is how long the status of an ended job is served.
	// Defaults to 24h.
	StatusTTL time.Duration

	// SynapseBeside (synapse_beside) is whether a Synapse may run on the database at the
	// same time: "auto", "true" or "false", see [synapse.Mode]. Defaults to "auto".
	SynapseBeside string

	// Tables (tables) is the rules for tables of the homeserver that Lethe does not
	// know. Defaults to nil, unset.
	Tables schema.Rules

	// TrustedProxies (trusted_proxies) is the networks of the reverse proxies whose
	// X-Forwarded-For is believed. Defaults to
	// "127.0.0.0/8, ::1".
	TrustedProxies []netip.Prefix

	// Vacuum is how workers vacuum the tables that jobs have emptied.
	Vacuum Vacuum

	// Worker is the settings of the worker process.
	Worker Worker
}

// API is the settings of the API process.
type API struct {
	// CacheBytes (api.cache_bytes) is the memory that is kept of events and states, in
	// bytes. Defaults to 67108864.
	CacheBytes int

	// Listen (api.listen) is the host:port to listen on. Defaults to
	// "127.0.0.1:8470".
	Listen string

	// MetricsListen (api.metrics_listen) is the host:port of the metrics; "" turns them
	// off. Defaults to "127.0.0.1:8474".
	MetricsListen string

	// TLS is the certificate of the API: api.tls_cert_file and api.tls_key_file.
	TLS TLS
}

// Asynqmon is the settings of the asynqmon process.
type Asynqmon struct {
	// Listen (asynqmon.listen) is the host:port to listen on. Defaults to
	// "127.0.0.1:8473".
	Listen string

	// MetricsListen (asynqmon.metrics_listen) is the host:port of the metrics; "" turns
	// them off. Defaults to "127.0.0.1:8475".
	MetricsListen string

	// ReadOnly (asynqmon.read_only) is whether requests that would change something
	// are refused. Defaults to true.
	ReadOnly bool

	// TLS is the certificate of the pages: asynqmon.tls_cert_file and
	// asynqmon.tls_key_file.
	TLS TLS
}

// Console is the settings of the console, which the api serves.
type Console struct {
	// Enabled (console.enabled) is whether the api serves the console. Defaults to false.
	Enabled bool

	// Readers (console.readers) is the ids of the users who may look at the console and
	// change nothing. Defaults to nil, unset.
	Readers []string

	// SessionTime (console.session_time) is how long a session lasts. Defaults to 8h.
	SessionTime time.Duration
}

// TLS is the certificate of a server. Either both fields are set, or neither: then
// the server speaks plain HTTP.
type TLS struct {
	// CertFile is the path of the certificate, in PEM. Defaults to "", unset.
	CertFile string

	// KeyFile is the path of the certificate's private key, in PEM. Defaults to "",
	// unset.
	KeyFile string
}

// Database is how a process reaches PostgreSQL.
type Database struct {
	// MaxConnections (database.max_connections) is the size of one process's pool.
	// Defaults to 16.
	MaxConnections int

	// URL (database.url) is a PostgreSQL URL or keyword=value text. Defaults to "",
	// unset.
	URL Secret
}

// Homeserver is how a process reaches the homeserver.
type Homeserver struct {
	// ASToken (homeserver.as_token) is the token of Lethe's application service.
	// Defaults to "", unset.
	ASToken Secret

	// ConfigFile (homeserver.config_file) is the path of Synapse's configuration.
	// Defaults to "", unset.
	ConfigFile string

	// Delegates says that the file at ConfigFile delegates the homeserver's accounts to
	// Matrix Authentication Service, so that access tokens are not in the database. It
	// is no setting. Defaults to false.
	Delegates bool

	// RedisURL (homeserver.redis_url) is the URL of the Redis through which the
	// homeserver's processes talk to each other. Defaults to "", unset.
	RedisURL Secret

	// URL (homeserver.url) is the URL of the homeserver. Defaults to "", unset.
	URL string
}

// Lock is where the locks of rooms are kept.
type Lock struct {
	// RedisURLs (lock.redis_urls) is the URLs of independent Redis masters. If it is
	// nil, the locks are in the Redis of redis.url. Defaults to nil, unset.
	RedisURLs []Secret
}

// Log is the settings of the log.
type Log struct {
	// Format (log.format) is text or json. Defaults to "text".
	Format string

	// Level (log.level) is the lowest level that is logged: debug, info, warn or
	// error. Defaults to "info".
	Level string
}

// MAS is how a process reaches Matrix Authentication Service. Either both fields are
// set, or neither.
type MAS struct {
	// Secret (mas.secret) is the secret that the service shares with the homeserver.
	// Defaults to "", unset.
	Secret Secret

	// URL (mas.url) is the URL of the service. Defaults to "", unset.
	URL string
}

// Messages is the settings of reading the history of rooms.
type Messages struct {
	// Backfill (messages.backfill) is whether the homeserver is asked for more
	// history. Defaults to true.
	Backfill bool

	// DepartedSeeLater (messages.departed_see_later) is whether users who have left
	// a room can read events from after they left. Defaults to false.
	DepartedSeeLater bool

	// FilterTime (messages.filter_time) is how long the database looks for the events of a
	// user's page by a filter. Defaults to 5s.
	FilterTime time.Duration

	// MaxPageBytes (messages.max_page_bytes) is the size that ends a page, in bytes.
	// Defaults to 4194304.
	MaxPageBytes int

	// MaxTotalBytes (messages.max_total_bytes) is the memory of all pages together, in
	// bytes. Defaults to 50331648.
	MaxTotalBytes int

	// Wait (messages.wait) is how long a reader waits for a purge's batch. Defaults
	// to 5s.
	Wait time.Duration
}

// Redis is how a process reaches Redis.
type Redis struct {
	// URL (redis.url) is a URL that [redisdb.ValidURL] accepts. Defaults to "",
	// unset.
	URL Secret
}

// Retention is how long events are kept.
type Retention struct {
	// Rules is the policies, the purge jobs and the rules for abandoned rooms: all
	// settings below retention but those of the other fields. Defaults to disabled,
	// with [retention.Everything] as the only purge job.
	Rules retention.Config

	// ServeConfiguration (retention.serve_configuration) is whether the API tells
	// users the default policy and the allowed lifetimes. Defaults to false.
	ServeConfiguration bool

	// Limits is the load that purges of retention may cause.
	Limits RetentionLimits
}

// RetentionLimits limit the load that purges of retention cause. Every worker must
// have the same limits.
type RetentionLimits struct {
	// MaxQueued (retention.max_queued) is how many purges can be queued or running
	// at once, in all workers together. Defaults to 1000.
	MaxQueued int

	// MaxRunning (retention.max_running) is how many purges run at once, in all
	// workers together. Defaults to 2.
	MaxRunning int

	// RowsPerSecond (retention.rows_per_second) is how many rows per second the
	// purges delete, in all workers together; 0 is no limit. Defaults to 0.
	RowsPerSecond int
}

// Scheduler is the settings of the scheduler process.
type Scheduler struct {
	// Listen (scheduler.listen) is the host:port of health and metrics; "" turns
	// them off. Defaults to "127.0.0.1:8472".
	Listen string
}

// Vacuum is how workers vacuum the tables that jobs have emptied.
type Vacuum struct {
	// CostDelay (vacuum.cost_delay) is the server's vacuum_cost_delay for it. Defaults to
	// 2ms.
	CostDelay time.Duration

	// CostLimit (vacuum.cost_limit) is the server's vacuum_cost_limit for it. Defaults to
	// 1000.
	CostLimit int

	// DatabaseURL (vacuum.database_url) is the URL of the database for the role that
	// vacuums. Without it that is the role of the worker. Defaults to "", unset.
	DatabaseURL Secret

	// DeadShare (vacuum.dead_share) is the share of dead rows from which on a table is
	// vacuumed. Defaults to 0.05.
	DeadShare float64

	// Enabled (vacuum.enabled) is whether Lethe vacuums at all. Defaults to true.
	Enabled bool

	// IndexWalk (vacuum.index_walk) is whether the index entries of purged events are read
	// once after a purge. Defaults to true.
	IndexWalk bool

	// MinRows (vacuum.min_rows) is the number of dead rows from which on a table is
	// vacuumed. Defaults to 10000.
	MinRows int

	// SnapshotWait (vacuum.snapshot_wait) is how long after a job's end its tables wait for
	// the end of older snapshots. Defaults to 5m.
	SnapshotWait time.Duration

	// Timeout (vacuum.timeout) is how long the VACUUM of one table may take. Defaults to 1h.
	Timeout time.Duration
}

// Brake is the settings of what slows jobs down.
type Brake struct {
	// Enabled (brake.enabled) is whether jobs slow down. Defaults to true.
	Enabled bool

	// Standbys (brake.standbys) is the application_names of the standbys that count.
	// Defaults to nil, unset.
	Standbys []string

	// DiskPath (brake.disk_path) is a folder in the file system of the database's data.
	// Defaults to "", unset.
	DiskPath string

	// PrometheusURL (brake.prometheus_url) is the URL of a Prometheus. Defaults to "", unset.
	PrometheusURL Secret

	// PrometheusQuery (brake.prometheus_query) is the query whose number counts. Defaults to
	// "", unset.
	PrometheusQuery string
}

// Worker is the settings of the worker process.
type Worker struct {
	// BatchEvents (worker.batch_events) is the largest number of events that a
	// batch aims for. Defaults to 20000.
	BatchEvents int

	// BatchTime (worker.batch_time) is how long a batch should take. Defaults to
	// 250ms.
	BatchTime time.Duration

	// Concurrency (worker.concurrency) is how many jobs one worker runs at once,
	// purges of retention not included. Defaults to 4.
	Concurrency int

	// DrainTimeout (worker.drain_timeout) is how long a stopping worker lets its
	// batches finish. Defaults to 25s.
	DrainTimeout time.Duration

	// Listen (worker.listen) is the host:port of health and metrics; "" turns them
	// off. Defaults to "127.0.0.1:8471".
	Listen string

	// MappingDelay (worker.mapping_delay) is how long purges beside a Synapse leave the
	// states of purged events. Defaults to 10s.
	MappingDelay time.Duration

	// MaxLockWait (worker.max_lock_wait) is how long a job waits for a lock of another
	// session, or for space on PostgreSQL's disk, before it fails. Defaults to 24h.
	MaxLockWait time.Duration

	// TimeSlice (worker.time_slice) is how long a job runs before it lets another
	// job run. Defaults to 30s.
	TimeSlice time.Duration

	// WALCompression (worker.wal_compression) is what workers set wal_compression to:
	// "auto", "off", "pglz", "lz4" or "zstd". Defaults to "auto".
	WALCompression string
}

// Default returns the default settings. They are valid, but every process needs
// a database.url too.
func Default() Config {
	var config Config
	l := newLoader(&config)
	for _, s := range l.settings {
		if s.defaultText != "" {
			l.set(s.path, s.path, s.defaultText)
		}
	}
	if len(l.errs) > 0 {
		panic(fmt.Sprintf("config: invalid defaults: %v", l.errs))
	}
	return config
}
