package lock

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"lethe/internal/wait"
)

// A tenure is the time for which one process owns something in Redis. It asks
// for more time as long as it lives, and its context ends when time is up.
type tenure struct {
	ctx    context.Context
	cancel context.CancelCauseFunc
	expiry *time.Timer               // ends ctx at until, whatever Redis does
	until  atomic.Pointer[time.Time] // never later than what Redis says
	kept   chan struct{}             // closed when keep has returned
	ended  atomic.Bool
}

// begin starts a tenure that lasts until the given time, then longer each time
// that extend gives a new one. An error of extend that wraps ErrLockLost ends
// the tenure at once; after any other error extend is tried again. It is to
// take no longer than Options.Timeout.
func (o Options) begin(ctx context.Context, until time.Time, extend func(context.Context) (time.Time, error)) *tenure {
	t := &tenure{kept: make(chan struct{})}
	t.ctx, t.cancel = context.WithCancelCause(ctx)
	t.until.Store(&until)
	// A timer of its own, so that a process that was stopped, or that waits for
	// a dead Redis, learns in time that it owns nothing any more.
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
			// Redis may be back before time is up.
			pause = o.KeepAlive / 8
		}
	}
}

// live reports whether the tenure goes on. Unlike the context it needs no timer
// to have fired, which in a process that was stopped can be late.
func (t *tenure) live() bool {
	return t.ctx.Err() == nil && time.Now().Before(*t.until.Load())
}

// end stops the tenure, waits for its goroutine, and reports whether this was
// the first call; a later one does nothing.
func (t *tenure) end() bool {
	if t.ended.Swap(true) {
		return false
	}
	t.cancel(nil)
	<-t.kept
	t.expiry.Stop()
	return true
}

// lossOf says why what the tenure was of could not be given back. Err is what
// Redis failed with, nil if it answered that nothing was there. What was lost
// before stays lost, whether or not Redis can be asked.
func (t *tenure) lossOf(err error) error {
	switch {
	case err == nil:
		return ErrLockLost
	case errors.Is(context.Cause(t.ctx), ErrLockLost):
		return fmt.Errorf("%w: %w", ErrLockLost, err)
	}
	return err
}
