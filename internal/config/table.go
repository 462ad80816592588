package config

import "time"

func generalSettings(c *Config) []setting {
	return []setting{{
		path: "server_name", value: optional(&c.ServerName, serverNameFormat), example: "example.org",
		neededBy: []Purpose{ForAPI, ForWorker},
		doc:      `The name of this homeserver: the part of its user ids after the colon.`,
	}, {
		path: "synapse_beside", value: synapseBeside(&c.SynapseBeside), example: "false",
		doc: `Whether a Synapse uses the same database while Lethe runs. If Synapse created the database, a worker
			starts only when this is set, because a wrong guess could destroy data. Only false is supported: stop Synapse
			while Lethe purges.`,
	}, {
		path: "dialect", value: oneOf(&c.Dialect, DialectNow, DialectSeed), defaultText: DialectNow,
		doc: `The dialect of the admin API. "now" is the API of current Synapse. "seed" is the API that Synapse had
			when the first admin tools for it were written.`,
	}, {
		path: "auth", value: oneOf(&c.Auth, AuthDatabase, AuthHomeserver), defaultText: AuthDatabase,
		doc: `Where Lethe checks the access token of a request. "database" checks it in the database. "homeserver" asks
			the homeserver, which is necessary for tokens of Matrix Authentication Service and of application services.
			It needs homeserver.url.`,
	}, {
		path: "account_validity", value: boolean(&c.AccountValidity), defaultText: "false",
		doc: `Whether accounts can expire. If true, Lethe checks Synapse's account_validity table before it accepts an
			access token.`,
	}, {
		path: "status_ttl", value: duration(&c.StatusTTL, time.Minute, 365*24*time.Hour), defaultText: "24h",
		doc: `How long the API serves the status of a job after the job has ended.`,
	}, {
		path: "purge_delay", value: duration(&c.PurgeDelay, 0, 30*24*time.Hour), defaultText: "0s",
		doc: `How long to wait between the shutdown of a room and its purge. During this time clients learn that their
			users have left the room. A synchronous delete does not wait.`,
	}, {
		path: "trusted_proxies", value: networks(&c.TrustedProxies), example: "[127.0.0.1, 10.0.0.0/8]",
		doc: `The addresses or networks of your reverse proxies. Lethe counts wrong access tokens by the address of the
			client. Behind a trusted proxy it takes that address from X-Forwarded-For: the last address there that is
			not a trusted proxy. Without this setting, all clients behind a proxy count as one. In a variable, separate
			the items with commas.`,
	}, {
		path: "signing_key_file", value: optional(&c.SigningKeyFile, filePathFormat), example: "/etc/synapse/example.org.signing.key",
		doc: `The file with the homeserver's signing key, in Synapse's format. When a worker shuts down a room, it signs
			the events that it writes with this key. Without the key and without homeserver.as_token, users cannot
			leave rooms that have members on other servers.`,
	}}
}

func serverSettings(c *Config) []setting {
	return []setting{{
		path: "database.url", value: optional(&c.Database.URL, databaseURLFormat), secret: true,
		example:  "postgres://lethe:password@127.0.0.1:5432/synapse",
		neededBy: []Purpose{ForAPI, ForAsynqmon, ForDatabase, ForScheduler, ForWorker},
		doc: `The URL of the PostgreSQL database, or PostgreSQL's keyword=value form. With
			?sslmode=verify-full&sslrootcert=/path/to/ca.pem the connection uses TLS and the server's certificate is
			verified.`,
	}, {
		path: "database.max_connections", value: number(&c.Database.MaxConnections, 2, 10_000), defaultText: "16",
		doc: `The largest number of database connections of one process. Keep the sum over all processes below
			max_connections of the server.`,
	}, {
		path: "redis.url", value: optional(&c.Redis.URL, redisURLFormat), secret: true, example: "redis://:password@127.0.0.1:6379/0",
		neededBy: []Purpose{ForAPI, ForAsynqmon, ForScheduler, ForWorker},
		doc: `The URL of Redis. For Sentinel it is redis-sentinel://:password@host:26379,host:26379/0?master=name, and
			for a Cluster redis-cluster://:password@host:6379,host:6379. For TLS, write rediss instead of redis; add
			?ca_file=/path/to/ca.pem for a certificate authority of your own. The server's maxmemory-policy must be
			noeviction.`,
	}, {
		path: "homeserver.config_file", value: optional(&c.Homeserver.ConfigFile, filePathFormat), example: "/etc/synapse/homeserver.yaml",
		doc: `The configuration file of Synapse. Lethe reads server_name and Synapse's retention settings there. A setting
			that is set for Lethe too overrides it.`,
	}, {
		path: "homeserver.url", value: optional(&c.Homeserver.URL, homeserverURLFormat),
		example: "http://127.0.0.1:8008",
		doc: `The URL of the homeserver. If the API gets a request below /_matrix or /_synapse/admin that it does not serve
			itself, it forwards the request to this URL.`,
	}, {
		path: "homeserver.as_token", value: optional(&c.Homeserver.ASToken, tokenFormat), secret: true, example: "a-long-random-text",
		doc: `The as_token of Lethe's application service. The registration must cover all local users and aliases and
			set rate_limited to false. Keep this token secret: it can act as any user, server admins included.`,
	}, {
		path: "lock.redis_urls", value: lockURLs(&c.Lock.RedisURLs), secret: true,
		example: "[redis://10.0.0.1:6379, redis://10.0.0.2:6379, redis://10.0.0.3:6379]",
		doc: `The URLs of independent Redis masters that keep the room locks. There must be an odd number of them, three
			or more, without replication between them, and every process needs the same list. Locks survive the loss of
			fewer than half of the masters. A master that has lost its data must stay offline for 10s before it
			returns. Without this setting, the locks are in redis.url. In a variable, separate the URLs with commas.`,
	}}
}

