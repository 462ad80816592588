package process

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/redis/go-redis/v9"

	"lethe/internal/config"
	"lethe/internal/homeserver"
	"lethe/internal/httpapi"
	"lethe/internal/jobs"
	"lethe/internal/lock"
	"lethe/internal/mas"
	"lethe/internal/matrix"
	"lethe/internal/messages"
	"lethe/internal/monitor"
	"lethe/internal/observe"
	"lethe/internal/redisdb"
	"lethe/internal/store/postgres"
	"lethe/internal/store/rowcache"
	"lethe/internal/store/wal"
	"lethe/internal/synapse"
)

// open opens what the parts of a process share. It does not wait for any server:
// see [process.awaitServers]. The caller closes the process.
func open(ctx context.Context, settings config.Config, log *slog.Logger, makeMonitor MonitorMaker, purposes []config.Purpose) (*process, error) {
	p := &process{settings: settings, purposes: purposes, log: log}
	for _, step := range []func() error{
		func() error { return p.openBase(ctx) },
		p.openLocks,
		p.openHomeserver,
		func() error { return p.openSynapse(ctx) },
		p.openMAS,
		p.openReaders,
		p.readSigningKey,
		func() error { return p.openMonitor(makeMonitor) },
	} {
		if err := step(); err != nil {
			p.close(ctx)
			return nil, err
		}
	}
	return p, nil
}

// openBase opens what every process needs: traces, metrics and Redis, and PostgreSQL
// unless the process is an asynqmon that can do without.
func (p *process) openBase(ctx context.Context) error {
	observe.SetRedisLogger(p.log)
	tracer, err := observe.TracerFromEnvironment(ctx, p.log, name(p.purposes))
	if err != nil {
		return err
	}
	p.tracer = tracer
	// The tracer is closed last, because everything else may end spans.
	p.onClose(func(ctx context.Context) {
		if err := tracer.Close(ctx); err != nil {
			p.log.WarnContext(ctx, "last traces not sent", "error", err)
		}
	})
	if p.serves(config.ForScheduler) {
		p.warnOfRetention(ctx)
	}
	if p.needsDatabase() {
		if err := p.openDatabase(ctx); err != nil {
			return err
		}
	}
	p.redis, err = redisdb.Open(string(p.settings.Redis.URL))
	if err != nil {
		return err
	}
	p.onClose(func(context.Context) { _ = p.redis.Close() })
	p.names = new(redisdb.Names)
	p.board = jobs.NewBoard(p.db, p.redis, p.settings.StatusTTL, p.log).In(p.names)
	p.registry = observe.NewRegistry()
	p.metrics = observe.NewMetrics(p.registry)
	return nil
}

// openDatabase opens the pools of the process. The pages of rooms have connections of their
// own, so that users who ask for many keep neither admins nor other work waiting. The brake
// has one of its own: on a slow server, where it is needed most, jobs may have all others
// for seconds.
func (p *process) openDatabase(ctx context.Context) error {
	open := func(name string, connections int, setUp func(context.Context, *pgx.Conn) error) (*postgres.DB, error) {
		db, err := postgres.Open(ctx, string(p.settings.Database.URL), postgres.Options{
			ApplicationName: name, MaxConnections: connections, SetUp: setUp,
		})
		if err == nil {
			p.onClose(func(context.Context) { db.Close() })
		}
		return db, err
	}
	connections := p.settings.Database.MaxConnections
	if p.serves(config.ForAPI) {
		pages := connections / 2
		if len(p.purposes) == 1 {
			pages = connections - max(1, connections/4)
		}
		connections -= pages
		var err error
		if p.pages, err = open(name(p.purposes)+" pages", pages, nil); err != nil {
			return err
		}
	}
	var setUp func(context.Context, *pgx.Conn) error
	if p.serves(config.ForWorker) {
		setUp = wal.Setter(wal.Compression(p.settings.Worker.WALCompression), p.log)
	}
	looks := p.serves(config.ForWorker) && p.settings.Brake.Enabled
	if looks && connections >= minToShare {
		connections--
		var err error
		if p.looks, err = open(name(p.purposes)+" brake", 1, nil); err != nil {
			return err
		}
	}
	var err error
	p.db, err = open(name(p.purposes), connections, setUp)
	if looks && p.looks == nil {
		p.looks = p.db
	}
	return err
}

// minToShare is the number of connections from which on the brake has one of its own.
const minToShare = 3

