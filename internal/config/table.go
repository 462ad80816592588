package config

import (
	"strconv"
	"time"

	"lethe/internal/schema"
)

func generalSettings(c *Config) []setting {
	return []setting{
		row("server_name", "", optional(&c.ServerName, serverNameFormat).like("example.org"),
			`The name of this homeserver: the part of its user ids after the colon.`).needed(ForAPI, ForWorker),
		row("synapse_beside", "auto", oneOf(&c.SynapseBeside, "auto", "true", "false"),
			`Whether a Synapse may use the database while Lethe runs. "auto" suits nearly everybody: purges and deletes take
			Synapse's locks and keep its caches right, whether Synapse runs or not. If one is seen that cannot be told of
			a purge, jobs wait and say why. "true" makes them wait even if none is seen. With "false" they leave out all that
			only a running Synapse needs, which makes small purges faster, and they wait while a Synapse is seen.`),
		row("dialect", DialectNow, oneOf(&c.Dialect, DialectNow, DialectSeed),
			`The dialect of the admin API. "now" is the API of current Synapse. "seed" is the API that Synapse had
			when the first admin tools for it were written.`),
		row("auth", AuthAuto, oneOf(&c.Auth, AuthAuto, AuthDatabase, AuthHomeserver, AuthMAS),
			`Where Lethe checks the access token of a request. "database" checks it in the database. "homeserver" asks
			the homeserver, which is necessary for tokens of application services, and needs homeserver.url. "mas" asks
			Matrix Authentication Service, and needs mas.url and mas.secret. "auto" is "mas" if mas.url is set, here or
			by homeserver.config_file. Otherwise it is "database", unless the homeserver at homeserver.url delegates its
			accounts: then it is "homeserver". Where accounts are delegated, "database" is refused, because the tokens
			are not in the database.`),
		row("account_validity", "false", boolean(&c.AccountValidity),
			`Whether accounts can expire. If true, Lethe checks Synapse's account_validity table before it accepts an
			access token.`),
		row("status_ttl", "24h", duration(&c.StatusTTL, time.Minute, 365*24*time.Hour),
			`How long the API serves the status of a job after the job has ended.`),
		row("journal.keep", "2160h", duration(&c.JournalKeep, time.Minute, 20*365*24*time.Hour),
			`How long the row of a job is kept in lethe.jobs after the job has ended, 90 days by default. An entry of
			lethe.audit is kept as long after its time. The rows are
			personal data: they have the ids of rooms, of the admins who made the requests and of the users who were
			removed, and the aliases and the message of a delete. The schedulers delete older rows, up to 100,000 of each
			table in 10 minutes. They keep jobs that have not ended, the last sweep of each schedule, and holds. The value must be
			at least status_ttl. If only status_ttl is set, and is longer than the default, this is as long.`),
		row("grace", "0s", duration(&c.Grace, 0, 365*24*time.Hour),
			`How long an accepted job waits before anything is done. During this time it can be cancelled, and nothing is
			blocked, no user is removed and no event is purged. A request to Lethe's own API, and the commands of lethe,
			may name another grace. A synchronous delete does not wait. The sweeps of schedules wait too, but not the
			purges and deletes that they make.`),
		row("purge_delay", "0s", duration(&c.PurgeDelay, 0, 30*24*time.Hour),
			`How long to wait between the shutdown of a room and its purge. During this time clients learn that their
			users have left the room. A synchronous delete does not wait.`),
		row("schema.compat", strconv.Itoa(schema.NewestCompat), number(&c.SchemaCompat, schema.NewestCompat, 10_000),
			`The highest compat_version of Synapse's schema that purges and deletes accept. A new Synapse raises it when
			programs for older schemas can no longer use the database. Read the release notes of that Synapse before
			you raise it here. Reads do not depend on it.`),
		row("tables", "", tableRules(&c.Tables).like("[new_table=delete_by_room, other_table=keep]"),
			`What purges do with tables of the homeserver that this version of Lethe does not know. If such a table has
			a column like room_id or event_id, Lethe refuses all purges and deletes until the table is listed here.
			table=delete_by_room deletes the rows by room_id when a room is deleted. table=delete_by_event deletes
			the rows by event_id when an event is deleted. table=keep leaves the rows. Lethe's role needs SELECT and
			DELETE on the table, and the column must have the type text. Two tables that Lethe knows can be listed too,
			because otherwise their rows stay. event_reports=delete_by_event deletes the reports of an event with the
			event or its room, and event_reports=delete_by_room only with its room. room_reports=delete_by_room deletes
			the reports of a room with the room. In a variable, separate the items with commas.`),
		row("trusted_proxies", "127.0.0.0/8, ::1", networks(&c.TrustedProxies),
			`The addresses or networks of your reverse proxies. Lethe counts wrong access tokens by the address of the
			client. Behind a trusted proxy it takes that address from X-Forwarded-For: the last address there that is
			not a trusted proxy. Requests that are passed on to the homeserver say this address. Without the address of
			the proxy, all clients behind it count as one. The default is a proxy on the same machine. In a variable,
			separate the items with commas.`),
		row("signing_key_file", "", optional(&c.SigningKeyFile, filePathFormat).like("/etc/synapse/example.org.signing.key"),
			`The file with the homeserver's signing key, in Synapse's format. When a worker shuts down a room, it signs
			the events that it writes with this key. Without the key and without homeserver.as_token, users cannot
			leave rooms that have members on other servers.`),
	}
}

