package process

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"
	"golang.org/x/sync/errgroup"

	"lethe/internal/config"
	"lethe/internal/homeserver"
	"lethe/internal/httpapi"
	"lethe/internal/jobs"
	"lethe/internal/lock"
	"lethe/internal/matrix"
	"lethe/internal/messages"
	"lethe/internal/monitor"
	"lethe/internal/observe"
	"lethe/internal/redisdb"
	"lethe/internal/retention"
	"lethe/internal/shutdown"
	"lethe/internal/store/migrate"
	"lethe/internal/store/postgres"
	"lethe/internal/tasks"
)

var (
	// ErrBeside is returned by a worker that was not told whether a Synapse runs
	// on the database, which a Synapse has made.
	ErrBeside = errors.New("Synapse made this database: say by LETHE_SYNAPSE_BESIDE whether it runs on it while Lethe does")

	// ErrServerName is returned by a worker whose server name none of the
	// database's users has. It would take local events for remote ones, and
	// delete what was to stay.
	ErrServerName = errors.New("LETHE_SERVER_NAME is not this database's: no user of it has this server name")
)

// A process that cannot begin yet looks again after startRetry; one look takes
// startCheck at most.
const (
	startRetry = time.Second
	startCheck = 10 * time.Second
)

// A part is what a process does for one purpose.
type part struct {
	// listen is where its health and metrics are served; "" serves none.
	listen string

	// tls is the certificate there, if it has one.
	tls config.TLS

	// handler serves more there than health and metrics. nil: nothing more.
	handler func(health http.Handler) http.Handler

	// run works until the context ends, from when the database is as it should
	// be. nil: the handler is all there is.
	run func(context.Context) error
}

// A process is what the parts of one process share.
type process struct {
	settings config.Config
	log      *slog.Logger
	db       *postgres.DB
	redis    redis.UniversalClient

	// homeserver is nil without homeserver.url, and service without its as_token.
	homeserver *homeserver.Client
	service    *homeserver.Service

	// tracer is nil unless traces are asked for.
	tracer *observe.Tracer

	// signingKey is nil without signing_key_file.
	signingKey *matrix.SigningKey
	locks      []redis.UniversalClient // one, or independent masters
	readers    *lock.Readers           // nil unless rooms are read
	board      *jobs.Board
	metrics    *observe.Metrics
	monitor    http.Handler // nil unless the queues are shown
}

// A MonitorMaker is [monitor.New]. It is handed in, so that only the programs that
// show the queues have asynqmon in them.
type MonitorMaker func(redisURL string, options monitor.Options) (*monitor.Handler, error)

// Run does what the purposes say until the context ends, and returns when all
// of it has drained. It fails when the settings, the database's schema or an
// address to listen at do not allow it to go on.
func Run(ctx context.Context, settings config.Config, log *slog.Logger, purposes ...config.Purpose) error {
	return RunWithMonitor(ctx, settings, log, nil, purposes...)
}

