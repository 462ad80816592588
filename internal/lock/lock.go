package lock

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/go-redsync/redsync/v4"
	"github.com/go-redsync/redsync/v4/redis/goredis/v9"
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

// Whoever waits looks again after a random time between these two. A refused
// reader's mark lasts for twice the longest, so that the reader has come back
// before the next writer may lock.
const (
	minPause  = 5 * time.Millisecond
	maxPause  = 25 * time.Millisecond
	markLasts = 2 * maxPause
)

// clockDrift is the share of a lease that is given up, because the clocks of
// Redis and of its owner do not run at quite the same rate.
const clockDrift = 0.01

// A Fencer gives out fence tokens: store.Store does.
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
	// Timeout is how long one Redis command may take. The client must honour
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
	client  redis.UniversalClient
	mutexes *redsync.Redsync
	fencer  Fencer
	options Options
}

// New returns a Locker that locks in the Redis of client, which remains the
// caller's to close, and takes fence tokens from fencer. It does not connect.
// A Locker that is used for RLock only needs no fencer.
func New(client redis.UniversalClient, fencer Fencer, options Options) *Locker {
	return &Locker{
		client:  client,
		mutexes: redsync.New(goredis.NewPool(client)),
		fencer:  fencer,
		options: options.withDefaults(),
	}
}

// A Lock is one writer's exclusive use of a room, from [Locker.Lock] to Unlock.
// It is safe for concurrent use.
type Lock struct {
	locker *Locker
	room   string
	mutex  *redsync.Mutex // not safe for concurrent use: extended by the tenure only
	tenure *tenure
	fence  int64
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
	for {
		lock, err := l.tryLock(ctx, wait, room)
		if err == nil {
			return lock, nil
		}
		if !errors.Is(err, ErrTaken) && !errors.Is(err, ErrUnavailable) {
			return nil, fmt.Errorf("lock room %q: %w", room, err)
		}
		if cause := pause(wait); cause != nil {
			return nil, fmt.Errorf("lock room %q: %w: %w", room, err, cause)
		}
	}
}

// tryLock locks the room if no writer has it and no reader was refused just
// now. An error that wraps ErrTaken or ErrUnavailable is worth another try.
func (l *Locker) tryLock(ctx, wait context.Context, room string) (*Lock, error) {
	if err := l.giveWay(ctx, room); err != nil {
		return nil, err
	}
	mutex := l.mutexes.NewMutex(redisdb.RoomWriteLock(room),
		redsync.WithExpiry(l.options.Lease),
		redsync.WithDriftFactor(clockDrift),
		redsync.WithTimeoutFactor(float64(l.options.Timeout)/float64(l.options.Lease)))
	// Detached, because redsync cleans up after a failure with the same context:
	// a caller who leaves at the wrong moment would block the room for a lease.
	if err := mutex.TryLockContext(context.WithoutCancel(ctx)); err != nil {
		if notOurs(err) {
			return nil, ErrTaken
		}
		return nil, unavailable(err)
	}
	lock := &Lock{locker: l, room: room, mutex: mutex}
	// Kept alive from here on: readers and the fencer may take their time.
	lock.tenure = l.options.begin(ctx, mutex.Until(), lock.extend)
	if err := lock.enter(wait); err != nil {
		// What matters is why the room could not be entered; what cannot be
		// unlocked expires.
		_ = lock.Unlock(ctx)
		return nil, err
	}
	return lock, nil
}

// giveWay returns ErrTaken while a refused reader has yet to be let in.
func (l *Locker) giveWay(ctx context.Context, room string) error {
	ctx, cancel := l.detached(ctx)
	defer cancel()
	refused, err := l.client.Exists(ctx, redisdb.RoomRefusedReader(room)).Result()
	switch {
	case err != nil:
		return unavailable(err)
	case refused > 0:
		return ErrTaken
	}
	return nil
}

// enter waits, as long as wait does not end, until the readers have left, and
// takes the fence token.
func (x *Lock) enter(wait context.Context) error {
	deadline, _ := wait.Deadline() // there is one: Options.Wait
	ctx, cancel := context.WithDeadline(x.tenure.ctx, deadline)
	defer cancel()
	if err := x.drain(ctx); err != nil {
		return err
	}
	fence, err := x.locker.fencer.NextFence(ctx, x.room)
	if !x.tenure.live() {
		// Lost on the way, or ctx has ended: the fencer's error may only say so.
		return ErrTaken
	}
	x.fence = fence
	return err
}

// drain waits until no reader is left. When ctx ends before, it returns what it
// waited for.
func (x *Lock) drain(ctx context.Context) error {
	for {
		readers, err := x.readers(ctx)
		switch {
		case err != nil:
			err = unavailable(err)
		case readers < 0:
			return ErrTaken
		case readers > 0:
			err = ErrTaken
		default:
			return nil
		}
		if pause(ctx) != nil {
			return err
		}
	}
}

// readers counts the readers inside; less than zero means that the lock is lost.
func (x *Lock) readers(ctx context.Context) (int, error) {
	ctx, cancel := x.locker.detached(ctx)
	defer cancel()
	keys := []string{redisdb.RoomWriteLock(x.room), redisdb.RoomReadLeases(x.room)}
	return scriptDrain.Run(ctx, x.locker.client, keys, x.mutex.Value()).Int()
}

// extend is the tenure's.
func (x *Lock) extend(ctx context.Context) (time.Time, error) {
	if _, err := x.mutex.ExtendContext(ctx); err != nil {
		if notOurs(err) {
			return time.Time{}, ErrLockLost
		}
		return time.Time{}, unavailable(err)
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
// longer the caller's, and ErrUnavailable when Redis could not be asked; the
// lock then expires by itself. A second call does nothing and returns nil.
func (x *Lock) Unlock(ctx context.Context) error {
	if !x.tenure.end() {
		return nil
	}
	ctx, cancel := x.locker.detached(ctx)
	defer cancel()
	_, err := x.mutex.UnlockContext(ctx)
	if err == nil {
		return nil
	}
	if notOurs(err) {
		err = ErrLockLost
	} else {
		err = unavailable(err)
	}
	return fmt.Errorf("unlock room %q: %w", x.room, err)
}

// detached gives a command its own time, whenever ctx ends: a command that is
// cut short may have done its work, and looks as if Redis had failed.
func (l *Locker) detached(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.WithoutCancel(ctx), l.options.Timeout)
}

// notOurs reports whether an error of redsync says that the mutex is another's
// or nobody's, as opposed to Redis being out of reach or too slow.
func notOurs(err error) bool {
	var taken *redsync.ErrTaken
	return errors.As(err, &taken) || errors.Is(err, redsync.ErrLockAlreadyExpired)
}

func unavailable(err error) error { return fmt.Errorf("%w: %w", ErrUnavailable, err) }

// pause waits a moment before another look, or returns the cause of a context
// that has ended.
func pause(ctx context.Context) error {
	timer := time.NewTimer(minPause + rand.N(maxPause-minPause))
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-timer.C:
		return nil
	}
}
