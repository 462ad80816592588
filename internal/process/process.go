package process

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
	"golang.org/x/sync/errgroup"

	"lethe/internal/config"
	"lethe/internal/httpapi"
	"lethe/internal/jobs"
	"lethe/internal/observe"
	"lethe/internal/redisdb"
	"lethe/internal/store"
	"lethe/internal/tasks"
)

// ErrBeside is returned by a worker that was not told whether a Synapse runs on
// the database, which a Synapse has made.
var ErrBeside = errors.New("Synapse made this database: say by LETHE_SYNAPSE_BESIDE whether it runs on it while Lethe does")

// startRetry is how often a process that cannot reach the database yet tries.
const startRetry = time.Second

// A part is what a process does for one purpose.
type part struct {
	// listen is where its health and metrics are served; "" serves none.
	listen string

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
	store    *store.Store
	redis    redis.UniversalClient
	locks    redis.UniversalClient
	board    *jobs.Board
	metrics  *observe.Metrics
}

// Run does what the purposes say until the context ends, and returns when all
// of it has drained. It fails when the settings, the database's schema or an
// address to listen at do not allow it to go on.
func Run(ctx context.Context, settings config.Config, log *slog.Logger, purposes ...config.Purpose) error {
	observe.SetRedisLogger(log)
	db, err := store.Open(ctx, string(settings.Database.URL), store.Options{
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
	locks, err := redisdb.OpenForLocks(string(settings.Redis.URL))
	if err != nil {
		return err
	}
	defer func() { _ = locks.Close() }()

	registry := observe.NewRegistry()
	p := &process{
		settings: settings, log: log, store: db, redis: client, locks: locks,
		board:   jobs.NewBoard(db, client, settings.StatusTTL, log),
		metrics: observe.NewMetrics(registry),
	}
	checks := map[string]observe.Check{"database": db.Ping, "schema": db.CheckSchema}
	if !slices.Equal(purposes, []config.Purpose{config.ForAPI}) {
		// The api accepts jobs without Redis; nobody works without it.
		checks["redis"] = func(ctx context.Context) error { return redisdb.CheckPolicy(ctx, client) }
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
		server, err := observe.Listen(ctx, part.listen, handler, observe.ServerOptions{Log: log})
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
		err := p.await(ctx, slices.Contains(purposes, config.ForWorker))
		if err == nil {
			close(ready)
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
		return part{listen: p.settings.API.Listen, handler: func(health http.Handler) http.Handler {
			client := tasks.NewClient(p.store, p.redis, p.board, p.log)
			return httpapi.New(p.store, client, p.board, httpapi.Options{
				AccountValidity: p.settings.AccountValidity,
				Health:          health,
				Log:             p.log,
				Observe:         p.observe,
				SeedDialect:     p.settings.Dialect == config.DialectSeed,
			}).Handler
		}}
	case config.ForWorker:
		return part{listen: p.settings.Worker.Listen, run: func(ctx context.Context) error {
			return tasks.NewWorker(p.store, p.redis, p.locks, p.board, p.log, p.metrics, tasks.WorkerOptions{
				BatchEvents:  p.settings.Worker.BatchEvents,
				BatchTime:    p.settings.Worker.BatchTime,
				Concurrency:  p.settings.Worker.Concurrency,
				DrainTimeout: p.settings.Worker.DrainTimeout,
				ServerName:   p.settings.ServerName,
				TimeSlice:    p.settings.Worker.TimeSlice,
			}).Run(ctx)
		}}
	case config.ForScheduler:
		return part{listen: p.settings.Scheduler.Listen, run: func(ctx context.Context) error {
			tasks.NewReconciler(p.store, p.redis, p.board, p.log, p.metrics).Run(ctx)
			return nil
		}}
	}
	panic(fmt.Sprintf("process: no part for purpose %d", purpose))
}

// await waits until the database can be reached, and fails if it is not one to
// work on.
func (p *process) await(ctx context.Context, works bool) error {
	for {
		err := p.check(ctx, works)
		if err == nil || errors.Is(err, store.ErrSchema) || errors.Is(err, ErrBeside) {
			return err
		}
		p.log.WarnContext(ctx, "waiting for the database", "error", err)
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(startRetry):
		}
	}
}

func (p *process) check(ctx context.Context, works bool) error {
	if err := p.store.CheckSchema(ctx); err != nil {
		return err
	}
	if !works || p.settings.SynapseBeside != nil {
		return nil
	}
	made, err := p.store.MadeBySynapse(ctx)
	if err == nil && made {
		err = ErrBeside
	}
	return err
}

func (p *process) observe(route, method string, status int, duration time.Duration) {
	p.metrics.HTTPRequestSeconds.WithLabelValues(route, method, fmt.Sprint(status)).Observe(duration.Seconds())
}

// name is what a process that serves the purposes calls itself.
func name(purposes []config.Purpose) string {
	names := map[config.Purpose]string{config.ForAPI: "api", config.ForWorker: "worker", config.ForScheduler: "scheduler"}
	words := []string{"lethe"}
	for _, purpose := range purposes {
		words = append(words, names[purpose])
	}
	return strings.Join(words, " ")
}