// openLocks opens the Redis servers of the room locks.
func (p *process) openLocks() error {
	urls := p.settings.Lock.RedisURLs
	if len(urls) == 0 {
		urls = []config.Secret{p.settings.Redis.URL}
	}
	for _, url := range urls {
		client, err := redisdb.OpenForLocks(string(url))
		if err != nil {
			return err
		}
		p.onClose(func(context.Context) { _ = client.Close() })
		p.locks = append(p.locks, client)
	}
	p.showPools()
	return nil
}

// openReaders opens the shared locks with which an api reads rooms.
func (p *process) openReaders() error {
	if !p.serves(config.ForAPI) {
		return nil
	}
	p.readers = lock.NewReaders(lock.NewQuorum(p.locks, nil, lock.Options{Names: p.names}), lock.ReadersOptions{
		Held:         p.observeRead(p.metrics.LockHoldSeconds),
		Wait:         p.settings.Messages.Wait,
		Waited:       p.observeRead(p.metrics.LockWaitSeconds),
		WithoutLease: p.metrics.ReadsWithoutLease.Inc,
	})
	p.onClose(func(context.Context) { p.readers.Close() })
	return nil
}

// openHomeserver opens the homeserver, if the settings name one.
func (p *process) openHomeserver() error {
	url := p.settings.Homeserver.URL
	if url == "" {
		return nil
	}
	client, err := homeserver.New(url, homeserver.Options{})
	if err != nil {
		return err
	}
	p.onClose(func(context.Context) { client.Close() })
	p.homeserver = client
	if token := p.settings.Homeserver.ASToken; token != "" {
		p.service = client.Service(string(token))
	}
	p.delegation = p.newDelegation()
	return nil
}

// openMAS opens Matrix Authentication Service, if the process checks access tokens there.
func (p *process) openMAS() error {
	if !p.checksTokens() || p.settings.TokensAt() != config.AuthMAS {
		return nil
	}
	client, err := mas.New(p.settings.MAS.URL, string(p.settings.MAS.Secret), mas.Options{})
	if err != nil {
		return err
	}
	p.onClose(func(context.Context) { client.Close() })
	p.mas = client
	return nil
}

// openSynapse opens the Synapse that may be running on the database, and its Redis. It
// listens until the process is closed.
func (p *process) openSynapse(ctx context.Context) error {
	options := synapse.Options{
		Mode: synapse.Mode(p.settings.SynapseBeside), ServerName: p.settings.ServerName, Log: p.log, Metrics: p.metrics,
	}
	if p.homeserver != nil {
		options.Alive = p.homeserver.Alive
	}
	address := p.settings.Homeserver.RedisURL
	if address != "" && options.Mode != synapse.Stopped && p.settings.ServerName != "" && (p.serves(config.ForAPI) || p.serves(config.ForWorker)) {
		client, err := redisdb.Open(string(address))
		if err != nil {
			return fmt.Errorf("homeserver.redis_url: %w", err)
		}
		p.onClose(func(context.Context) { _ = client.Close() })
		options.Redis = client
	}
	p.synapse = synapse.New(p.db, options)
	ctx, stop := context.WithCancel(context.WithoutCancel(ctx))
	done := make(chan struct{})
	go func() {
		defer close(done)
		p.synapse.Run(ctx)
	}()
	p.onClose(func(context.Context) {
		stop()
		<-done
	})
	return nil
}

// readSigningKey reads the homeserver's signing key, if the settings name its file.
func (p *process) readSigningKey() error {
	file := p.settings.SigningKeyFile
	if file == "" {
		return nil
	}
	text, err := os.ReadFile(file)
	if err != nil {
		return fmt.Errorf("read the signing key: %w", err)
	}
	if p.signingKey, err = matrix.ParseSigningKey(string(text)); err != nil {
		return fmt.Errorf("read the signing key in %s: %w", file, err)
	}
	return nil
}

// openMonitor opens the pages of the queues, if there is a maker of them.
func (p *process) openMonitor(makeMonitor MonitorMaker) error {
	if makeMonitor == nil {
		return nil
	}
	options := monitor.Options{Root: httpapi.MonitorRoot, ReadOnly: true}
	if p.serves(config.ForAsynqmon) {
		options = monitor.Options{ReadOnly: p.settings.Asynqmon.ReadOnly}
	}
	pages, err := makeMonitor(string(p.settings.Redis.URL), options)
	if err != nil {
		return err
	}
	p.onClose(func(context.Context) { _ = pages.Close() })
	p.monitor = pages
	return nil
}

// onClose adds a function that close calls.
func (p *process) onClose(closer func(context.Context)) { p.closers = append(p.closers, closer) }

