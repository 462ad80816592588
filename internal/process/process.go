package process

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"sync"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/redis/go-redis/v9"
	"golang.org/x/sync/errgroup"

	"lethe/internal/backfill"
	"lethe/internal/brake"
	"lethe/internal/config"
	"lethe/internal/dispatch"
	"lethe/internal/fleet"
	"lethe/internal/homeserver"
	"lethe/internal/httpapi"
	"lethe/internal/jobs"
	"lethe/internal/lock"
	"lethe/internal/mas"
	"lethe/internal/matrix"
	"lethe/internal/messages"
	"lethe/internal/monitor"
	"lethe/internal/observe"
	"lethe/internal/promquery"
	"lethe/internal/redisdb"
	"lethe/internal/retention"
	"lethe/internal/schedule"
	"lethe/internal/shutdown"
	"lethe/internal/store/postgres"
	"lethe/internal/synapse"
	"lethe/internal/tasks"
	"lethe/internal/vacuum"
)

// A part is what a process does for one purpose.
type part struct {
	// name is the name of the purpose, for the log.
	name string

	// listen is the host:port that serves health, "" for none.
	listen string

	// metricsListen is the host:port that serves metrics, "" for none. A part without a
	// handler has them at the other address.
	metricsListen string

	// tls is the certificate of that address. The zero TLS is plain HTTP.
	tls config.TLS

	// handler makes the handler of that address from the handler of health. If it is nil,
	// the address serves only health and metrics.
	handler func(health http.Handler) http.Handler

	// run works until the context ends. It starts when the servers are ready. If
	// it is nil, the part only serves HTTP.
	run func(context.Context) error
}

// A process is what the parts of one process share. Make one with [open].
type process struct {
	settings config.Config
	purposes []config.Purpose
	log      *slog.Logger
	closers  []func(context.Context) // in the order of opening

	db       *postgres.DB // nil unless needsDatabase
	pages    *postgres.DB // nil unless rooms are read
	looks    *postgres.DB // of the brake, nil unless it brakes
	redis    redis.UniversalClient
	names    *redisdb.Names          // bound when the database has told whose they are
	locks    []redis.UniversalClient // one, or independent masters
	readers  *lock.Readers           // nil unless rooms are read
	board    *jobs.Board
	registry *prometheus.Registry
	metrics  *observe.Metrics
	tracer   *observe.Tracer
	monitor  http.Handler // nil unless the queues are shown

	// homeserver is nil without homeserver.url.
	homeserver *homeserver.Client

	// mas is nil unless access tokens are checked at Matrix Authentication Service.
	mas *mas.Client

	// delegation is nil unless the homeserver knows where access tokens are checked.
	delegation *delegation

	// service is nil without homeserver.as_token.
	service *homeserver.Service

	// synapse is the Synapse that may be running on the database.
	synapse *synapse.Synapse

	// signingKey is nil without signing_key_file.
	signingKey *matrix.SigningKey
}

// A MonitorMaker is [monitor.New]. It is a parameter so that only programs that
// show the queues link asynqmon.
type MonitorMaker func(redisURL string, options monitor.Options) (*monitor.Handler, error)

// Run serves the purposes until the context ends, and then lets the work in
// progress finish. It returns an error if a setting cannot be used, if the database
// does not fit, if an address cannot be listened on, or if a part fails.
//
// The MonitorMaker makes the pages of asynqmon. An api has them at
// [httpapi.MonitorRoot], read-only. With a nil MonitorMaker an api has no such pages.
func Run(ctx context.Context, settings config.Config, log *slog.Logger, makeMonitor MonitorMaker, purposes ...config.Purpose) error {
	p, err := open(ctx, settings, log, makeMonitor, purposes)
	if err != nil {
		return err
	}
	defer p.close(ctx)
	// The first request must not find an answer of the database that the homeserver's
	// would refuse.
	if p.delegation != nil {
		if err := p.delegation.look(ctx); err != nil {
			return err
		}
	}
	var parts []part
	for _, purpose := range purposes {
		parts = append(parts, p.part(purpose))
	}
	servers, err := p.listen(ctx, p.health(), parts)
	if err != nil {
		return err
	}
	return p.run(ctx, servers, parts)
}

