package process

import (
	"context"
	"errors"
	"fmt"
	"log/slog"

	"lethe/internal/config"
)

// Check reports whether a process that serves the purposes could start now: it returns
// nil, or all reasons why not. It checks each server once, and waits for none of them
// longer than ten seconds. It serves nothing, listens nowhere and changes nothing.
//
// Unlike [Run] it takes an api or an asynqmon that cannot reach Redis for one that
// cannot start, because such a process can do only a part of its work.
func Check(ctx context.Context, settings config.Config, log *slog.Logger, makeMonitor MonitorMaker, purposes ...config.Purpose) error {
	ctx, cancel := context.WithTimeout(ctx, checkTimeout)
	defer cancel()
	p, err := open(ctx, settings, log, makeMonitor, purposes)
	if err != nil {
		return err
	}
	defer p.close(ctx)
	errs := []error{p.check(ctx)}
	if p.db != nil && !p.needsSchema() {
		errs = append(errs, p.db.Ping(ctx))
	}
	if !p.needsRedis() {
		errs = append(errs, p.checkRedis(ctx))
	}
	if p.delegation != nil {
		errs = append(errs, p.delegation.look(ctx))
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("%s cannot start: %w", name(purposes), err)
	}
	return nil
}
