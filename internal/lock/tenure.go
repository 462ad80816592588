package lock

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"lethe/internal/wait"
)

// A tenure is the time for which a process owns a lock or lease. It extends that
// time until it is stopped. Its context ends when the time is over.
type tenure struct {
	ctx    context.Context
	cancel context.CancelCauseFunc
	expiry *time.Timer               // ends ctx at until, even if Redis does not answer
	until  atomic.Pointer[time.Time] // never later than the expiry in Redis
	kept   chan struct{}             // closed when keep has returned
	ended  atomic.Bool
}

// begin starts a tenure that lasts until the given time. Each call of extend
// returns a later one. An error of extend that wraps ErrLockLost ends the tenure at
// once. After any other error extend is called again. It must take no longer than
// Options.Timeout.
func (o Options) begin(ctx context.Context, until time.Time, extend func(context.Context) (time.Time, error)) *tenure {
	t := &tenure{kept: make(chan struct{})}
	t.ctx, t.cancel = context.WithCancelCause(ctx)
	t.until.Store(&until)
	// The timer ends the context in time even if extend waits for a dead Redis.
	t.expiry = time.AfterFunc(time.Until(until), func() { t.cancel(ErrLockLost) })
	go t.keep(o, extend)
	return t
}

// keep extends the tenure until its context ends.
func (t *tenure) keep(o Options, extend func(context.Context) (time.Time, error)) {
	defer close(t.kept)
	pause := o.KeepAlive
	for wait.For(t.ctx, pause) == nil {
		until, err := extend(t.ctx)
		switch {
		case err == nil:
			t.until.Store(&until)
			t.expiry.Reset(time.Until(until))
			pause = o.KeepAlive
		case errors.Is(err, ErrLockLost):
			t.cancel(ErrLockLost)
			return
		default:
			// Redis may answer again before the time is over.
			pause = o.KeepAlive / 8
		}
	}
}

// live reports whether the tenure lasts. Unlike the context it does not depend on
// the timer, which can fire late in a process that was stopped.
func (t *tenure) live() bool {
	return t.ctx.Err() == nil && time.Now().Before(*t.until.Load())
}

// end stops the tenure, waits for its goroutine, and reports whether this is the
// first call. A later call does nothing.
func (t *tenure) end() bool {
	if t.ended.Swap(true) {
		return false
	}
	t.cancel(nil)
	<-t.kept
	t.expiry.Stop()
	return true
}

// releaseError returns the error of a failed release. Err is the error of Redis, or
// nil if Redis had no such lock or lease. A tenure that was lost before wraps
// ErrLockLost in both cases.
func (t *tenure) releaseError(err error) error {
	switch {
	case err == nil:
		return ErrLockLost
	case errors.Is(context.Cause(t.ctx), ErrLockLost):
		return fmt.Errorf("%w: %w", ErrLockLost, err)
	}
	return err
}
