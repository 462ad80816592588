package lock

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/go-redsync/redsync/v4"
	"github.com/redis/go-redis/v9"

	"lethe/internal/redisdb"
)

var (
	// ErrTaken is returned when the room was still in use by another when the
	// caller's time to wait was over.
	ErrTaken = errors.New("room is taken")
	// ErrUnavailable is returned when Redis could not be asked, or not in time.
	ErrUnavailable = errors.New("Redis is unavailable")
	// ErrLockLost is the cause of the context of a lock or lease that is no
	// longer its owner's, and is returned when such a one is given back.
	ErrLockLost = errors.New("lock lost")
)

// clockDrift is the share of a lease that is given up, because the clocks of
// Redis and of its owner do not run at quite the same rate.
const clockDrift = 0.01

// A Fencer gives out fence tokens: postgres.DB does.
type Fencer interface {
	// NextFence returns a number greater than all that it returned before for
	// the room, to this process or any other.
	NextFence(ctx context.Context, room string) (int64, error)
}

// Options say how long things last. The zero value of each field stands for
// its default.
type Options struct {
	// KeepAlive is the time between two renewals of a lock or lease. Several
	// should fit into Lease, so that one may fail. Defaults to three tenths of
	// Lease: 3 s.
	KeepAlive time.Duration
	// Lease is how long a lock or lease outlives a process that vanished, and
	// how long Redis may be away before a lock is lost. Whole milliseconds.
	// Defaults to 10 s.
	Lease time.Duration
	// MaxLease is how long a reader may keep its lease, however often renewed,
	// and so the longest that a writer waits for a reader. Defaults to 30 s.
	MaxLease time.Duration
	// Timeout is how long one command to one Redis may take. The client must honour
	// deadlines: see [redisdb.OpenForLocks]. Defaults to 500 ms.
	Timeout time.Duration
	// Wait is how long Lock and RLock wait for the room, if their context does
	// not end before. It limits only the wait; their context limits the lock or
	// lease as well. A writer that must outwait a slow reader needs more than
	// MaxLease. Defaults to 1 min.
	Wait time.Duration
}

func (o Options) withDefaults() Options {
	set := func(field *time.Duration, value time.Duration) {
		if *field <= 0 {
			*field = value
		}
	}
	set(&o.Lease, 10*time.Second)
	set(&o.KeepAlive, o.Lease*3/10)
	set(&o.MaxLease, 30*time.Second)
	set(&o.Timeout, 500*time.Millisecond)
	set(&o.Wait, time.Minute)
	return o
}

// A Locker locks rooms. It is safe for concurrent use and has nothing to close.
type Locker struct {
	clients []redis.UniversalClient
	fencer  Fencer
	options Options
	bells   bells
	health  *health

	firstPause time.Duration // minPause, save in tests
}

// New returns a Locker that locks in the Redis, the Redis Cluster or the
// sentinels' master of client, which remains the caller's to close, and takes
// fence tokens from fencer. It does not connect. A Locker that is used for RLock
// only needs no fencer.
func New(client redis.UniversalClient, fencer Fencer, options Options) *Locker {
	return NewQuorum([]redis.UniversalClient{client}, fencer, options)
}

// NewQuorum is [New] on several Redis masters that know nothing of each other,
// of which more than half decide: an odd number, at least one, the same for
// every process. It panics if there is none.
func NewQuorum(clients []redis.UniversalClient, fencer Fencer, options Options) *Locker {
	if len(clients) == 0 {
		panic("lock: no Redis to lock in")
	}
	options = options.withDefaults()
	return &Locker{
		clients: clients,
		fencer:  fencer,
		options: options,
		bells:   bells{clients: clients, timeout: options.Timeout},
		health:  newHealth(len(clients), options.Timeout),

		firstPause: minPause,
	}
}

func (l *Locker) masters() *masters { return newMasters(l.clients, l.health, l.options.Timeout) }

// A Lock is one writer's exclusive use of a room, from [Locker.Lock] to Unlock.
// It is safe for concurrent use.
type Lock struct {
	masters *masters
	room    string
	mutex   *redsync.Mutex // not safe for concurrent use: extended by the tenure only
	tenure  *tenure
	fence   int64
}

// Lock makes the caller the room's only user. It waits for a writer before it,
// for readers who were refused meanwhile, and then, while it refuses new ones,
// for the readers inside; and it goes on through a Redis that fails for a while.
//
// When ctx ends or [Options.Wait] is over, the error wraps what stood in the
// way, ErrTaken or ErrUnavailable, and the cause of ctx or
// context.DeadlineExceeded; it can return a few times [Options.Timeout] later
// than that, since a command under way is not abandoned. An error of the
// Fencer is wrapped and returned at once. After an error nothing is locked.
//
// The caller unlocks. The lock is kept alive until then or until ctx ends.
func (l *Locker) Lock(ctx context.Context, room string) (*Lock, error) {
	if ctx.Err() != nil {
		return nil, fmt.Errorf("lock room %q: %w", room, context.Cause(ctx))
	}
	wait, cancel := context.WithTimeout(ctx, l.options.Wait)
	defer cancel()
	waiter := l.newWaiter(room)
	defer waiter.leave()
	for {
		lock, err := l.tryLock(ctx, wait, waiter)
		if err == nil {
			return lock, nil
		}
		if !errors.Is(err, ErrTaken) && !errors.Is(err, ErrUnavailable) {
			return nil, fmt.Errorf("lock room %q: %w", room, err)
		}
		if cause := waiter.pause(wait); cause != nil {
			return nil, fmt.Errorf("lock room %q: %w: %w", room, err, cause)
		}
	}
}

