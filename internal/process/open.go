package process

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strings"

	"lethe/internal/config"
	"lethe/internal/homeserver"
	"lethe/internal/httpapi"
	"lethe/internal/jobs"
	"lethe/internal/lock"
	"lethe/internal/matrix"
	"lethe/internal/monitor"
	"lethe/internal/observe"
	"lethe/internal/redisdb"
	"lethe/internal/store/postgres"
)

// open opens what the parts of a process share. It does not wait for any server:
// see [process.awaitServers]. The caller closes the process.
func open(ctx context.Context, settings config.Config, log *slog.Logger, makeMonitor MonitorMaker, purposes []config.Purpose) (*process, error) {
	p := &process{settings: settings, purposes: purposes, log: log}
	for _, step := range []func() error{
		func() error { return p.openBase(ctx) },
		p.openLocks,
		p.openHomeserver,
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

// openBase opens what every process needs: traces, metrics, PostgreSQL and Redis.
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
	p.db, err = postgres.Open(ctx, string(p.settings.Database.URL), postgres.Options{
		ApplicationName: name(p.purposes), MaxConnections: p.settings.Database.MaxConnections,
	})
	if err != nil {
		return err
	}
	p.onClose(func(context.Context) { p.db.Close() })
	p.redis, err = redisdb.Open(string(p.settings.Redis.URL))
	if err != nil {
		return err
	}
	p.onClose(func(context.Context) { _ = p.redis.Close() })
	p.board = jobs.NewBoard(p.db, p.redis, p.settings.StatusTTL, p.log)
	p.registry = observe.NewRegistry()
	p.metrics = observe.NewMetrics(p.registry)
	return nil
}

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
	p.readers = lock.NewReaders(lock.NewQuorum(p.locks, nil, lock.Options{}), lock.ReadersOptions{
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
