package lock

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"lethe/internal/expiring"
)

// ReadersOptions say how [Readers] share leases. A zero field has its default.
type ReadersOptions struct {
	// Held is called when a lease is released, with the time for which it was held.
	// Defaults to nil: no call.
	Held func(time.Duration)

	// MaxRooms is how many rooms may have a shared lease at a time. Requests to
	// other rooms get a lease each. Defaults to 10,000.
	MaxRooms int

	// Share is how long after its start a lease accepts further requests to its
	// room, and how long it is kept without a request. A writer waits for a lease
	// without requests no longer than that. Share should be much shorter than
	// [Options.Lease]. Defaults to 50 ms.
	Share time.Duration

	// Wait is how long Enter waits for a room with a writer. Defaults to 5 s.
	Wait time.Duration

	// Waited is called for each request, with the time for which it waited, also
	// if it failed. Defaults to nil: no call.
	Waited func(time.Duration)

	// WithoutLease is called for each request that enters without a lease. Defaults
	// to nil: no call.
	WithoutLease func()
}

// contention is how long a room counts as contended after a reader has met a
// writer there. It is longer than the pauses of a purge.
const contention = 10 * time.Second

// redisRest is the time between two requests to a Redis that has failed.
const redisRest = time.Second

// Readers lets the requests of one process into rooms. Requests that come to a
// room at about the same time share one lease. So most pages of a busy room cost
// no round trip to Redis, and the others one. It is safe for concurrent use.
//
// A lease accepts further requests only for [ReadersOptions.Share]. A later request
// needs a new lease, which Redis refuses while a writer waits: so a writer waits
// only for the requests of the current lease. A lease without requests is kept
// until that time is over, unless the room is contended: so the batches of a purge
// do not wait for idle leases, except perhaps the first batch.
type Readers struct {
	locker  *Locker
	options ReadersOptions
	ctx     context.Context
	cancel  context.CancelFunc
	tasks   sync.WaitGroup // goroutines that take or release leases

	// contended has the rooms in which a reader has met a writer.
	contended *expiring.Map[string, struct{}]

	mu     sync.Mutex
	closed bool
	byRoom map[string]*share   // the share that the next request joins
	shares map[*share]struct{} // all shares that may have a lease
	asked  time.Time           // the last request to a Redis that has failed; zero while Redis works
}

// A share is a lease and its users.
type share struct {
	room string

	// cancel cancels the request for the lease.
	cancel context.CancelFunc

	// ready is closed when lease and err have their final values. If both are nil,
	// the users enter without a lease.
	ready chan struct{}
	lease *Lease
	err   error

	// leased is when the lease began.
	leased time.Time

	// The fields below are guarded by Readers.mu.

	// until is when the share stops accepting users. It is zero while the lease is
	// requested.
	until time.Time

	// users is the number of requests that wait for the lease or use it.
	users int

	// noIdle says that the lease is released as soon as it has no users.
	noIdle bool

	// idle releases the lease at until, if it has no users.
	idle *time.Timer

	// over says that the lease has been released or is no longer needed.
	over bool
}

// NewReaders returns Readers that take their leases from the locker. The caller
// closes it after all requests have left.
func NewReaders(locker *Locker, options ReadersOptions) *Readers {
	if options.MaxRooms <= 0 {
		options.MaxRooms = 10_000
	}
	if options.Share <= 0 {
		options.Share = 50 * time.Millisecond
	}
	if options.Wait <= 0 {
		options.Wait = 5 * time.Second
	}
	r := &Readers{
		locker: locker, options: options,
		byRoom: map[string]*share{}, shares: map[*share]struct{}{},
		contended: expiring.New[string, struct{}](options.MaxRooms),
	}
	r.ctx, r.cancel = context.WithCancel(context.Background())
	return r
}

// Enter lets the caller into the room together with other readers. The caller calls
// leave when it has finished reading. A second call of leave does nothing. While a
// writer is inside or waits, Enter waits for up to [ReadersOptions.Wait], and then
// fails with [ErrTaken]. If Redis fails or refuses a command, or the Readers is closed, the
// caller enters without a lease, because its snapshot is consistent anyway. If ctx ends,
// the error wraps its cause.
//
// The caller is not told if its lease is lost because it reads for longer than
// [Options.MaxLease] or Redis fails.
func (r *Readers) Enter(ctx context.Context, room string) (leave func(), err error) {
	begun := time.Now()
	if r.options.Waited != nil {
		defer func() { r.options.Waited(time.Since(begun)) }()
	}
	var timeout <-chan time.Time // made only if the caller waits
	for {
		s := r.join(room)
		if s == nil {
			r.withoutLease()
			return func() {}, nil
		}
		select {
		case <-s.ready:
		default:
			if timeout == nil {
				timer := time.NewTimer(r.options.Wait)
				defer timer.Stop()
				timeout = timer.C
			}
			select {
			case <-s.ready:
			case <-ctx.Done():
				r.leave(s)
				return nil, fmt.Errorf("enter room %q: %w", room, context.Cause(ctx))
			case <-timeout:
				r.leave(s)
				return nil, fmt.Errorf("enter room %q: %w", room, ErrTaken)
			}
		}
		if s.err != nil {
			// The locker's time to wait is over, and perhaps not this caller's.
			r.leave(s)
			if time.Since(begun) >= r.options.Wait {
				return nil, fmt.Errorf("enter room %q: %w", room, ErrTaken)
			}
			continue
		}
		if s.lease == nil {
			r.withoutLease()
		}
		var once sync.Once
		return func() { once.Do(func() { r.leave(s) }) }, nil
	}
}

