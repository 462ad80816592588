package config

import (
	"net/netip"
	"time"

	"lethe/internal/retention"
)

// The dialects of the admin API.
const (
	// DialectNow is what today's Synapse speaks.
	DialectNow = "now"
	// DialectSeed is what Synapse spoke when the first admin tools for it were
	// written.
	DialectSeed = "seed"
)

// Who says for whom an access token speaks.
const (
	// AuthDatabase is the database that Lethe works on.
	AuthDatabase = "database"
	// AuthHomeserver is the homeserver.
	AuthHomeserver = "homeserver"
)

// A Config is every setting of every Lethe process. Make one with [Load] or
// [Default]; the zero value is not valid.
//
// Each field tells its YAML key; its variable is the key in capitals with
// underscores for dots, after LETHE_: worker.time_slice is
// LETHE_WORKER_TIME_SLICE. A variable that is set but empty counts as set. A
// [Secret] may be in a file of its own, which the variable with _FILE behind it
// names.
type Config struct {
	// AccountValidity (account_validity) says that accounts expire, so that
	// Synapse's account_validity table is asked before an access token is
	// believed. Defaults to false.
	AccountValidity bool

	// API is the HTTP service.
	API API

	// Asynqmon shows the queues to admins.
	Asynqmon Asynqmon

	// Auth (auth) chooses who is asked about a caller's access token,
	// [AuthDatabase] or [AuthHomeserver]. Only the homeserver knows tokens that
	// it does not keep itself, such as those of Matrix Authentication Service
	// and of application services. Needs homeserver.url for "homeserver".
	// Defaults to "database".
	Auth string

	// Database is PostgreSQL.
	Database Database

	// Dialect (dialect) chooses between the admin API's two dialects,
	// [DialectNow] and [DialectSeed]. Defaults to "now".
	Dialect string

	// Homeserver is the homeserver whose rooms these are.
	Homeserver Homeserver

	// Lock says who is in which room.
	Lock Lock

	// Log is what a process writes to standard error.
	Log Log

	// Messages is how the history of rooms is read.
	Messages Messages

	// PurgeDelay (purge_delay) is the pause between the shutdown and the purge of
	// a room that is deleted asynchronously, in which clients get to know that
	// their users have left, from 0 to 720h. Defaults to 0, none.
	PurgeDelay time.Duration

	// Redis dispatches the jobs and keeps their statuses.
	Redis Redis

	// Retention is how long events are kept.
	Retention Retention

	// Scheduler enqueues what is due and takes up what was dropped.
	Scheduler Scheduler

	// ServerName (server_name) is the homeserver's own name, the part of its
	// user ids after the colon. API and worker need it. Defaults to "", unset.
	ServerName string

	// SigningKeyFile (signing_key_file) is the file with the homeserver's signing
	// key, in Synapse's format. A worker signs with it the events that it writes
	// into a room that is shut down. Without it, and without a homeserver to ask,
	// a room with members of other servers is not shut down. Defaults to "", unset.
	SigningKeyFile string

	// StatusTTL (status_ttl) is how long the status of a job that has ended is
	// served, from 1m to 8760h. Defaults to 24h.
	StatusTTL time.Duration

	// SynapseBeside (synapse_beside) says whether a Synapse runs on the same
	// database. On a schema that Synapse made a worker needs an answer, since
	// a forgotten one would be dangerous. True is refused: it is not built yet.
	// Defaults to nil, unset.
	SynapseBeside *bool

	// TrustedProxies (trusted_proxies) are the addresses or networks, such as
	// 10.0.0.0/8, of the reverse proxies whose X-Forwarded-For is believed: a
	// caller's address, by which wrong access tokens are counted, is then the last
	// in it that is none of theirs. A list, or a text with commas. Defaults to none:
	// a caller's address is that of its connection.
	TrustedProxies []netip.Prefix

	// Worker runs the jobs.
	Worker Worker
}

// API is the settings of the API process.
type API struct {
	// Listen (api.listen) is the host:port that is served; port 0 takes a free
	// one. Defaults to "127.0.0.1:8470".
	Listen string

	// TLS is api.tls_cert_file and api.tls_key_file.
	TLS TLS
}

