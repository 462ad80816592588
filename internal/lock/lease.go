package lock

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"time"

	"github.com/redis/go-redis/v9"

	"lethe/internal/redisdb"
)

// A Lease is one reader's shared use of a room, from [Locker.RLock] to Release.
// It is safe for concurrent use.
type Lease struct {
	options Options
	masters *masters
	room    string
	id      string    // in Redis
	mark    string    // in Redis, when refused
	limit   time.Time // no renewal goes beyond it
	tenure  *tenure
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
	lease, _, err := l.lease(ctx, room)
	return lease, err
}

// lease is RLock, and says whether a writer was in the way.
func (l *Locker) lease(ctx context.Context, room string) (_ *Lease, refused bool, err error) {
	if ctx.Err() != nil {
		return nil, false, fmt.Errorf("lease room %q: %w", room, context.Cause(ctx))
	}
	wait, cancel := context.WithTimeout(ctx, l.options.Wait)
	defer cancel()
	waiter := l.newWaiter(room)
	defer waiter.leave()
	mark := rand.Text()
	for {
		// A new one each time: what is slow to undo on one master must undo the
		// attempt before, and not this one.
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
			// The next writer need not wait for this reader.
			_, _ = lease.remove(ctx, true)
			return nil, refused, fmt.Errorf("lease room %q: %w: %w", room, err, cause)
		}
	}
}

// acquire starts the lease unless a writer is in the way: then it returns
// ErrTaken.
func (s *Lease) acquire(ctx context.Context) error {
	keys := []string{
		redisdb.RoomWriteLock(s.room),
		redisdb.RoomReadLeases(s.room),
		redisdb.RoomRefusedReaders(s.room),
	}
	start := time.Now()
	ttl := min(s.options.Lease, s.options.MaxLease)
	admitted, err := s.masters.ask(ctx, func(ctx context.Context, master redis.UniversalClient) (bool, error) {
		return scriptAcquire.Run(ctx, master, keys,
			s.id, ttl.Milliseconds(), s.mark, s.options.markLasts().Milliseconds(), redisdb.RoomWakeUp(s.room)).Bool()
	})
	if !admitted {
		if err == nil {
			err = ErrTaken
		}
		if !errors.Is(err, ErrTaken) || len(s.masters.nodes) > 1 {
			// Of a failure the answer may be all that was lost, and fewer than a
			// quorum may have let the reader in. Such a lease would keep writers
			// out until it expires.
			_, _ = s.remove(ctx, false)
		}
		return err
	}
	s.limit = start.Add(s.options.MaxLease)
	s.tenure = s.options.begin(ctx, localExpiry(start, ttl), s.renew)
	return nil
}

// renew is the tenure's.
func (s *Lease) renew(ctx context.Context) (time.Time, error) {
	start := time.Now()
	ttl := min(s.options.Lease, s.limit.Sub(start))
	renewed, err := s.masters.ask(ctx, func(ctx context.Context, master redis.UniversalClient) (bool, error) {
		return scriptRenew.Run(ctx, master,
			[]string{redisdb.RoomReadLeases(s.room)}, s.id, ttl.Milliseconds()).Bool()
	})
	switch {
	case err != nil:
		return time.Time{}, err
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

// remove takes the lease out of Redis, and also the mark of a refused reader if
// forget says so, and reports whether the lease was there.
func (s *Lease) remove(ctx context.Context, forget bool) (bool, error) {
	keys := []string{redisdb.RoomWriteLock(s.room), redisdb.RoomReadLeases(s.room)}
	if forget {
		keys = append(keys, redisdb.RoomRefusedReaders(s.room))
	}
	return s.masters.giveBack(ctx, func(ctx context.Context, master redis.UniversalClient) (bool, error) {
		return scriptRelease.Run(ctx, master, keys, s.id, redisdb.RoomWakeUp(s.room), s.mark).Bool()
	})
}

// Context is derived from the one given to [Locker.RLock]. It ends with the
// lease: with cause ErrLockLost when that could not be renewed or has reached
// [Options.MaxLease], with context.Canceled when it is released.
func (s *Lease) Context() context.Context { return s.tenure.ctx }

// Release ends the lease. It works in a ctx that has ended and takes no longer
// than about [Options.Timeout]. It returns ErrLockLost when the lease had
// expired, and ErrUnavailable, beside that or alone, when Redis could not be
// asked; the lease then expires by itself. A second call does nothing and returns nil.
func (s *Lease) Release(ctx context.Context) error {
	if !s.tenure.end() {
		return nil
	}
	removed, err := s.remove(ctx, true)
	if removed {
		return nil
	}
	return fmt.Errorf("release room %q: %w", s.room, s.tenure.lossOf(err))
}