func serverSettings(c *Config) []setting {
	return []setting{
		row("database.url", "", optional(&c.Database.URL, databaseURLFormat).secret().like("postgres://lethe:password@127.0.0.1:5432/synapse"),
			`The URL of the PostgreSQL database, or PostgreSQL's keyword=value form. With
			?sslmode=verify-full&sslrootcert=/path/to/ca.pem the connection uses TLS and the server's certificate is
			verified. asynqmon needs it only where auth is database.`).needed(ForAPI, ForDatabase, ForScheduler, ForWorker),
		row("database.max_connections", "16", number(&c.Database.MaxConnections, 2, 10_000),
			`The largest number of database connections of one process. Keep the sum over all processes below
			max_connections of the server.`),
		row("redis.url", "", optional(&c.Redis.URL, redisURLFormat).secret().like("redis://:password@127.0.0.1:6379/0"),
			`The URL of Redis. For Sentinel it is redis-sentinel://:password@host:26379,host:26379/0?master=name, and
			for a Cluster redis-cluster://:password@host:6379,host:6379. For TLS, write rediss instead of redis; add
			?ca_file=/path/to/ca.pem for a certificate authority of your own. The server's maxmemory-policy must be
			noeviction.`).needed(ForAPI, ForAsynqmon, ForScheduler, ForWorker),
		row("homeserver.config_file", "", optional(&c.Homeserver.ConfigFile, filePathFormat).like("/etc/synapse/homeserver.yaml"),
			`The configuration file of Synapse. Lethe reads server_name, redis, matrix_authentication_service and Synapse's
			retention settings there. A setting that is set for Lethe too overrides it.`),
		row("homeserver.url", "", optional(&c.Homeserver.URL, homeserverURLFormat).like("http://127.0.0.1:8008"),
			`The URL of the homeserver. If the API gets a request below /_matrix or /_synapse/admin that it does not serve
			itself, it forwards the request to this URL.`),
		row("homeserver.as_token", "", optional(&c.Homeserver.ASToken, tokenFormat).secret().like("a-long-random-text"),
			`The as_token of Lethe's application service. The registration must cover all local users and aliases and
			set rate_limited to false. Keep this token secret: it can act as any user, server admins included.`),
		row("homeserver.redis_url", "", optional(&c.Homeserver.RedisURL, redisURLFormat).secret().like("redis://:password@127.0.0.1:6379"),
			`The URL of Synapse's Redis, in the same forms as redis.url. Lethe tells Synapse's processes there which of
			their caches are stale. Set it if Synapse has redis enabled. It is also read from homeserver.config_file. A
			Synapse without Redis is told through the database, which takes up to a minute for each job.`),
		row("mas.url", "", optional(&c.MAS.URL, masURLFormat).like("http://127.0.0.1:8080"),
			`The URL of Matrix Authentication Service, if the homeserver delegates its accounts to it. Lethe asks the
			service about access tokens. Without this setting, it is the endpoint of matrix_authentication_service in
			homeserver.config_file.`),
		row("mas.secret", "", optional(&c.MAS.Secret, secretFormat).secret().like("another-long-random-text"),
			`The secret that Matrix Authentication Service shares with the homeserver: matrix.secret of its configuration.
			Without this setting, it is the secret, or the text in secret_path, of matrix_authentication_service in
			homeserver.config_file. Keep this secret: it can manage every account.`),
		row("lock.redis_urls", "", lockURLs(&c.Lock.RedisURLs).secret().like("[redis://10.0.0.1:6379, redis://10.0.0.2:6379, redis://10.0.0.3:6379]"),
			`The URLs of independent Redis masters that keep the room locks. There must be an odd number of them, three
			or more, without replication between them, and every process needs the same list. Locks survive the loss of
			fewer than half of the masters. A master that has lost its data must stay offline for 10s before it
			returns. Without this setting, the locks are in redis.url. In a variable, separate the URLs with commas.`),
	}
}