// RunWithMonitor is [Run] for a process that shows the queues, or for an api that
// shows them too, at [httpapi.MonitorRoot] and read-only. Without a MonitorMaker
// an api does not.
func RunWithMonitor(ctx context.Context, settings config.Config, log *slog.Logger, makeMonitor MonitorMaker, purposes ...config.Purpose) error {
	observe.SetRedisLogger(log)
	tracer, err := observe.TracerFromEnvironment(ctx, log, name(purposes))
	if err != nil {
		return err
	}
	// Of all things last, for all others may have spans to end.
	defer closeTracer(ctx, log, tracer)
	db, err := postgres.Open(ctx, string(settings.Database.URL), postgres.Options{
		ApplicationName: name(purposes), MaxConnections: settings.Database.MaxConnections,
	})
	if err != nil {
		return err
	}
	defer db.Close()
	client, err := redisdb.Open(string(settings.Redis.URL))
	if err != nil {
		return err
	}
	defer func() { _ = client.Close() }()
	var locks []redis.UniversalClient
	urls := settings.Lock.RedisURLs
	if len(urls) == 0 {
		urls = []config.Secret{settings.Redis.URL}
	}
	for _, url := range urls {
		client, err := redisdb.OpenForLocks(string(url))
		if err != nil {
			return err
		}
		defer func() { _ = client.Close() }()
		locks = append(locks, client)
	}

	var synapse *homeserver.Client
	if url := settings.Homeserver.URL; url != "" {
		if synapse, err = homeserver.New(url, homeserver.Options{}); err != nil {
			return err
		}
		defer synapse.Close()
	}

	var service *homeserver.Service
	if token := settings.Homeserver.ASToken; synapse != nil && token != "" {
		service = synapse.Service(string(token))
	}
	key, err := readSigningKey(settings.SigningKeyFile)
	if err != nil {
		return err
	}

	if slices.Contains(purposes, config.ForScheduler) {
		doubt(ctx, log, settings)
	}

	registry := observe.NewRegistry()
	p := &process{
		settings: settings, log: log, db: db, redis: client, locks: locks, homeserver: synapse,
		service: service, signingKey: key,
		board:   jobs.NewBoard(db, client, settings.StatusTTL, log),
		metrics: observe.NewMetrics(registry),
		tracer:  tracer,
	}
	p.show(registry)
	checks := map[string]observe.Check{"database": db.Ping, "schema": func(ctx context.Context) error { return migrate.CheckSchema(ctx, db) }}
	if needsRedis(purposes) {
		checks["redis"] = p.checkRedis
	}
	if slices.Contains(purposes, config.ForAPI) {
		p.readers = lock.NewReaders(lock.NewQuorum(locks, nil, lock.Options{}), lock.ReadersOptions{
			Held:         p.observeRead(p.metrics.LockHoldSeconds),
			Wait:         settings.Messages.Wait,
			Waited:       p.observeRead(p.metrics.LockWaitSeconds),
			WithoutLease: p.metrics.ReadsWithoutLease.Inc,
		})
		// The servers, which are closed before, wait for those who read.
		defer p.readers.Close()
	}
	if makeMonitor != nil {
		options := monitor.Options{Root: httpapi.MonitorRoot, ReadOnly: true}
		if slices.Contains(purposes, config.ForAsynqmon) {
			options = monitor.Options{ReadOnly: settings.Asynqmon.ReadOnly}
		}
		pages, err := makeMonitor(string(settings.Redis.URL), options)
		if err != nil {
			return err
		}
		defer func() { _ = pages.Close() }()
		p.monitor = pages
	}
	health := observe.NewHealth(registry, checks).Handler()

	var servers []*observe.Server
	var runs []func(context.Context) error
	for _, purpose := range purposes {
		part := p.part(purpose)
		if part.run != nil {
			runs = append(runs, part.run)
		}
		if part.listen == "" {
			continue
		}
		handler := health
		if part.handler != nil {
			handler = part.handler(health)
		}
		options := observe.ServerOptions{Log: log}
		if part.tls.CertFile != "" {
			certificate, err := observe.OpenCertificate(part.tls.CertFile, part.tls.KeyFile, observe.CertificateOptions{Log: log})
			if err != nil {
				return err
			}
			options.TLS = certificate.TLS()
		}
		server, err := observe.Listen(ctx, part.listen, handler, options)
		if err != nil {
			return err
		}
		defer func() { _ = server.Close() }() // a second close, unless a later part failed
		log.InfoContext(ctx, "listening", "process", name([]config.Purpose{purpose}), "address", server.Addr())
		servers = append(servers, server)
	}

	group, ctx := errgroup.WithContext(ctx)
	for _, server := range servers {
		group.Go(func() error { return server.Serve(ctx) })
	}
	ready := make(chan struct{})
	group.Go(func() error {
		err := p.await(ctx, purposes)
		if err == nil {
			close(ready)
		}
		if ctx.Err() != nil {
			return nil // told to stop, or something else has failed
		}
		return err
	})
	for _, run := range runs {
		group.Go(func() error {
			select {
			case <-ctx.Done():
				return nil
			case <-ready:
				return run(ctx)
			}
		})
	}
	return group.Wait()
}

