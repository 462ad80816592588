package lock

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/go-redsync/redsync/v4"
	"github.com/redis/go-redis/v9"

	"lethe/internal/redisdb"
)

var (
	// ErrTaken is returned if the room is still in use when the caller's time to
	// wait is over.
	ErrTaken = errors.New("room is taken")
	// ErrUnavailable is returned if Redis fails or does not answer in time.
	ErrUnavailable = errors.New("Redis is unavailable")
	// ErrRefused is returned if Redis works, but refuses a command: see
	// [redisdb.IsRefusal].
	ErrRefused = errors.New("Redis refuses a command")
	// ErrLockLost is the cause of the context of a lock or lease that its owner
	// has lost. Unlock and Release return it too.
	ErrLockLost = errors.New("lock lost")
)

// clockDrift is the share of a lease that its owner does not use, because the
// clocks of Redis and of the owner run at slightly different rates.
const clockDrift = 0.01

// A Fencer creates fence tokens.
type Fencer interface {
	// NextFence returns a number that is greater than every number it has returned
	// for the room, in any process.
	NextFence(ctx context.Context, room string) (int64, error)
}

// Options are the durations of a Locker. A zero field has its default.
type Options struct {
	// KeepAlive is the time between two renewals of a lock or lease. It should be
	// much shorter than Lease, so that a renewal may fail. Defaults to three
	// tenths of Lease: 3 s.
	KeepAlive time.Duration
	// Lease is how long a lock or lease exists after its process has died, and
	// how long Redis may be down before a lock is lost. It is in whole
	// milliseconds. Defaults to 10 s.
	Lease time.Duration
	// MaxLease is how long a reader may keep its lease, including renewals. A
	// writer waits no longer for a reader. Defaults to 30 s.
	MaxLease time.Duration
	// Names makes the names of keys and channels. All processes of a deployment need the
	// same. Defaults to nil: names without the id of a deployment.
	Names *redisdb.Names
	// Timeout is how long one command to one Redis may take. It must be much shorter than
	// Lease: no master may forget a lock before all have been asked. The client must
	// honour deadlines: see [redisdb.OpenForLocks]. Defaults to 500 ms.
	Timeout time.Duration
	// Wait is how long Lock and RLock wait for the room, unless their context
	// ends before. It limits only the wait, and the context also limits the lock
	// or lease. A writer that must wait for slow readers needs more than MaxLease.
	// Defaults to 1 min.
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
	wakeups wakeups
	health  *health

	firstPause time.Duration // minPause, except in tests
}

// New returns a Locker that keeps its locks in the Redis, the Redis Cluster or the
// sentinels' master of client, and takes fence tokens from fencer. It does not
// connect. The caller closes the client. A Locker that is used only for RLock
// needs no fencer.
func New(client redis.UniversalClient, fencer Fencer, options Options) *Locker {
	return NewQuorum([]redis.UniversalClient{client}, fencer, options)
}

// NewQuorum is [New] for several independent Redis masters, of which more than
// half decide. Their number must be odd and the same in every process. NewQuorum
// panics without a client.
func NewQuorum(clients []redis.UniversalClient, fencer Fencer, options Options) *Locker {
	if len(clients) == 0 {
		panic("lock: NewQuorum needs a client")
	}
	options = options.withDefaults()
	return &Locker{
		clients: clients,
		fencer:  fencer,
		options: options,
		wakeups: wakeups{clients: clients, names: options.Names, timeout: options.Timeout},
		health:  newHealth(len(clients), options.Timeout),

		firstPause: minPause,
	}
}

func (l *Locker) masters() *masters {
	return newMasters(l.clients, l.options.Names, l.health, l.options.Timeout)
}

// A Lock is one writer's exclusive use of a room, from [Locker.Lock] to Unlock.
// It is safe for concurrent use.
type Lock struct {
	masters *masters
	room    string
	mutex   *redsync.Mutex // not safe for concurrent use: extended by the tenure only
	tenure  *tenure
	fence   int64
	waited  atomic.Bool // see ReadersWaited
}