// part returns the part that serves a purpose.
func (p *process) part(purpose config.Purpose) part {
	switch purpose {
	case config.ForAPI:
		return part{name: "api", listen: p.settings.API.Listen, metricsListen: p.settings.API.MetricsListen, tls: p.settings.API.TLS, handler: func(health http.Handler) http.Handler {
			client := tasks.NewClient(p.db, p.redis, p.names, p.log).Keeping(p.settings.StatusTTL)
			return p.whenBound(health, httpapi.New(p.db, client, p.board, httpapi.Options{
				AccountValidity: p.settings.AccountValidity,
				Console:         p.console(),
				Delegated:       p.delegated(),
				Grace:           p.settings.Grace,
				Health:          health,
				Homeserver:      p.homeserver,
				HomeserverAuth:  p.settings.TokensAt() == config.AuthHomeserver,
				Log:             p.log,
				MAS:             p.mas,
				Messages:        p.messages(),
				Monitor:         p.monitor,
				Observe:         p.observe,
				ObservePage:     p.observePage(),
				Operator:        p.operator(),
				PurgeDelay:      p.settings.PurgeDelay,
				Retention:       p.servedRetention(),
				SeedDialect:     p.settings.Dialect == config.DialectSeed,
				ServerName:      p.settings.ServerName,
				StatusTTL:       p.settings.StatusTTL,
				Synapse:         p.synapse,
				Tracer:          p.tracer,
				TrustedProxies:  p.settings.TrustedProxies,
			}))
		}}
	case config.ForAsynqmon:
		return part{name: "asynqmon", listen: p.settings.Asynqmon.Listen, metricsListen: p.settings.Asynqmon.MetricsListen, tls: p.settings.Asynqmon.TLS, handler: func(health http.Handler) http.Handler {
			return httpapi.NewMonitor(p.db, p.monitor, p.settings.Asynqmon.ReadOnly, httpapi.Options{
				AccountValidity: p.settings.AccountValidity,
				Delegated:       p.delegated(),
				Health:          health,
				Homeserver:      p.homeserver,
				HomeserverAuth:  p.settings.TokensAt() == config.AuthHomeserver,
				Log:             p.log,
				MAS:             p.mas,
				Observe:         p.observe,
				ServerName:      p.settings.ServerName,
				Tracer:          p.tracer,
				TrustedProxies:  p.settings.TrustedProxies,
			})
		}}
	case config.ForWorker:
		return part{name: "worker", listen: p.settings.Worker.Listen, run: func(ctx context.Context) error {
			brake, err := p.brake()
			if err != nil {
				return err
			}
			var group sync.WaitGroup
			group.Go(func() { p.synapse.Sweep(ctx) })
			group.Go(func() { brake.Watch(ctx) })
			if p.settings.Vacuum.Enabled {
				group.Go(func() { p.vacuumer().Run(ctx) })
			}
			defer group.Wait()
			planner, _ := plannerOf(p.db, p.synapse, p.settings)
			return tasks.NewWorker(tasks.Services{
				DB: p.db, Redis: p.redis, Locks: p.locks, Board: p.board, Log: p.log, Metrics: p.metrics,
			}, tasks.WorkerOptions{
				BatchEvents:    p.settings.Worker.BatchEvents,
				BatchTime:      p.settings.Worker.BatchTime,
				Brake:          brake,
				CheckPlan:      planner.CheckJob,
				Concurrency:    p.settings.Worker.Concurrency,
				DrainTimeout:   p.settings.Worker.DrainTimeout,
				Homeserver:     p.shutdownHomeserver(),
				HomeserverRuns: p.service != nil,
				MappingDelay:   p.settings.Worker.MappingDelay,
				MaxLockWait:    p.settings.Worker.MaxLockWait,
				MaxQueued:      p.settings.Retention.Limits.MaxQueued,
				MaxRunning:     p.settings.Retention.Limits.MaxRunning,
				Retention:      p.settings.Retention.Rules,
				RowsPerSecond:  p.settings.Retention.Limits.RowsPerSecond,
				SchemaCompat:   p.settings.SchemaCompat,
				ServerName:     p.settings.ServerName,
				Synapse:        p.synapse,
				Tables:         p.settings.Tables,
				TimeSlice:      p.settings.Worker.TimeSlice,
				Tracer:         p.tracer,
			}).Run(ctx)
		}}
	case config.ForScheduler:
		return part{name: "scheduler", listen: p.settings.Scheduler.Listen, run: func(ctx context.Context) error {
			var group sync.WaitGroup
			group.Go(func() { dispatch.NewReconciler(p.db, p.redis, p.board, p.log, p.metrics).Run(ctx) })
			scheduler := p.scheduler()
			group.Go(func() { scheduler.Run(ctx) })
			group.Go(func() { scheduler.Beat(ctx, schedule.NewBoard(p.redis, p.names), fleet.ProcessName()) })
			pruned := func(rows int) { p.metrics.JobsPruned.Add(float64(rows)) }
			group.Go(func() { jobs.NewPruner(p.db, p.settings.JournalKeep, p.log, pruned).Run(ctx) })
			group.Go(func() { jobs.NewQueueWatch(p.db, p.log, p.metrics).Run(ctx) })
			group.Wait()
			return nil
		}}
	}
	panic(fmt.Sprintf("process: no part for purpose %d", purpose))
}