// part returns what serves a purpose.
func (p *process) part(purpose config.Purpose) part {
	switch purpose {
	case config.ForAPI:
		return part{listen: p.settings.API.Listen, tls: p.settings.API.TLS, handler: func(health http.Handler) http.Handler {
			client := tasks.NewClient(p.db, p.redis, p.log)
			return httpapi.New(p.db, client, p.board, httpapi.Options{
				AccountValidity: p.settings.AccountValidity,
				Health:          health,
				Homeserver:      p.homeserver,
				HomeserverAuth:  p.settings.Auth == config.AuthHomeserver,
				Log:             p.log,
				Messages:        p.messages(),
				Monitor:         p.monitor,
				Observe:         p.observe,
				ObservePage:     p.observePage(),
				PurgeDelay:      p.settings.PurgeDelay,
				Retention:       p.toldRetention(),
				SeedDialect:     p.settings.Dialect == config.DialectSeed,
				ServerName:      p.settings.ServerName,
				StatusTTL:       p.settings.StatusTTL,
				Tracer:          p.tracer,
				TrustedProxies:  p.settings.TrustedProxies,
			})
		}}
	case config.ForAsynqmon:
		return part{listen: p.settings.Asynqmon.Listen, tls: p.settings.Asynqmon.TLS, handler: func(health http.Handler) http.Handler {
			return httpapi.NewMonitor(p.db, p.monitor, p.settings.Asynqmon.ReadOnly, httpapi.Options{
				AccountValidity: p.settings.AccountValidity,
				Health:          health,
				Homeserver:      p.homeserver,
				HomeserverAuth:  p.settings.Auth == config.AuthHomeserver,
				Log:             p.log,
				Observe:         p.observe,
				Tracer:          p.tracer,
				TrustedProxies:  p.settings.TrustedProxies,
			})
		}}
	case config.ForWorker:
		return part{listen: p.settings.Worker.Listen, run: func(ctx context.Context) error {
			return tasks.NewWorker(tasks.Services{
				DB: p.db, Redis: p.redis, Locks: p.locks, Board: p.board, Log: p.log, Metrics: p.metrics,
			}, tasks.WorkerOptions{
				BatchEvents:   p.settings.Worker.BatchEvents,
				BatchTime:     p.settings.Worker.BatchTime,
				Beside:        p.service != nil,
				Concurrency:   p.settings.Worker.Concurrency,
				DrainTimeout:  p.settings.Worker.DrainTimeout,
				Homeserver:    p.whoShutsDown(),
				MaxQueued:     p.settings.Retention.Limits.MaxQueued,
				MaxRunning:    p.settings.Retention.Limits.MaxRunning,
				Retention:     p.settings.Retention.Rules,
				RowsPerSecond: p.settings.Retention.Limits.RowsPerSecond,
				ServerName:    p.settings.ServerName,
				TimeSlice:     p.settings.Worker.TimeSlice,
				Tracer:        p.tracer,
			}).Run(ctx)
		}}
	case config.ForScheduler:
		return part{listen: p.settings.Scheduler.Listen, run: func(ctx context.Context) error {
			var group sync.WaitGroup
			group.Go(func() { tasks.NewReconciler(p.db, p.redis, p.board, p.log, p.metrics).Run(ctx) })
			group.Go(func() { p.scheduler().Run(ctx) })
			group.Go(func() { tasks.NewQueueWatch(p.db, p.log, p.metrics).Run(ctx) })
			group.Wait()
			return nil
		}}
	}
	panic(fmt.Sprintf("process: no part for purpose %d", purpose))
}

// messages reads rooms.
func (p *process) messages() *messages.Messages {
	options := messages.Options{
		DepartedSeeLater: p.settings.Messages.DepartedSeeLater,
		Log:              p.log,
		Retention:        p.settings.Retention.Rules,
		Rooms:            p.readers,
	}
	if p.homeserver != nil && p.settings.Messages.Backfill {
		options.Backfill = messages.NewOlderHistory(p.homeserver, messages.OlderHistoryOptions{})
	}
	return messages.New(p.db, options)
}

// toldRetention is the retention that users are told of, nil if they are not.
func (p *process) toldRetention() *retention.Config {
	if !p.settings.Retention.ServeConfiguration {
		return nil
	}
	return &p.settings.Retention.Rules
}