// Asynqmon is the settings of the asynqmon process.
type Asynqmon struct {
	// Listen (asynqmon.listen) is the host:port of the pages, and of health and
	// metrics; port 0 takes a free one. Defaults to "127.0.0.1:8473".
	Listen string

	// ReadOnly (asynqmon.read_only) refuses every request that would change
	// something: pausing a queue, or deleting, archiving or running a task. That
	// is done behind Lethe's back, which gives a job whose task is gone another
	// one. Defaults to true.
	ReadOnly bool

	// TLS is asynqmon.tls_cert_file and asynqmon.tls_key_file.
	TLS TLS
}

// TLS is the certificate that a server shows. Both files are set, or neither,
// which serves plain HTTP.
type TLS struct {
	// CertFile (….tls_cert_file) holds the certificate in PEM, and those between
	// it and its authority. It is read again when it changes. Defaults to "", unset.
	CertFile string

	// KeyFile (….tls_key_file) holds the certificate's private key in PEM, and is
	// read again with it. Defaults to "", unset.
	KeyFile string
}

// Database is how a process reaches PostgreSQL.
type Database struct {
	// MaxConnections (database.max_connections) bounds one process's pool, from
	// 2 to 10000. Keep the fleet's sum below the server's max_connections.
	// Defaults to 16.
	MaxConnections int

	// URL (database.url) is postgres://user:password@host:port/database, or
	// PostgreSQL's keyword=value form. With ?sslmode=verify-full&sslrootcert=file
	// the server has to prove by TLS who it is. Every process needs it. Defaults
	// to "", unset.
	URL Secret
}

// Homeserver is how a process reaches the homeserver.
type Homeserver struct {
	// ASToken (homeserver.as_token) is the as_token of the application service
	// that Lethe is to the homeserver. Its namespace has all local users and
	// aliases, and rate_limited is false. It lets its holder act as any user,
	// server admins too. Defaults to "", unset.
	ASToken Secret

	// ConfigFile (homeserver.config_file) is Synapse's own configuration, such as
	// homeserver.yaml, from which server_name and Synapse's part of retention are
	// taken where they are not set here. Defaults to "", unset.
	ConfigFile string

	// URL (homeserver.url) is http://host:port or https://host, with no path.
	// The API passes on to it what it does not serve itself of /_matrix and
	// /_synapse/admin. Defaults to "", unset.
	URL string
}

// Lock is where the locks of rooms are kept.
type Lock struct {
	// RedisURLs (lock.redis_urls) are the redis:// or rediss:// URLs of
	// independent Redis masters, which do not replicate each other: an odd
	// number, three or more, the same for every process. A room is locked on
	// more than half of them, so locks survive the loss of fewer. A list, or a
	// text with commas. A master that lost its data must stay away for 10s
	// before it returns. Defaults to none: locks are kept in redis.url.
	RedisURLs []Secret
}

// Log is the settings of the log.
type Log struct {
	// Format (log.format) is text or json. Defaults to "text".
	Format string

	// Level (log.level) is the least level written: debug, info, warn or error.
	// Defaults to "info".
	Level string
}

// Messages is the settings of reading the history of rooms.
type Messages struct {
	// Backfill (messages.backfill) says that a reader who comes to a gap, or to
	// where this server's history begins, has the homeserver get more from other
	// servers, as it does for its own readers: a page of its own /messages is
	// asked for. Without homeserver.url nobody is asked. Defaults to true.
	Backfill bool

	// DepartedSeeLater (messages.departed_see_later) lets users who have left a
	// room read forwards beyond their leave what its history visibility does not
	// hide, as Synapse does. Defaults to false.
	DepartedSeeLater bool

	// Wait (messages.wait) is how long a reader waits for a purge's batch in the
	// same room before it is told to come again, from 100ms to 20s. It should be
	// several times worker.batch_time. Defaults to 5s.
	Wait time.Duration
}

// Redis is how a process reaches Redis.
type Redis struct {
	// URL (redis.url) is redis://user:password@host:port/db, or rediss:// for
	// TLS; redis-sentinel://user:password@host:port,host:port/db?master=name; or
	// redis-cluster://user:password@host:port,host:port. API, worker and
	// scheduler need it. See [redisdb.ValidURL]. Defaults to "", unset.
	URL Secret
}