// close closes everything that was opened, the last one first. A second call does
// nothing.
func (p *process) close(ctx context.Context) {
	for _, closer := range slices.Backward(p.closers) {
		closer(ctx)
	}
	p.closers = nil
}

// serves reports whether the process serves a purpose.
func (p *process) serves(purpose config.Purpose) bool { return slices.Contains(p.purposes, purpose) }

// warnOfRetention logs settings of retention that are probably a mistake.
func (p *process) warnOfRetention(ctx context.Context) {
	for _, warning := range p.settings.Retention.Rules.Warnings() {
		p.log.WarnContext(ctx, "doubtful retention", "warning", warning.String())
	}
}

// name returns the name of a process that serves the purposes, such as "lethe api".
func name(purposes []config.Purpose) string {
	names := map[config.Purpose]string{config.ForAPI: "api", config.ForAsynqmon: "asynqmon", config.ForWorker: "worker", config.ForScheduler: "scheduler"}
	words := []string{"lethe"}
	for _, purpose := range purposes {
		words = append(words, names[purpose])
	}
	return strings.Join(words, " ")
}

// showPools adds the metrics that every process has: its pools of connections, and
// the statuses that Redis failed to store or return.
func (p *process) showPools() {
	for _, operation := range []string{"post", "read"} {
		p.metrics.StatusFailures.WithLabelValues(operation)
	}
	p.board.OnFailure(func(operation string) { p.metrics.StatusFailures.WithLabelValues(operation).Inc() })
	pools := map[string]func() observe.Pool{
		"redis_jobs":  func() observe.Pool { return redisPool(p.redis) },
		"redis_locks": func() observe.Pool { return redisPool(p.locks...) },
	}
	for name, db := range map[string]*postgres.DB{"database": p.db, "database_pages": p.pages} {
		if db != nil {
			pools[name] = func() observe.Pool { return databasePool(db) }
		}
	}
	observe.ShowPools(p.registry, pools)
}

func databasePool(db *postgres.DB) observe.Pool {
	c := db.Connections()
	return observe.Pool{
		Open: c.Open, InUse: c.InUse, Max: c.Max,
		Waits: float64(c.Waits), WaitSeconds: c.Waited.Seconds(), GivenUp: float64(c.GivenUp),
	}
}

// redisPool returns the sum of the pools of the clients.
func redisPool(clients ...redis.UniversalClient) (sum observe.Pool) {
	for _, client := range clients {
		stats := client.PoolStats()
		sum.Open += int(stats.TotalConns)
		sum.InUse += int(stats.TotalConns) - int(stats.IdleConns)
		sum.Waits += float64(stats.WaitCount)
		sum.WaitSeconds += time.Duration(stats.WaitDurationNs).Seconds()
		sum.GivenUp += float64(stats.Timeouts)
	}
	return sum
}

// observeRead returns a function that adds the duration of a reader's lock to a
// histogram.
func (p *process) observeRead(histogram *prometheus.HistogramVec) func(time.Duration) {
	ofReaders := histogram.WithLabelValues("read")
	return func(d time.Duration) { ofReaders.Observe(d.Seconds()) }
}

// observe adds a request to the metrics.
func (p *process) observe(route, method string, status int, duration time.Duration) {
	// The class of the status keeps the number of histograms small: a homeserver
	// may answer with any status.
	p.metrics.HTTPRequestSeconds.WithLabelValues(route, method, fmt.Sprintf("%dxx", status/100)).Observe(duration.Seconds())
}

// observePage returns a function that adds a page of history to the metrics.
func (p *process) observePage() func(admin bool, duration time.Duration) {
	users, admins := p.metrics.PageSeconds.WithLabelValues("user"), p.metrics.PageSeconds.WithLabelValues("admin")
	return func(admin bool, duration time.Duration) {
		if admin {
			admins.Observe(duration.Seconds())
		} else {
			users.Observe(duration.Seconds())
		}
	}
}

// showCaches adds the caches of a reader of rooms to the metrics.
func (p *process) showCaches(reader *messages.Messages) {
	show := func(stats rowcache.Stats) observe.Cache {
		return observe.Cache{
			Hits: float64(stats.Hits), Misses: float64(stats.Misses), Evictions: float64(stats.Evictions), Bytes: float64(stats.Bytes),
		}
	}
	observe.ShowCaches(p.registry, map[string]func() observe.Cache{
		"events": func() observe.Cache { events, _ := reader.CacheStats(); return show(events) },
		"states": func() observe.Cache { _, states := reader.CacheStats(); return show(states) },
	})
}