const asynqmonDoc = `The asynqmon process serves web pages that show the queues to server admins. The browser asks for a
	user and a password: any user name will do, and the password is the admin's access token.`

func processSettings(c *Config) []setting {
	w, b := &c.Worker, &c.Brake
	return []setting{
		row("api.cache_bytes", "67108864", number(&c.API.CacheBytes, 0, 1<<40),
			`The memory in which an api keeps what pages have read of events and of the states of rooms, in bytes. Every
			page still reads from the database which events exist and whether they have changed. With 0, every page reads
			all from the database.`),
		row("api.listen", "127.0.0.1:8470", required(&c.API.Listen, addressFormat),
			`The host:port that the API listens on. Port 0 takes a free port.`),
		row("api.metrics_listen", "127.0.0.1:8474", optional(&c.API.MetricsListen, addressFormat),
			`The host:port that serves the metrics of the api, over plain HTTP. Let only Prometheus reach it: metrics show
			how much users and admins do. Port 0 takes a free port, and "" turns it off.`),
		row("api.tls_cert_file", "", optional(&c.API.TLS.CertFile, filePathFormat).like("/etc/lethe/tls.crt"),
			`The file with the TLS certificate of the API and its intermediate certificates, in PEM. Lethe reads it
			again when it changes. Without it, the API serves plain HTTP. It needs api.tls_key_file.`),
		row("api.tls_key_file", "", optional(&c.API.TLS.KeyFile, filePathFormat).like("/etc/lethe/tls.key"),
			`The file with the private key of api.tls_cert_file, in PEM.`),
		row("asynqmon.listen", "127.0.0.1:8473", required(&c.Asynqmon.Listen, addressFormat),
			`The host:port that serves the pages and health. Port 0 takes a free port.`),
		row("asynqmon.metrics_listen", "127.0.0.1:8475", optional(&c.Asynqmon.MetricsListen, addressFormat),
			`The host:port that serves the metrics of asynqmon, over plain HTTP. Port 0 takes a free port, and "" turns it
			off.`),
		row("asynqmon.read_only", "true", boolean(&c.Asynqmon.ReadOnly),
			`Whether to refuse every request that would change something, such as pausing a queue or deleting a task.
			If false, be careful: Lethe does not see such changes, and it enqueues a job again whose task was deleted.`),
		row("asynqmon.tls_cert_file", "", optional(&c.Asynqmon.TLS.CertFile, filePathFormat).like("/etc/lethe/tls.crt"),
			`The file with the TLS certificate of the pages and its intermediate certificates, in PEM. Lethe reads it
			again when it changes. Without it, the pages are served over plain HTTP. It needs asynqmon.tls_key_file.`),
		row("asynqmon.tls_key_file", "", optional(&c.Asynqmon.TLS.KeyFile, filePathFormat).like("/etc/lethe/tls.key"),
			`The file with the private key of asynqmon.tls_cert_file, in PEM.`),
		row("messages.backfill", "true", boolean(&c.Messages.Backfill),
			`Whether Lethe asks the homeserver for more history when a reader reaches a gap, or the start of the history
			that this server has. The homeserver then fetches the events from other servers, as it does for its own
			readers. It has no effect without homeserver.url.`),
		row("messages.departed_see_later", "false", boolean(&c.Messages.DepartedSeeLater),
			`Whether users who have left a room can read events from after they left, as in Synapse. The room's history
			visibility still applies.`),
		row("messages.filter_time", "5s", duration(&c.Messages.FilterTime, 100*time.Millisecond, 20*time.Second),
			`How long the database looks for the events of a user's page by a filter. After that, the user is told to try
			again. A filter that selects few events reads the whole room. Without a filter a page is found by an index.`),
		row("messages.max_page_bytes", "4194304", number(&c.Messages.MaxPageBytes, 1<<16, 1<<26),
			`The size that ends a page, in bytes of JSON, with all that the events are shown with. A page that ends early
			has the token of the next page, as every page has. An event that is larger has a page of its own.`),
		row("messages.max_total_bytes", "50331648", number(&c.Messages.MaxTotalBytes, 1<<25, 1<<40),
			`The memory that the pages of one api may take together, in bytes. A page counts from before it is read until
			the client has taken it. When all is taken, further readers are told to try again. The api aims to stay
			below this, api.cache_bytes and 40 MiB more, or below GOMEMLIMIT if that is less.`),
		row("messages.wait", "5s", duration(&c.Messages.Wait, 100*time.Millisecond, 20*time.Second),
			`How long a reader waits while a purge works on the same room. After that, the reader is told to try again.
			Set it to several times worker.batch_time.`),
		row("worker.listen", "127.0.0.1:8471", optional(&w.Listen, addressFormat),
			`The host:port that serves the worker's health and metrics. Port 0 takes a free port, and "" turns it off.`),
		row("worker.concurrency", "4", number(&w.Concurrency, 1, 1000),
			`How many jobs one worker runs at once. Purges of retention run in addition: see retention.max_running. Each
			job holds a database connection while a batch runs.`),
		row("worker.batch_time", "250ms", duration(&w.BatchTime, 10*time.Millisecond, 5*time.Second),
			`How long one batch of a purge should take. The worker adjusts the size of the batches to it. A reader of the
			same room may have to wait this long.`),
		row("worker.batch_events", "20000", number(&w.BatchEvents, 1, 1_000_000),
			`The largest number of events that a batch aims for. Events of the same depth are never split between batches,
			so a batch can be larger.`),
		row("worker.mapping_delay", "10s", duration(&w.MappingDelay, 5*time.Second, 10*time.Minute),
			`How long a purge beside a Synapse leaves the rows of purged events in event_to_state_groups. A Synapse that
			is about to answer a request for such an event fails without them. The purge is complete when they are gone;
			while it waits for that, it occupies no worker.`),
		row("worker.max_lock_wait", "24h", duration(&w.MaxLockWait, time.Minute, 30*24*time.Hour),
			`How long a job waits for a lock of another session of PostgreSQL before it fails. Meanwhile it waits in the
			queue, and its waits_for names the session.`),
		row("worker.time_slice", "30s", duration(&w.TimeSlice, time.Second, time.Hour),
			`How long a job runs before it lets another waiting job run.`),
		row("worker.drain_timeout", "25s", duration(&w.DrainTimeout, time.Second, 10*time.Minute),
			`How long a stopping worker lets its batches finish. Keep it below the time after which the
			process is killed, which is 30s on Kubernetes.`),
		row("worker.wal_compression", "auto", oneOf(&w.WALCompression, "auto", "off", "pglz", "lz4", "zstd"),
			`How PostgreSQL compresses the whole pages that a worker's deletes write to the WAL. auto is the best that the
			server was built with, if the role may set wal_compression, and otherwise the server's own setting. A worker
			does not start with pglz, lz4 or zstd if the server or the role cannot use it. off leaves the server's own
			setting.`),
		row("brake.enabled", "true", boolean(&b.Enabled),
			`Whether jobs slow down, and wait, while PostgreSQL has enough to do: while standbys or the archive are
			behind, other sessions wait for Lethe's locks, or commits are slow. lethe brake shows the limits and changes
			them.`),
		row("brake.standbys", "", standbys(&b.Standbys).like("[replica1, replica2]"),
			`The application_names of the standbys that count. If one of them is not connected, it is as far behind as
			it is away. Without this setting, all connected standbys count. In a variable, separate the names with
			commas.`),
		row("brake.disk_path", "", optional(&b.DiskPath, filePathFormat).like("/var/lib/postgresql"),
			`A folder in the file system of PostgreSQL's data, if it is on the worker's machine. Its free space counts
			then.`),
		row("brake.prometheus_url", "", optional(&b.PrometheusURL, prometheusURLFormat).secret().like("http://127.0.0.1:9090"),
			`The URL of a Prometheus that is asked for brake.prometheus_query.`),
		row("brake.prometheus_query", "", optional(&b.PrometheusQuery, queryFormat).like("max(rate(node_pressure_io_waiting_seconds_total[1m]))"),
			`A query in PromQL. Its largest number counts. Set the limits with lethe brake set query. The query needs
			brake.prometheus_url.`),
		row("scheduler.listen", "127.0.0.1:8472", optional(&c.Scheduler.Listen, addressFormat),
			`The host:port that serves the scheduler's health and metrics. Port 0 takes a free port, and "" turns it off.`),
	}
}

func logSettings(l *Log) []setting {
	return []setting{
		row("log.level", "info", oneOf(&l.Level, "debug", "info", "warn", "error"),
			`The lowest level of messages that are logged.`),
		row("log.format", "text", oneOf(&l.Format, "text", "json"),
			`The format of the log.`),
	}
}