// Retention is how long events are kept. Its keys are Synapse's, but for abandoned,
// clamp_reads, serve_configuration, and cron and name of a job. A duration is a
// whole number of ms, or one with its unit, s, m, h, d, w or y.
type Retention struct {
	// Rules are retention.enabled, retention.default_policy.min_lifetime and
	// .max_lifetime, retention.allowed_lifetime_min and _max, retention.clamp_reads
	// and retention.purge_jobs, a list of mappings of interval or cron, name,
	// shortest_max_lifetime and longest_max_lifetime. The variable of the list
	// holds it as YAML or JSON. Defaults to not enabled, with no limits, and with
	// [retention.Everything] as the only job, which is there in place of an empty
	// list too.
	//
	// They are also those of abandoned rooms: retention.abandoned.enabled, .after,
	// from 1d, .cool_off, from 1h, .interval or .cron, .max_per_run, from 1 to 10000,
	// and .exclude, a list of room ids, aliases and server names. These default to
	// not enabled, 30d, 1d, once a day, 100 and none.
	Rules retention.Config

	// ServeConfiguration (retention.serve_configuration) has the API tell users the
	// default policy and the allowed lifetimes, where retention is enabled.
	// Defaults to false.
	ServeConfiguration bool

	// Limits are those of the purges.
	Limits RetentionLimits
}

// Scheduler is the settings of the scheduler process.
type Scheduler struct {
	// Listen (scheduler.listen) is the host:port of health and metrics; port 0
	// takes a free one and "" turns it off. Defaults to "127.0.0.1:8472".
	Listen string
}

// Worker is the settings of the worker process.
type Worker struct {
	// BatchEvents (worker.batch_events) is the most events that a batch aims
	// for, from 1 to 1000000. A batch never splits a depth, so it may hold more.
	// Defaults to 20000.
	BatchEvents int

	// BatchTime (worker.batch_time) is how long a batch aims to take, from 10ms
	// to 5s: about as long as a reader may have to wait for one. Defaults to
	// 250ms.
	BatchTime time.Duration

	// Concurrency (worker.concurrency) is how many jobs one process runs at a
	// time, beside the purges of retention, from 1 to 1000. Each holds a database
	// connection while a batch runs. Defaults to 4.
	Concurrency int

	// DrainTimeout (worker.drain_timeout) is how long a worker that was told to
	// stop lets its batches finish, from 1s to 10m. Keep it below the time
	// after which the process is killed, 30s on Kubernetes. Defaults to 25s.
	DrainTimeout time.Duration

	// Listen (worker.listen) is the host:port of health and metrics; port 0
	// takes a free one and "" turns it off. Defaults to "127.0.0.1:8471".
	Listen string

	// TimeSlice (worker.time_slice) is how long a job runs before it lets
	// another one have its place, from 1s to 1h. Defaults to 30s.
	TimeSlice time.Duration
}

// Default returns the settings of a process that was told nothing. They are
// valid, but no process can run without a database.
func Default() Config {
	return Config{
		API:      API{Listen: "127.0.0.1:8470"},
		Asynqmon: Asynqmon{Listen: "127.0.0.1:8473", ReadOnly: true},
		Auth:     AuthDatabase,
		Database: Database{MaxConnections: 16},
		Dialect:  DialectNow,
		Log:      Log{Format: "text", Level: "info"},
		Messages: Messages{Backfill: true, Wait: 5 * time.Second},
		Retention: Retention{
			Rules: retention.Config{
				Abandoned: defaultAbandoned(), Jobs: []retention.Job{retention.Everything()},
			},
			Limits: defaultRetentionLimits(),
		},
		Scheduler: Scheduler{Listen: "127.0.0.1:8472"},
		StatusTTL: 24 * time.Hour,
		Worker: Worker{
			BatchEvents:  20_000,
			BatchTime:    250 * time.Millisecond,
			Concurrency:  4,
			DrainTimeout: 25 * time.Second,
			Listen:       "127.0.0.1:8471",
			TimeSlice:    30 * time.Second,
		},
	}
}