// Lock makes the caller the room's only user. It waits for a writer before it and
// for the readers which that writer refused. Then it refuses new readers and waits
// for the readers inside. It retries if Redis fails.
//
// If ctx ends or [Options.Wait] is over, the error wraps ErrTaken or
// ErrUnavailable, and the cause of ctx or context.DeadlineExceeded. Lock can return
// a few times [Options.Timeout] later than that, because it does not abandon a
// command. It returns an error of the Fencer, and one that wraps ErrRefused, at once.
// After an error nothing is locked.
//
// The caller calls [Lock.Unlock]. The lock is renewed until then or until ctx ends.
func (l *Locker) Lock(ctx context.Context, room string) (*Lock, error) {
	if ctx.Err() != nil {
		return nil, fmt.Errorf("lock room %q: %w", room, context.Cause(ctx))
	}
	wait, cancel := context.WithTimeout(ctx, l.options.Wait)
	defer cancel()
	waiter := l.newWaiter(room)
	defer waiter.stop()
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

// tryLock locks the waiter's room, unless a writer has it or a refused reader goes
// first. The caller may try again if the error wraps ErrTaken or ErrUnavailable.
func (l *Locker) tryLock(ctx, wait context.Context, waiter *waiter) (*Lock, error) {
	lock := &Lock{masters: l.masters(), room: waiter.room}
	if err := lock.giveWay(ctx); err != nil {
		return nil, err
	}
	lock.mutex = lock.masters.mutex(lock.masters.names.RoomWriteLock(lock.room), l.options.Lease)
	// Not ctx, because redsync uses the same context to clean up after a failure.
	// If it were cancelled, the room would stay locked until the lease expires.
	if err := lock.mutex.TryLockContext(context.WithoutCancel(ctx)); err != nil {
		return nil, lock.masters.denied(err)
	}
	// The lock is renewed from here on, because readers and the fencer may be slow.
	lock.tenure = l.options.begin(ctx, lock.mutex.Until(), lock.extend)
	if err := lock.enter(wait, waiter, l.fencer); err != nil {
		// The error of enter is what matters. If unlocking fails, the lock expires.
		_ = lock.Unlock(ctx)
		return nil, err
	}
	return lock, nil
}

// giveWay returns ErrTaken while a refused reader waits, which goes first.
func (x *Lock) giveWay(ctx context.Context) error {
	free, err := x.masters.ask(ctx, func(ctx context.Context, master redis.UniversalClient) (bool, error) {
		refused, err := scriptRefused.Run(ctx, master, []string{x.masters.names.RoomRefusedReaders(x.room)}).Int()
		return refused == 0, err
	})
	if err == nil && !free {
		err = ErrTaken
	}
	return err
}

// enter waits until the readers have left, or wait ends, and takes the fence token.
func (x *Lock) enter(wait context.Context, waiter *waiter, fencer Fencer) error {
	deadline, _ := wait.Deadline() // from Options.Wait
	ctx, cancel := context.WithDeadline(x.tenure.ctx, deadline)
	defer cancel()
	if err := x.drain(ctx, waiter); err != nil {
		return err
	}
	fence, err := fencer.NextFence(ctx, x.room)
	if !x.tenure.live() {
		// The lock is lost, or ctx has ended. The fencer's error may only say that.
		return ErrTaken
	}
	x.fence = fence
	return err
}

// drain waits until no reader is inside. If ctx ends before, it returns the last
// reason to wait. It does not wait for a Redis that refuses to tell.
func (x *Lock) drain(ctx context.Context, waiter *waiter) error {
	for {
		empty, err := x.empty(ctx)
		switch {
		case empty:
			return nil
		case errors.Is(err, ErrLockLost):
			return ErrTaken
		case errors.Is(err, ErrRefused):
			return err
		case err == nil:
			err = ErrTaken
		}
		if waiter.pause(ctx) != nil {
			return err
		}
	}
}

// empty reports whether no reader is inside. The error wraps ErrLockLost if the
// lock has another owner.
func (x *Lock) empty(ctx context.Context) (bool, error) {
	keys := []string{x.masters.names.RoomWriteLock(x.room), x.masters.names.RoomReadLeases(x.room)}
	return x.masters.ask(ctx, func(ctx context.Context, master redis.UniversalClient) (bool, error) {
		readers, err := scriptDrain.Run(ctx, master, keys, x.mutex.Value()).Int()
		if err == nil && readers < 0 {
			err = ErrLockLost // this master's answer does not count
		}
		return readers == 0, err
	})
}

// extend gives the lock more time. The tenure calls it.
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

// Context returns a context derived from that given to [Locker.Lock]. It ends with
// the lock. The cause is ErrLockLost if the lock was lost, and context.Canceled if
// it was unlocked.
func (x *Lock) Context() context.Context { return x.tenure.ctx }

// Fence returns the lock's fence token. It is greater than that of every earlier
// lock of the room.
func (x *Lock) Fence() int64 { return x.fence }

// ReadersWaited reports whether a reader was waiting for the lock's end when [Lock.Unlock]
// ended it. Before, and if Redis failed, it reports false.
func (x *Lock) ReadersWaited() bool { return x.waited.Load() }

// Unlock ends the lock. It works even if ctx has ended, and takes about
// [Options.Timeout] at most. The error wraps ErrLockLost if the caller had lost the
// lock, and ErrUnavailable or ErrRefused if Redis failed: the lock then expires by itself. A
// second call does nothing and returns nil.
func (x *Lock) Unlock(ctx context.Context) error {
	if !x.tenure.end() {
		return nil
	}
	// redsync's own Unlock would not publish a wake-up.
	keys := []string{x.masters.names.RoomWriteLock(x.room), x.masters.names.RoomRefusedReaders(x.room)}
	unlocked, err := x.masters.giveBack(ctx, func(ctx context.Context, master redis.UniversalClient) (bool, error) {
		answer, err := scriptUnlock.Run(ctx, master, keys, x.mutex.Value(), x.masters.names.RoomWakeUp(x.room)).Int()
		if answer > 1 {
			x.waited.Store(true)
		}
		return answer > 0, err
	})
	if unlocked {
		return nil
	}
	return fmt.Errorf("unlock room %q: %w", x.room, x.tenure.releaseError(err))
}