// tryLock locks the waiter's room if no writer has it and no reader was refused
// just now. An error that wraps ErrTaken or ErrUnavailable is worth another try.
func (l *Locker) tryLock(ctx, wait context.Context, waiter *waiter) (*Lock, error) {
	lock := &Lock{masters: l.masters(), room: waiter.room}
	if err := lock.giveWay(ctx); err != nil {
		return nil, err
	}
	lock.mutex = lock.masters.mutex(redisdb.RoomWriteLock(lock.room), l.options.Lease)
	// Detached, because redsync cleans up after a failure with the same context:
	// a caller who leaves at the wrong moment would block the room for a lease.
	if err := lock.mutex.TryLockContext(context.WithoutCancel(ctx)); err != nil {
		return nil, lock.masters.denied(err)
	}
	// Kept alive from here on: readers and the fencer may take their time.
	lock.tenure = l.options.begin(ctx, lock.mutex.Until(), lock.extend)
	if err := lock.enter(wait, waiter, l.fencer); err != nil {
		// What matters is why the room could not be entered; what cannot be
		// unlocked expires.
		_ = lock.Unlock(ctx)
		return nil, err
	}
	return lock, nil
}

// giveWay returns ErrTaken while a refused reader has yet to be let in.
func (x *Lock) giveWay(ctx context.Context) error {
	free, err := x.masters.ask(ctx, func(ctx context.Context, master redis.UniversalClient) (bool, error) {
		refused, err := scriptRefused.Run(ctx, master, []string{redisdb.RoomRefusedReaders(x.room)}).Int()
		return refused == 0, err
	})
	if err == nil && !free {
		err = ErrTaken
	}
	return err
}

// enter waits, as long as wait does not end, until the readers have left, and
// takes the fence token.
func (x *Lock) enter(wait context.Context, waiter *waiter, fencer Fencer) error {
	deadline, _ := wait.Deadline() // there is one: Options.Wait
	ctx, cancel := context.WithDeadline(x.tenure.ctx, deadline)
	defer cancel()
	if err := x.drain(ctx, waiter); err != nil {
		return err
	}
	fence, err := fencer.NextFence(ctx, x.room)
	if !x.tenure.live() {
		// Lost on the way, or ctx has ended: the fencer's error may only say so.
		return ErrTaken
	}
	x.fence = fence
	return err
}

// drain waits until no reader is left. When ctx ends before, it returns what it
// waited for.
func (x *Lock) drain(ctx context.Context, waiter *waiter) error {
	for {
		empty, err := x.empty(ctx)
		switch {
		case empty:
			return nil
		case errors.Is(err, ErrLockLost):
			return ErrTaken
		case err == nil:
			err = ErrTaken
		}
		if waiter.pause(ctx) != nil {
			return err
		}
	}
}

// empty reports whether no reader is inside. The error wraps ErrLockLost when
// the lock is another's.
func (x *Lock) empty(ctx context.Context) (bool, error) {
	keys := []string{redisdb.RoomWriteLock(x.room), redisdb.RoomReadLeases(x.room)}
	return x.masters.ask(ctx, func(ctx context.Context, master redis.UniversalClient) (bool, error) {
		readers, err := scriptDrain.Run(ctx, master, keys, x.mutex.Value()).Int()
		if err == nil && readers < 0 {
			err = ErrLockLost // this master has no say
		}
		return readers == 0, err
	})
}

// extend is the tenure's.
func (x *Lock) extend(ctx context.Context) (time.Time, error) {
	if _, err := x.mutex.ExtendContext(ctx); err != nil {
		err = x.masters.denied(err)
		if errors.Is(err, ErrTaken) {
			err = ErrLockLost
		}
		return time.Time{}, err
	}
	return x.mutex.Until(), nil
}

// Context is derived from the one given to [Locker.Lock]. It ends with the
// lock: with cause ErrLockLost when that is lost, with context.Canceled when it
// is unlocked.
func (x *Lock) Context() context.Context { return x.tenure.ctx }

// Fence is the lock's fence token, greater than that of every lock of the room
// before it.
func (x *Lock) Fence() int64 { return x.fence }

// Unlock lets others in. It works in a ctx that has ended and takes no longer
// than about [Options.Timeout]. It returns ErrLockLost when the lock was no
// longer the caller's, and ErrUnavailable, beside that or alone, when Redis could
// not be asked; the lock then expires by itself. A second call does nothing and returns nil.
func (x *Lock) Unlock(ctx context.Context) error {
	if !x.tenure.end() {
		return nil
	}
	// Not redsync's, which would wake nobody.
	unlocked, err := x.masters.giveBack(ctx, func(ctx context.Context, master redis.UniversalClient) (bool, error) {
		return scriptUnlock.Run(ctx, master, []string{redisdb.RoomWriteLock(x.room)},
			x.mutex.Value(), redisdb.RoomWakeUp(x.room)).Bool()
	})
	if unlocked {
		return nil
	}
	return fmt.Errorf("unlock room %q: %w", x.room, x.tenure.lossOf(err))
}