func (p *process) scheduler() *tasks.Scheduler {
	return tasks.NewScheduler(p.db, p.redis, p.log, p.metrics, tasks.SchedulerOptions{
		Rules: p.settings.Retention.Rules, Tracer: p.tracer,
	})
}

// doubt logs what is doubtful about the settings of retention.
func doubt(ctx context.Context, log *slog.Logger, settings config.Config) {
	for _, warning := range settings.Retention.Rules.Warnings() {
		log.WarnContext(ctx, "doubtful retention", "warning", warning.String())
	}
}

// whoShutsDown is who writes the events of a shutdown: the homeserver if we may
// ask it to, or we ourselves.
func (p *process) whoShutsDown() shutdown.Homeserver {
	if p.service != nil {
		return shutdown.NewRemote(p.db, shutdown.RemoteOptions{Homeserver: p.service})
	}
	return shutdown.NewEmbedded(shutdown.EmbeddedOptions{
		Log: p.log, ServerName: p.settings.ServerName, SigningKey: p.signingKey,
	})
}

// readSigningKey reads the homeserver's signing key; without a file there is none.
func readSigningKey(file string) (*matrix.SigningKey, error) {
	if file == "" {
		return nil, nil
	}
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("read the signing key: %w", err)
	}
	key, err := matrix.ParseSigningKey(string(text))
	if err != nil {
		return nil, fmt.Errorf("read the signing key in %s: %w", file, err)
	}
	return key, nil
}

// await waits until the servers can be reached and are as they should be. It
// fails if the database never will be.
func (p *process) await(ctx context.Context, purposes []config.Purpose) error {
	for {
		err := p.check(ctx, purposes)
		for _, final := range []error{migrate.ErrSchema, ErrBeside, ErrServerName} {
			if errors.Is(err, final) {
				return err
			}
		}
		if err == nil || ctx.Err() != nil {
			return ctx.Err()
		}
		p.log.WarnContext(ctx, "waiting to begin", "error", err)
		select {
		case <-ctx.Done():
		case <-time.After(startRetry):
		}
	}
}

func (p *process) check(ctx context.Context, purposes []config.Purpose) error {
	ctx, cancel := context.WithTimeout(ctx, startCheck)
	defer cancel()
	if err := migrate.CheckSchema(ctx, p.db); err != nil {
		return err
	}
	if needsRedis(purposes) {
		if err := p.checkRedis(ctx); err != nil {
			return err
		}
	}
	if !slices.Contains(purposes, config.ForWorker) {
		return nil
	}
	made, err := migrate.MadeBySynapse(ctx, p.db)
	switch {
	case err != nil:
		return err
	case made && p.settings.SynapseBeside == nil:
		return ErrBeside
	}
	ours, err := migrate.HasUsersOf(ctx, p.db, p.settings.ServerName)
	if err == nil && !ours {
		err = ErrServerName
	}
	return err
}

func (p *process) checkRedis(ctx context.Context) error {
	if err := redisdb.CheckPolicy(ctx, p.redis); err != nil || len(p.locks) == 1 {
		return err
	}
	if err := redisdb.CheckQuorum(ctx, p.locks); err != nil {
		return fmt.Errorf("check the locks' masters: %w", err)
	}
	return nil
}

// needsRedis reports whether a process with these purposes can do nothing
// without Redis. The api can: it accepts jobs, and reads statuses. And asynqmon
// says itself that Redis is away.
func needsRedis(purposes []config.Purpose) bool {
	return slices.Contains(purposes, config.ForWorker) || slices.Contains(purposes, config.ForScheduler)
}

// name is what a process that serves the purposes calls itself.
func name(purposes []config.Purpose) string {
	names := map[config.Purpose]string{config.ForAPI: "api", config.ForAsynqmon: "asynqmon", config.ForWorker: "worker", config.ForScheduler: "scheduler"}
	words := []string{"lethe"}
	for _, purpose := range purposes {
		words = append(words, names[purpose])
	}
	return strings.Join(words, " ")
}
