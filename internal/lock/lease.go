package lock

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"

	"lethe/internal/wait"
)

// A Lease is one reader's shared use of a room, from [Locker.RLock] to Release.
// It is safe for concurrent use.
type Lease struct {
	options Options
	masters *masters
	room    string
	id      string    // in Redis
	mark    string    // in Redis, when refused
	limit   time.Time // the latest expiry of a renewal
	tenure  *tenure
}

// RLock takes a lease of the room, which it shares with other readers. It waits
// for a writer that is inside or waiting, but goes before the next writer.
//
// If ctx ends or [Options.Wait] is over, the error wraps ErrTaken and the cause of
// ctx or context.DeadlineExceeded. If Redis fails, RLock returns within twice
// [Options.Timeout] with an error that wraps ErrUnavailable or ErrRefused, so that the
// caller can read without a lease. After an error there is no lease.
//
// The caller calls [Lease.Release]. The lease is renewed until then, until ctx
// ends, or until [Options.MaxLease] is over.
func (l *Locker) RLock(ctx context.Context, room string) (*Lease, error) {
	lease, _, err := l.lease(ctx, room)
	return lease, err
}

// lease is RLock. It also reports whether a writer refused the reader.
func (l *Locker) lease(ctx context.Context, room string) (_ *Lease, refused bool, err error) {
	if ctx.Err() != nil {
		return nil, false, fmt.Errorf("lease room %q: %w", room, context.Cause(ctx))
	}
	wait, cancel := context.WithTimeout(ctx, l.options.Wait)
	defer cancel()
	waiter := l.newWaiter(room)
	defer waiter.stop()
	mark := rand.Text()
	for {
		// Each attempt has its own id: a slow command that undoes an attempt on
		// one master must not undo the next attempt.
		lease := &Lease{options: l.options, masters: l.masters(), room: room, id: rand.Text(), mark: mark}
		err := lease.acquire(ctx)
		if err == nil {
			return lease, refused, nil
		}
		if !errors.Is(err, ErrTaken) {
			return nil, refused, fmt.Errorf("lease room %q: %w", room, err)
		}
		refused = true
		if cause := waiter.pause(wait); cause != nil {
			// The next writer does not have to wait for this reader.
			_, _ = lease.remove(ctx, true)
			return nil, refused, fmt.Errorf("lease room %q: %w: %w", room, err, cause)
		}
	}
}

// acquire starts the lease. It returns ErrTaken if the room has a writer.
func (s *Lease) acquire(ctx context.Context) error {
	keys := []string{
		s.masters.names.RoomWriteLock(s.room),
		s.masters.names.RoomReadLeases(s.room),
		s.masters.names.RoomRefusedReaders(s.room),
	}
	start := time.Now()
	ttl := min(s.options.Lease, s.options.MaxLease)
	admitted, err := s.masters.ask(ctx, func(ctx context.Context, master redis.UniversalClient) (bool, error) {
		return scriptAcquire.Run(ctx, master, keys,
			s.id, ttl.Milliseconds(), s.mark, s.options.markLasts().Milliseconds(), s.masters.names.RoomWakeUp(s.room)).Bool()
	})
	if !admitted {
		if err == nil {
			err = ErrTaken
		}
		if !errors.Is(err, ErrTaken) || len(s.masters.nodes) > 1 {
			// A failed command may have added the lease, and so may fewer masters
			// than a quorum. Such a lease would block writers until it expires.
			_, _ = s.remove(ctx, false)
		}
		return err
	}
	s.limit = start.Add(s.options.MaxLease)
	s.tenure = s.options.begin(ctx, localExpiry(start, ttl), s.renew)
	return nil
}

// renew gives the lease more time. The tenure calls it.
func (s *Lease) renew(ctx context.Context) (time.Time, error) {
	start := time.Now()
	ttl := min(s.options.Lease, s.limit.Sub(start))
	renewed, err := s.masters.ask(ctx, func(ctx context.Context, master redis.UniversalClient) (bool, error) {
		return scriptRenew.Run(ctx, master,
			[]string{s.masters.names.RoomReadLeases(s.room)}, s.id, ttl.Milliseconds()).Bool()
	})
	switch {
	case err != nil:
		return time.Time{}, err
	case !renewed:
		return time.Time{}, ErrLockLost
	}
	return localExpiry(start, ttl), nil
}

// localExpiry returns a time until which a lease of ttl, requested at start, has
// certainly not expired in Redis, which has its own clock and counts milliseconds.
func localExpiry(start time.Time, ttl time.Duration) time.Time {
	drift := time.Duration(float64(ttl)*clockDrift) + 2*time.Millisecond
	return start.Add(ttl - drift)
}

// remove removes the lease from Redis, with the mark of a refused reader if
// withMark is set. It reports whether the lease existed.
func (s *Lease) remove(ctx context.Context, withMark bool) (bool, error) {
	keys := []string{s.masters.names.RoomWriteLock(s.room), s.masters.names.RoomReadLeases(s.room)}
	if withMark {
		keys = append(keys, s.masters.names.RoomRefusedReaders(s.room))
	}
	return s.masters.giveBack(ctx, func(ctx context.Context, master redis.UniversalClient) (bool, error) {
		return scriptRelease.Run(ctx, master, keys, s.id, s.masters.names.RoomWakeUp(s.room), s.mark).Bool()
	})
}

// Context returns a context derived from that given to [Locker.RLock]. It ends
// with the lease. The cause is ErrLockLost if the lease could not be renewed or
// has reached [Options.MaxLease], and context.Canceled if it was released.
func (s *Lease) Context() context.Context { return s.tenure.ctx }

// Release ends the lease. It works even if ctx has ended, and takes about
// [Options.Timeout] at most. The error wraps ErrLockLost if the lease had expired,
// and ErrUnavailable or ErrRefused if Redis failed: the lease then expires by itself. A second
// call does nothing and returns nil.
func (s *Lease) Release(ctx context.Context) error {
	if !s.tenure.end() {
		return nil
	}
	removed, err := s.remove(ctx, true)
	if removed {
		return nil
	}
	return fmt.Errorf("release room %q: %w", s.room, s.tenure.releaseError(err))
}

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
