package lock

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"lethe/internal/expiring"
)

// ReadersOptions say how [Readers] share leases. The zero value of each field
// stands for its default.
type ReadersOptions struct {
	// Held is told how long each lease was held, when it is given back. Defaults to
	// nil, which tells nobody.
	Held func(time.Duration)

	// Most is how many rooms have a shared lease at a time. The requests to
	// further rooms get a lease each. Defaults to 10,000.
	Most int

	// Share is how long, from when a lease was got, later requests to the room
	// join it, and how long it is kept at most without a request. So it is what a
	// writer waits in vain at most, and what it waits for besides the requests
	// inside. It should be much shorter than [Options.Lease]. Defaults to 50 ms.
	Share time.Duration

	// Wait is how long Enter waits for a room that a writer has. Defaults to 5 s.
	Wait time.Duration

	// Waited is told how long each request waited, whether or not it got in.
	// Defaults to nil, which tells nobody.
	Waited func(time.Duration)

	// WithoutLease is called for each request that was let in without a lease.
	// Defaults to nil, which tells nobody.
	WithoutLease func()
}

// contention is for how long a room in which a reader met a writer counts as one
// with writers: longer than a purge pauses.
const contention = 10 * time.Second

// redisRest is for how long Redis, after it failed, is asked by one request
// alone.
const redisRest = time.Second

// Readers lets the requests of one process into rooms: those that come to one
// room together share one lease. So most pages of a busy room cost no round trip
// to Redis, and the others one. It is safe for concurrent use.
//
// A lease is joined for [ReadersOptions.Share] only. Whoever comes later needs a
// new one, which Redis refuses while a writer waits: so a writer waits for the
// requests that came until then, and for nobody else. Without a request a lease
// is kept until that time is over too, but only where no reader has met a writer
// in the last 10 s: the batches of a purge wait for no idle lease, but perhaps
// the first.
type Readers struct {
	locker  *Locker
	options ReadersOptions
	ctx     context.Context
	cancel  context.CancelFunc
	tasks   sync.WaitGroup // asking for leases, and giving them back

	// contended has the rooms that count as rooms with writers.
	contended *expiring.Map[string, struct{}]

	mu     sync.Mutex
	closed bool
	byRoom map[string]*share   // what the next request joins
	shares map[*share]struct{} // all that may have a lease
	asked  time.Time           // when Redis, which failed, was asked last; zero while it works
}

// A share is a lease and those who use it.
type share struct {
	room string

	// cancel ends the asking for the lease.
	cancel context.CancelFunc

	// ready is closed when lease and err are set, and stay so. A share may have
	// neither: then its requests are in without a lease.
	ready chan struct{}
	lease *Lease
	err   error

	// leased is when the lease was got.
	leased time.Time

	// The rest is guarded by Readers.mu.

	// until is when nobody joins any more; zero while the lease is asked for.
	until time.Time

	// users are those who wait for the lease or use it.
	users int

	// hasty says that the lease is not kept without users.
	hasty bool

	// idle releases the lease at until, unless somebody uses it.
	idle *time.Timer

	// over says that the lease has been given back, or is not wanted any more.
	over bool
}

// NewReaders returns Readers that lease rooms from the locker. The caller closes
// it, when all who entered have left.
func NewReaders(locker *Locker, options ReadersOptions) *Readers {
	if options.Most <= 0 {
		options.Most = 10_000
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
		contended: expiring.New[string, struct{}](options.Most),
	}
	r.ctx, r.cancel = context.WithCancel(context.Background())
	return r
}

