package process

import (
	"context"
	"errors"
	"fmt"
	"time"

	"lethe/internal/config"
	"lethe/internal/observe"
	"lethe/internal/redisdb"
	"lethe/internal/store/migrate"
	"lethe/internal/store/postgres"
	"lethe/internal/store/wal"
	"lethe/internal/synapse"
	"lethe/internal/wait"
)

// ErrServerName is returned by a worker if no user in the database has its
// server name. With a wrong name, the worker would take local events for remote
// events and delete them.
var ErrServerName = errors.New("LETHE_SERVER_NAME is wrong: no user in this database has this server name")

const (
	// retryInterval is the wait between two checks of the servers, before jitter.
	retryInterval = time.Second

	// checkTimeout is the longest time of one check.
	checkTimeout = 10 * time.Second
)

// awaitServers waits until the process can start. It returns an error if waiting
// cannot help, and nil if the context ends first.
func (p *process) awaitServers(ctx context.Context) error {
	canWait := func(err error) bool {
		if errors.Is(err, migrate.ErrSchema) || errors.Is(err, migrate.ErrCopied) || errors.Is(err, ErrServerName) || errors.Is(err, postgres.ErrPooler) ||
			errors.Is(err, wal.ErrUnusable) || synapse.Unsupported(err) {
			return false
		}
		if ctx.Err() == nil {
			p.log.WarnContext(ctx, "waiting to start", "error", err)
		}
		return true
	}
	err := wait.Retry(ctx, wait.Backoff{Min: retryInterval}, canWait, func() error {
		ctx, cancel := context.WithTimeout(ctx, checkTimeout)
		defer cancel()
		return p.check(ctx)
	})
	if ctx.Err() != nil {
		return nil // the process is stopping, or another part has failed
	}
	return err
}

// check returns why the process cannot start, or nil.
func (p *process) check(ctx context.Context) error {
	if p.needsSchema() {
		if err := p.checkSchema(ctx); err != nil {
			return err
		}
		if err := p.bindNames(ctx); err != nil {
			return err
		}
	}
	if p.needsRedis() {
		if err := p.checkRedis(ctx); err != nil {
			return err
		}
	}
	switch {
	case p.serves(config.ForWorker):
		if err := p.synapse.Find(ctx); err != nil {
			return err
		}
		if err := wal.Check(ctx, p.db, wal.Compression(p.settings.Worker.WALCompression)); err != nil {
			return err
		}
		return p.checkOwner(ctx)
	case p.serves(config.ForAPI):
		// It only tells Synapse what it does, if it can.
		err := p.synapse.Find(ctx)
		if synapse.Unsupported(err) {
			p.log.WarnContext(ctx, "Synapse is not told of blocks and of forward extremities", "error", err)
			return nil
		}
		return err
	}
	return nil
}

// checkOwner returns why a worker must not change the database, or nil.
func (p *process) checkOwner(ctx context.Context) error {
	ours, err := migrate.HasUsersOf(ctx, p.db, p.settings.ServerName)
	if err == nil && !ours {
		err = ErrServerName
	}
	return err
}

// checkRedis returns why Redis cannot be used, or nil.
func (p *process) checkRedis(ctx context.Context) error {
	if err := redisdb.CheckPolicy(ctx, p.redis); err != nil || len(p.locks) == 1 {
		return err
	}
	if err := redisdb.CheckQuorum(ctx, p.locks); err != nil {
		return fmt.Errorf("check the locks' masters: %w", err)
	}
	return nil
}

// needsRedis reports whether the process can do nothing without Redis. An api can:
// it accepts jobs and reads statuses. asynqmon shows on its pages that Redis cannot
// be reached.
func (p *process) needsRedis() bool {
	return p.serves(config.ForWorker) || p.serves(config.ForScheduler)
}

// needsSchema reports whether the process uses Lethe's own tables.
func (p *process) needsSchema() bool {
	return p.serves(config.ForAPI) || p.serves(config.ForWorker) || p.serves(config.ForScheduler)
}

// needsDatabase reports whether the process uses the database at all. asynqmon reads
// access tokens there, unless the homeserver checks them.
func (p *process) needsDatabase() bool {
	return p.needsSchema() || p.settings.TokensAt() != config.AuthHomeserver
}

func (p *process) checkSchema(ctx context.Context) error { return migrate.CheckSchema(ctx, p.db) }

// health returns the health of the process, and its metrics. Call it once.
func (p *process) health() *observe.Health {
	checks := map[string]observe.Check{}
	if p.needsDatabase() {
		checks["database"] = p.db.Reserved().Ping
	}
	if p.needsSchema() {
		checks["schema"] = func(ctx context.Context) error { return migrate.CheckSchema(ctx, p.db.Reserved()) }
	}
	if p.needsRedis() {
		checks["redis"] = p.checkRedis
	}
	return observe.NewHealth(p.registry, p.log, checks)
}