// vacuumer returns what vacuums the tables that jobs have emptied.
func (p *process) vacuumer() *vacuum.Vacuumer {
	settings := p.settings.Vacuum
	return vacuum.New(p.db, p.log, p.metrics, vacuum.Options{
		ApplicationName: name(p.purposes) + " vacuum",
		CostDelay:       settings.CostDelay,
		CostLimit:       settings.CostLimit,
		DeadShare:       settings.DeadShare,
		MinRows:         int64(settings.MinRows),
		SkipWalk:        !settings.IndexWalk,
		SnapshotWait:    settings.SnapshotWait,
		Timeout:         settings.Timeout,
		URL:             string(cmp.Or(settings.DatabaseURL, p.settings.Database.URL)),
		WorkerURL:       string(p.settings.Database.URL),
	})
}

// brake returns the brake of the worker, nil if it has none.
func (p *process) brake() (*brake.Brake, error) {
	settings := p.settings.Brake
	if !settings.Enabled {
		return nil, nil
	}
	options := brake.Options{
		BatchTime: p.settings.Worker.BatchTime, Board: brake.NewBoard(p.redis, p.names), DiskPath: settings.DiskPath,
		Log: p.log, Metrics: p.metrics, Standbys: settings.Standbys, Worker: fleet.ProcessName(),
	}
	if settings.PrometheusURL != "" && settings.PrometheusQuery != "" {
		query, err := promquery.New(string(settings.PrometheusURL), settings.PrometheusQuery)
		if err != nil {
			return nil, err
		}
		options.Query = query
		p.closers = append(p.closers, func(context.Context) { query.Close() })
	}
	return brake.New(p.looks, options), nil
}

// delegated returns what reports whether the homeserver delegates its accounts, nil if
// that does not matter.
func (p *process) delegated() func() bool {
	if p.delegation == nil {
		return nil
	}
	return p.delegation.delegates.Load
}

// messages returns the reader of rooms.
func (p *process) messages() *messages.Messages {
	options := messages.Options{
		Budget:           messages.NewBudget(p.settings.Messages.MaxTotalBytes),
		CacheBytes:       p.settings.API.CacheBytes,
		DepartedSeeLater: p.settings.Messages.DepartedSeeLater,
		FilterTime:       p.settings.Messages.FilterTime,
		Log:              p.log,
		MaxPageBytes:     p.settings.Messages.MaxPageBytes,
		Retention:        p.settings.Retention.Rules,
		Rooms:            p.readers,
	}
	if p.homeserver != nil && p.settings.Messages.Backfill {
		options.Backfill = backfill.New(p.homeserver, backfill.Options{})
	}
	reader := messages.New(p.pages, options)
	p.showCaches(reader)
	return reader
}