// EnterNow is [Readers.Enter] for a caller who does not want to wait. It reports false, and
// the caller is not let in, unless the room has a lease that accepts further requests.
func (r *Readers) EnterNow(room string) (leave func(), entered bool) {
	r.mu.Lock()
	s := r.byRoom[room]
	entered = !r.closed && s != nil && s.lease != nil && !s.over && time.Now().Before(s.until)
	if entered {
		s.users++
	}
	r.mu.Unlock()
	if !entered {
		return nil, false
	}
	if r.options.Waited != nil {
		r.options.Waited(0)
	}
	return sync.OnceFunc(func() { r.leave(s) }), true
}

func (r *Readers) withoutLease() {
	if r.options.WithoutLease != nil {
		r.options.WithoutLease()
	}
}

// join makes the caller a user of the room's share, or of a new one. It returns nil
// if the caller enters without a lease.
func (r *Readers) join(room string) *share {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return nil
	}
	s, ok := r.byRoom[room]
	if ok && !s.over && (s.until.IsZero() || time.Now().Before(s.until)) {
		s.users++
		return s
	}
	if !r.mayAsk() {
		return nil
	}
	s = &share{room: room, ready: make(chan struct{}), users: 1}
	if ok || len(r.byRoom) < r.options.MaxRooms {
		r.byRoom[room] = s
	} else {
		s.noIdle = true
	}
	r.shares[s] = struct{}{}
	ctx, cancel := context.WithCancel(r.ctx)
	s.cancel = cancel
	r.tasks.Go(func() { r.takeLease(ctx, s) })
	return s
}

// mayAsk reports whether a request may ask Redis for a lease. After a failure only
// one request per redisRest may, because a Redis that does not answer makes it
// wait. The caller holds mu.
func (r *Readers) mayAsk() bool {
	if r.asked.IsZero() {
		return true
	}
	if time.Since(r.asked) < redisRest {
		return false
	}
	r.asked = time.Now()
	return true
}

// takeLease takes the share's lease.
func (r *Readers) takeLease(ctx context.Context, s *share) {
	lease, refused, err := r.locker.lease(ctx, s.room)
	r.mu.Lock()
	now := time.Now()
	switch {
	case err == nil:
		s.lease, s.leased = lease, now
		r.asked = time.Time{}
	case errors.Is(err, ErrUnavailable):
		r.asked = now
	case errors.Is(err, ErrRefused):
		// Without a lease. Other rooms may get theirs.
	default:
		s.err = err
	}
	s.until = now.Add(r.options.Share)
	if refused {
		r.contended.Put(s.room, struct{}{}, contention)
	}
	_, contended := r.contended.Get(s.room)
	s.noIdle = s.noIdle || contended
	switch {
	case r.closed:
		r.release(s)
	case s.err != nil:
		r.detach(s)
	}
	unused := s.users == 0
	r.mu.Unlock()
	close(s.ready)
	if unused {
		r.releaseUnused(s)
	}
}

// leave ends the caller's use of the share.
func (r *Readers) leave(s *share) {
	r.mu.Lock()
	s.users--
	last := s.users == 0
	if last && s.until.IsZero() {
		// No request waits for the lease any more. If takeLease still gets it, it
		// releases it.
		s.cancel()
		r.detach(s)
		s.noIdle, last = true, false
	}
	r.mu.Unlock()
	if last {
		r.releaseUnused(s)
	}
}

// releaseUnused releases the lease of a share without users, now or at the end of
// its time.
func (r *Readers) releaseUnused(s *share) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if s.users > 0 || s.over {
		return
	}
	if left := time.Until(s.until); left > 0 && !s.noIdle && s.lease != nil && !r.closed {
		if s.idle == nil {
			s.idle = time.AfterFunc(left, func() { r.releaseUnused(s) })
		}
		return
	}
	r.release(s)
}

// release releases the share's lease. The caller holds mu.
func (r *Readers) release(s *share) {
	r.detach(s)
	s.over = true
	delete(r.shares, s)
	if s.idle != nil {
		s.idle.Stop()
	}
	s.cancel()
	if s.lease == nil {
		return
	}
	r.tasks.Go(func() {
		// If this fails, the lease expires.
		_ = s.lease.Release(context.Background())
		if r.options.Held != nil {
			r.options.Held(time.Since(s.leased))
		}
	})
}

// detach keeps further requests from joining the share. The caller holds mu.
func (r *Readers) detach(s *share) {
	if r.byRoom[s.room] == s {
		delete(r.byRoom, s.room)
	}
}

// Close releases all leases, even those with users, which takes a few times
// [Options.Timeout] at most. A second call does nothing.
func (r *Readers) Close() {
	r.mu.Lock()
	r.closed = true
	for s := range r.shares {
		if !s.until.IsZero() { // otherwise takeLease will release it
			r.release(s)
		}
	}
	r.mu.Unlock()
	r.cancel()
	r.tasks.Wait()
}