// Enter lets the caller into the room beside other readers; leave is called when
// the reading is done, and does nothing when called again. While a writer is
// inside, or waits, Enter waits for at most [ReadersOptions.Wait], and then fails
// with [ErrTaken]. When Redis fails, or the Readers is closed, it lets the caller
// in without a lease: its picture of the room is one moment's anyway. When ctx
// ends, the error wraps its cause.
//
// A request whose lease is lost, since it took longer than [Options.MaxLease] or
// Redis went away, is not told.
func (r *Readers) Enter(ctx context.Context, room string) (leave func(), err error) {
	begun := time.Now()
	if r.options.Waited != nil {
		defer func() { r.options.Waited(time.Since(begun)) }()
	}
	// Only those who wait need the timer.
	var patience <-chan time.Time
	for {
		s := r.join(room)
		if s == nil {
			r.withoutLease()
			return func() {}, nil
		}
		select {
		case <-s.ready:
		default:
			if patience == nil {
				timer := time.NewTimer(r.options.Wait)
				defer timer.Stop()
				patience = timer.C
			}
			select {
			case <-s.ready:
			case <-ctx.Done():
				r.leave(s)
				return nil, fmt.Errorf("enter room %q: %w", room, context.Cause(ctx))
			case <-patience:
				r.leave(s)
				return nil, fmt.Errorf("enter room %q: %w", room, ErrTaken)
			}
		}
		if s.err != nil {
			// The locker's patience, not this caller's, is over.
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

func (r *Readers) withoutLease() {
	if r.options.WithoutLease != nil {
		r.options.WithoutLease()
	}
}

// join makes the caller a user of the room's share, a new one if need be. It is
// nil if the caller is to do without.
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
	if ok || len(r.byRoom) < r.options.Most {
		r.byRoom[room] = s
	} else {
		s.hasty = true
	}
	r.shares[s] = struct{}{}
	ctx, cancel := context.WithCancel(r.ctx)
	s.cancel = cancel
	r.tasks.Go(func() { r.ask(ctx, s) })
	return s
}

// mayAsk reports whether Redis is to be asked. After it failed one request tries
// now and then; a Redis that does not answer would make all of them wait. The
// caller holds mu.
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

// ask gets the share its lease.
func (r *Readers) ask(ctx context.Context, s *share) {
	lease, refused, err := r.locker.lease(ctx, s.room)
	r.mu.Lock()
	now := time.Now()
	switch {
	case err == nil:
		s.lease, s.leased = lease, now
		r.asked = time.Time{}
	case errors.Is(err, ErrUnavailable):
		r.asked = now
	default:
		s.err = err
	}
	s.until = now.Add(r.options.Share)
	if refused {
		r.contended.Put(s.room, struct{}{}, contention)
	}
	_, contended := r.contended.Get(s.room)
	s.hasty = s.hasty || contended
	switch {
	case r.closed:
		r.end(s)
	case s.err != nil:
		r.forget(s)
	}
	gone := s.users == 0
	r.mu.Unlock()
	close(s.ready)
	if gone {
		r.settle(s)
	}
}

// leave ends the caller's use of the share.
func (r *Readers) leave(s *share) {
	r.mu.Lock()
	s.users--
	last := s.users == 0
	if last && s.until.IsZero() {
		// Nobody waits for the lease any more. What ask got nevertheless it gives
		// back.
		s.cancel()
		r.forget(s)
		s.hasty, last = true, false
	}
	r.mu.Unlock()
	if last {
		r.settle(s)
	}
}

// settle gives the lease of a share without users back, or sees to it that it
// will be.
func (r *Readers) settle(s *share) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if s.users > 0 || s.over {
		return
	}
	if left := time.Until(s.until); left > 0 && !s.hasty && s.lease != nil && !r.closed {
		if s.idle == nil {
			s.idle = time.AfterFunc(left, func() { r.settle(s) })
		}
		return
	}
	r.end(s)
}

// end gives the share's lease back. The caller holds mu.
func (r *Readers) end(s *share) {
	r.forget(s)
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
		// A lease that was lost, or that Redis does not take back, expires.
		_ = s.lease.Release(context.Background())
		if r.options.Held != nil {
			r.options.Held(time.Since(s.leased))
		}
	})
}

// forget sees to it that nobody joins the share. The caller holds mu.
func (r *Readers) forget(s *share) {
	if r.byRoom[s.room] == s {
		delete(r.byRoom, s.room)
	}
}

// Close gives all leases back, even of those who have not left, and returns when
// that is done, a few times [Options.Timeout] later at most. A second call does
// nothing.
func (r *Readers) Close() {
	r.mu.Lock()
	r.closed = true
	for s := range r.shares {
		if !s.until.IsZero() { // else ask has yet to learn of it
			r.end(s)
		}
	}
	r.mu.Unlock()
	r.cancel()
	r.tasks.Wait()
}