const asynqmonDoc = `The asynqmon process serves web pages that show the queues to server admins. The browser asks for a
	user and a password: any user name will do, and the password is the admin's access token.`

func processSettings(c *Config) []setting {
	w := &c.Worker
	return []setting{{
		path: "api.listen", value: required(&c.API.Listen, addressFormat), defaultText: "127.0.0.1:8470",
		doc: `The host:port that the API listens on. Port 0 takes a free port.`,
	}, {
		path: "api.tls_cert_file", value: optional(&c.API.TLS.CertFile, filePathFormat), example: "/etc/lethe/tls.crt",
		doc: `The file with the TLS certificate of the API and its intermediate certificates, in PEM. Lethe reads it
			again when it changes. Without it, the API serves plain HTTP. It needs api.tls_key_file.`,
	}, {
		path: "api.tls_key_file", value: optional(&c.API.TLS.KeyFile, filePathFormat), example: "/etc/lethe/tls.key",
		doc: `The file with the private key of api.tls_cert_file, in PEM.`,
	}, {
		path: "asynqmon.listen", value: required(&c.Asynqmon.Listen, addressFormat), defaultText: "127.0.0.1:8473",
		doc: `The host:port that serves the pages, health and metrics. Port 0 takes a free port.`,
	}, {
		path: "asynqmon.read_only", value: boolean(&c.Asynqmon.ReadOnly), defaultText: "true",
		doc: `Whether to refuse every request that would change something, such as pausing a queue or deleting a task.
			If false, be careful: Lethe does not see such changes, and it enqueues a job again whose task was deleted.`,
	}, {
		path: "asynqmon.tls_cert_file", value: optional(&c.Asynqmon.TLS.CertFile, filePathFormat), example: "/etc/lethe/tls.crt",
		doc: `The file with the TLS certificate of the pages and its intermediate certificates, in PEM. Lethe reads it
			again when it changes. Without it, the pages are served over plain HTTP. It needs asynqmon.tls_key_file.`,
	}, {
		path: "asynqmon.tls_key_file", value: optional(&c.Asynqmon.TLS.KeyFile, filePathFormat), example: "/etc/lethe/tls.key",
		doc: `The file with the private key of asynqmon.tls_cert_file, in PEM.`,
	}, {
		path: "messages.backfill", value: boolean(&c.Messages.Backfill), defaultText: "true",
		doc: `Whether Lethe asks the homeserver for more history when a reader reaches a gap, or the start of the history
			that this server has. The homeserver then fetches the events from other servers, as it does for its own
			readers. It has no effect without homeserver.url.`,
	}, {
		path: "messages.departed_see_later", value: boolean(&c.Messages.DepartedSeeLater), defaultText: "false",
		doc: `Whether users who have left a room can read events from after they left, as in Synapse. The room's history
			visibility still applies.`,
	}, {
		path: "messages.wait", value: duration(&c.Messages.Wait, 100*time.Millisecond, 20*time.Second), defaultText: "5s",
		doc: `How long a reader waits while a purge works on the same room. After that, the reader is told to try again.
			Set it to several times worker.batch_time.`,
	}, {
		path: "worker.listen", value: optional(&w.Listen, addressFormat), defaultText: "127.0.0.1:8471",
		doc: `The host:port that serves the worker's health and metrics. Port 0 takes a free port, and "" turns it off.`,
	}, {
		path: "worker.concurrency", value: number(&w.Concurrency, 1, 1000), defaultText: "4",
		doc: `How many jobs one worker runs at once. Purges of retention run in addition: see retention.max_running. Each
			job holds a database connection while a batch runs.`,
	}, {
		path: "worker.batch_time", value: duration(&w.BatchTime, 10*time.Millisecond, 5*time.Second), defaultText: "250ms",
		doc: `How long one batch of a purge should take. The worker adjusts the size of the batches to it. A reader of the
			same room may have to wait this long.`,
	}, {
		path: "worker.batch_events", value: number(&w.BatchEvents, 1, 1_000_000), defaultText: "20000",
		doc: `The largest number of events that a batch aims for. Events of the same depth are never split between batches,
			so a batch can be larger.`,
	}, {
		path: "worker.time_slice", value: duration(&w.TimeSlice, time.Second, time.Hour), defaultText: "30s",
		doc: `How long a job runs before it lets another waiting job run.`,
	}, {
		path: "worker.drain_timeout", value: duration(&w.DrainTimeout, time.Second, 10*time.Minute), defaultText: "25s",
		doc: `How long a stopping worker lets its batches finish. Keep it below the time after which the
			process is killed, which is 30s on Kubernetes.`,
	}, {
		path: "scheduler.listen", value: optional(&c.Scheduler.Listen, addressFormat), defaultText: "127.0.0.1:8472",
		doc: `The host:port that serves the scheduler's health and metrics. Port 0 takes a free port, and "" turns it off.`,
	}}
}

func logSettings(l *Log) []setting {
	return []setting{{
		path: "log.level", value: oneOf(&l.Level, "debug", "info", "warn", "error"), defaultText: "info",
		doc: `The lowest level of messages that are logged.`,
	}, {
		path: "log.format", value: oneOf(&l.Format, "text", "json"), defaultText: "text",
		doc: `The format of the log.`,
	}}
}
