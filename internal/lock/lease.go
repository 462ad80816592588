package lock

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"time"

	"lethe/internal/redisdb"
)

// A Lease is one reader's shared use of a room, from [Locker.RLock] to Release.
// It is safe for concurrent use.
type Lease struct {
	locker *Locker
	room   string
	id     string
	limit  time.Time // no renewal goes beyond it
	tenure *tenure
}

// RLock lets the caller into the room together with other readers. It waits
// behind a writer, whether inside or waiting, but goes before the next one.
//
// When ctx ends or [Options.Wait] is over, the error wraps ErrTaken and the
// cause of ctx or context.DeadlineExceeded. When Redis fails, the error wraps
// ErrUnavailable and comes at once, at most twice [Options.Timeout] later, so
// that the caller may do without. After an error there is no lease.
//
// The caller releases. The lease is kept alive until then, until ctx ends or
// until [Options.MaxLease] is over.
func (l *Locker) RLock(ctx context.Context, room string) (*Lease, error) {
	if ctx.Err() != nil {
		return nil, fmt.Errorf("lease room %q: %w", room, context.Cause(ctx))
	}
	wait, cancel := context.WithTimeout(ctx, l.options.Wait)
	defer cancel()
	lease := &Lease{locker: l, room: room, id: rand.Text()}
	for {
		err := lease.acquire(ctx)
		if err == nil {
			return lease, nil
		}
		if !errors.Is(err, ErrTaken) {
			return nil, fmt.Errorf("lease room %q: %w", room, err)
		}
		if cause := pause(wait); cause != nil {
			return nil, fmt.Errorf("lease room %q: %w: %w", room, err, cause)
		}
	}
}

// acquire starts the lease unless a writer is in the way: then it returns
// ErrTaken.
func (s *Lease) acquire(ctx context.Context) error {
	// Detached, so that a reader who leaves at the wrong moment has no lease.
	command, cancel := s.locker.detached(ctx)
	defer cancel()
	options := s.locker.options
	keys := []string{
		redisdb.RoomWriteLock(s.room),
		redisdb.RoomReadLeases(s.room),
		redisdb.RoomRefusedReader(s.room),
	}
	start := time.Now()
	ttl := min(options.Lease, options.MaxLease)
	admitted, err := scriptAcquire.Run(command, s.locker.client, keys,
		s.id, ttl.Milliseconds(), markLasts.Milliseconds()).Bool()
	switch {
	case err != nil:
		// The answer may be all that was lost, and an unknown lease would keep
		// writers out until it expires.
		_, _ = s.remove(ctx)
		return unavailable(err)
	case !admitted:
		return ErrTaken
	}
	s.limit = start.Add(options.MaxLease)
	s.tenure = options.begin(ctx, localExpiry(start, ttl), s.renew)
	return nil
}

// renew is the tenure's.
func (s *Lease) renew(ctx context.Context) (time.Time, error) {
	start := time.Now()
	ttl := min(s.locker.options.Lease, s.limit.Sub(start))
	renewed, err := scriptRenew.Run(ctx, s.locker.client,
		[]string{redisdb.RoomReadLeases(s.room)}, s.id, ttl.Milliseconds()).Bool()
	switch {
	case err != nil:
		return time.Time{}, unavailable(err)
	case !renewed:
		return time.Time{}, ErrLockLost
	}
	return localExpiry(start, ttl), nil
}

// localExpiry is when a lease of ttl, asked for at start, has surely not yet
// expired in Redis, which counts in milliseconds by a clock of its own.
func localExpiry(start time.Time, ttl time.Duration) time.Time {
	drift := time.Duration(float64(ttl)*clockDrift) + 2*time.Millisecond
	return start.Add(ttl - drift)
}

// remove takes the lease out of Redis and reports whether it was there.
func (s *Lease) remove(ctx context.Context) (bool, error) {
	ctx, cancel := s.locker.detached(ctx)
	defer cancel()
	removed, err := s.locker.client.ZRem(ctx, redisdb.RoomReadLeases(s.room), s.id).Result()
	return removed > 0, err
}

// Context is derived from the one given to [Locker.RLock]. It ends with the
// lease: with cause ErrLockLost when that could not be renewed or has reached
// [Options.MaxLease], with context.Canceled when it is released.
func (s *Lease) Context() context.Context { return s.tenure.ctx }

// Release ends the lease. It works in a ctx that has ended and takes no longer
// than about [Options.Timeout]. It returns ErrLockLost when the lease had
// expired, and ErrUnavailable when Redis could not be asked; the lease then
// expires by itself. A second call does nothing and returns nil.
func (s *Lease) Release(ctx context.Context) error {
	if !s.tenure.end() {
		return nil
	}
	removed, err := s.remove(ctx)
	switch {
	case err != nil:
		err = unavailable(err)
	case !removed:
		err = ErrLockLost
	default:
		return nil
	}
	return fmt.Errorf("release room %q: %w", s.room, err)
}