// servedRetention returns the rules that the API tells users, nil for none.
func (p *process) servedRetention() *retention.Config {
	if !p.settings.Retention.ServeConfiguration {
		return nil
	}
	return &p.settings.Retention.Rules
}

func (p *process) scheduler() *schedule.Scheduler {
	return schedule.New(p.db, tasks.NewClient(p.db, p.redis, p.names, p.log).Keeping(p.settings.StatusTTL), p.log, p.metrics, schedule.Options{
		Grace: p.settings.Grace, Ready: p.bindNames, Rules: p.settings.Retention.Rules, Tracer: p.tracer,
	})
}

// shutdownHomeserver returns what writes the events of a shutdown: the homeserver
// if Lethe is an application service there, or else Lethe itself.
func (p *process) shutdownHomeserver() shutdown.Homeserver {
	if p.service != nil {
		return shutdown.NewRemote(p.db, shutdown.RemoteOptions{Homeserver: p.service})
	}
	return shutdown.NewEmbedded(shutdown.EmbeddedOptions{
		Log: p.log, ServerName: p.settings.ServerName, SigningKey: p.signingKey,
	})
}

// listen opens a server for each part that has an address. It fails if an address
// or a certificate cannot be used. The process closes the servers.
func (p *process) listen(ctx context.Context, health *observe.Health, parts []part) ([]*observe.Server, error) {
	var servers []*observe.Server
	add := func(address string, handler http.Handler, options observe.ServerOptions) (*observe.Server, error) {
		server, err := observe.Listen(ctx, address, handler, options)
		if err != nil {
			return nil, err
		}
		// Usually Serve has closed it already: this is for a start that fails.
		p.onClose(func(context.Context) { _ = server.Close() })
		servers = append(servers, server)
		return server, nil
	}
	for _, part := range parts {
		if part.listen == "" {
			continue
		}
		handler := health.All()
		if part.handler != nil {
			handler = part.handler(health.Handler())
		}
		options := observe.ServerOptions{Log: p.log}
		if part.tls.CertFile != "" {
			certificate, err := observe.OpenCertificate(part.tls.CertFile, part.tls.KeyFile, observe.CertificateOptions{Log: p.log})
			if err != nil {
				return nil, err
			}
			options.TLS = certificate.TLS()
		}
		server, err := add(part.listen, handler, options)
		if err != nil {
			return nil, err
		}
		p.log.InfoContext(ctx, "listening", "process", "lethe "+part.name, "address", server.Addr())
		if part.metricsListen == "" {
			continue
		}
		if server, err = add(part.metricsListen, health.Metrics(), observe.ServerOptions{Log: p.log}); err != nil {
			return nil, fmt.Errorf("%s.metrics_listen: %w", part.name, err)
		}
		p.log.InfoContext(ctx, "listening for metrics", "process", "lethe "+part.name, "metrics_address", server.Addr())
	}
	return servers, nil
}

// run serves HTTP at once, and runs the parts as soon as the servers that they need
// are ready. It returns when the context has ended and everything has drained, or
// when something fails: then it stops the rest and returns the first error.
func (p *process) run(ctx context.Context, servers []*observe.Server, parts []part) error {
	group, ctx := errgroup.WithContext(ctx)
	if p.delegation != nil {
		group.Go(func() error { return p.delegation.watch(ctx) })
	}
	for _, server := range servers {
		group.Go(func() error { return server.Serve(ctx) })
	}
	group.Go(func() error {
		if err := p.awaitServers(ctx); err != nil {
			return err
		}
		for _, part := range parts {
			if part.run != nil && ctx.Err() == nil {
				group.Go(func() error { return part.run(ctx) })
			}
		}
		return nil
	})
	return group.Wait()
}
