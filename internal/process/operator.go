package process

import (
	"context"
	"errors"
	"log/slog"
	"net/http"

	"lethe/internal/brake"
	"lethe/internal/config"
	"lethe/internal/dispatch"
	"lethe/internal/httpapi"
	"lethe/internal/jobs"
	"lethe/internal/operator"
	"lethe/internal/plan"
	"lethe/internal/redisdb"
	"lethe/internal/schedule"
	"lethe/internal/store/footprint"
	"lethe/internal/store/journal"
	"lethe/internal/store/migrate"
	"lethe/internal/store/postgres"
	"lethe/internal/store/purge"
	"lethe/internal/synapse"
	"lethe/internal/tasks"
)

// operator returns the API of operators. With a nil Redis client it knows of no worker and
// needs no board, and the statuses of jobs follow within seconds.
func (p *process) operator() *operator.Operator {
	options := operator.Options{Grace: p.settings.Grace, Log: p.log, PurgeDelay: p.settings.PurgeDelay, ServerName: p.settings.ServerName, Synapse: p.synapse}
	if rules := p.settings.Retention.Rules; rules.Enabled {
		for _, job := range rules.Jobs {
			options.RetentionJobs = append(options.RetentionJobs, job.Name)
		}
	}
	if abandoned := p.settings.Retention.Rules.Abandoned; abandoned.Enabled {
		options.AbandonedJob = abandoned.Job().Name
	}
	if p.redis != nil {
		options.Changed = func(ctx context.Context, job journal.Job) { p.board.Post(ctx, jobs.StatusOf(job)) }
		dispatcher := dispatch.New(p.redis, p.names)
		options.Brakes = brake.NewBoard(p.redis, p.names).States
		options.Schedulers = schedule.NewBoard(p.redis, p.names).Replicas
		options.Workers = func(context.Context) ([]operator.FleetWorker, error) { return fleetOf(dispatcher) }
	}
	planner, sizes := plannerOf(p.db, p.synapse, p.settings)
	return operator.New(p.db, tasks.NewClient(p.db, p.redis, p.names, p.log).Keeping(p.settings.StatusTTL), planner, sizes, options)
}

// plannerOf returns what makes plans, and measures rooms, by the settings.
func plannerOf(db *postgres.DB, homeserver *synapse.Synapse, settings config.Config) (*plan.Planner, *footprint.Queries) {
	purger := purge.New(db, purge.Options{Compat: settings.SchemaCompat, Tables: settings.Tables})
	options := footprint.Options{ServerName: settings.ServerName}
	planner := plan.New(db, plan.Options{
		Beside: homeserver.Beside, Footprint: options, Purger: purger, Retention: settings.Retention.Rules,
	})
	return planner, footprint.New(db, purger, options)
}

func fleetOf(dispatcher *dispatch.Dispatcher) ([]operator.FleetWorker, error) {
	alive, err := dispatcher.Workers()
	workers := make([]operator.FleetWorker, 0, len(alive))
	for _, w := range alive {
		workers = append(workers, operator.FleetWorker{
			Name: w.Name, Started: w.Started.UnixMilli(), Concurrency: w.Concurrency, Running: w.Running,
		})
	}
	return workers, err
}

// Local returns the API of an api for calls in this process, whose requests are all made
// by the admin called who. It needs the database, and no worker, homeserver or access
// token. Without a server_name in the settings, it takes that of the users in the
// database. Without a Redis, workers get to know of new jobs some seconds later. The
// caller must call the returned function.
func Local(ctx context.Context, settings config.Config, who string, log *slog.Logger) (http.Handler, func(), error) {
	db, err := postgres.Open(ctx, string(settings.Database.URL), postgres.Options{ApplicationName: "lethe command", MaxConnections: localConnections})
	if err != nil {
		return nil, nil, err
	}
	if err := migrate.CheckSchema(ctx, db); err != nil {
		db.Close()
		return nil, nil, err
	}
	if settings.ServerName == "" {
		// Without a user no event is one of this server's.
		if settings.ServerName, err = migrate.ServerName(ctx, db); err != nil && !errors.Is(err, migrate.ErrNoServerName) {
			db.Close()
			return nil, nil, err
		}
	}
	p := process{db: db, settings: settings, log: log, names: new(redisdb.Names)}
	if err := p.bindNames(ctx); err != nil {
		db.Close()
		return nil, nil, err
	}
	if url := string(settings.Redis.URL); url != "" {
		if p.redis, err = redisdb.Open(url); err != nil {
			db.Close()
			return nil, nil, err
		}
		p.board = jobs.NewBoard(db, p.redis, settings.StatusTTL, log).In(p.names)
	}
	closeAll := func() {
		if p.redis != nil {
			_ = p.redis.Close()
		}
		db.Close()
	}
	p.synapse = synapse.New(db, synapse.Options{Mode: synapse.Mode(settings.SynapseBeside), ServerName: settings.ServerName})
	if err := p.synapse.Find(ctx); err != nil && !synapse.Unsupported(err) {
		closeAll()
		return nil, nil, err
	}
	handler := httpapi.New(db, nil, nil, httpapi.Options{
		Local: who, Log: log, Operator: p.operator(), ServerName: settings.ServerName,
	})
	return handler, closeAll, nil
}

// localConnections is how many sessions a command has at most.
const localConnections = 4
