package synapse

import (
	"context"
	"errors"
	"time"

	"lethe/internal/store/beside"
	"lethe/internal/store/postgres"
	"lethe/internal/wait"
)

const (
	// tryTime is how long one statement tries to take a lock, so that none is long.
	tryTime = 100 * time.Millisecond

	// renewInterval is how often a lock is renewed. Synapse deletes it after 2 minutes.
	renewInterval = 30 * time.Second

	// releaseTime bounds the release of a lock.
	releaseTime = 5 * time.Second
)

// A Lock is a set of write locks of a room at Synapse. It serves one goroutine.
type Lock struct {
	synapse *Synapse
	lock    beside.RoomLock
	ctx     context.Context
	stop    context.CancelCauseFunc
	renewed chan struct{} // closed when the renewal has ended
}

// errReleased is the cause of the context of a lock that was released.
var errReleased = errors.New("the lock was released")

// Lock takes write locks of a room at Synapse, all of them or none. It fails with a
// [Waiting] if that takes longer than patience. busy says what their readers do. The
// token is the id of the job. The locks are renewed until the caller releases them, also
// after the context has ended.
func (s *Synapse) Lock(ctx context.Context, lock beside.RoomLock, patience time.Duration, busy string) (*Lock, error) {
	started := time.Now()
	defer func() { s.options.Metrics.HomeserverLockSeconds.Observe(time.Since(started).Seconds()) }()
	for {
		held, err := beside.TryLock(ctx, s.db, lock, tryTime)
		switch {
		case err != nil && !postgres.HasCode(err, "40P01"): // a deadlock of the locks' triggers
			return nil, err
		case held:
			return s.keep(ctx, lock), nil
		case time.Since(started) >= patience:
			return nil, waiting("Synapse %s", busy)
		}
	}
}

// keep renews the lock until it is released.
func (s *Synapse) keep(ctx context.Context, lock beside.RoomLock) *Lock {
	l := &Lock{synapse: s, lock: lock, renewed: make(chan struct{})}
	l.ctx, l.stop = context.WithCancelCause(context.WithoutCancel(ctx))
	go func() {
		defer close(l.renewed)
		wait.Every(l.ctx, s.renewEvery, func(ctx context.Context) {
			// Any other error may be over at the next renewal, of which three are in time.
			if err := beside.RenewLock(ctx, s.db, lock); errors.Is(err, beside.ErrLockLost) {
				l.stop(beside.ErrLockLost)
			}
		})
	}()
	return l
}

// Lost reports whether a renewal has found the lock gone. [beside.RoomLock.Check] finds it
// at the end of each batch.
func (l *Lock) Lost() bool { return errors.Is(context.Cause(l.ctx), beside.ErrLockLost) }

// Check is the statement that fails unless the lock is held.
func (l *Lock) Check() postgres.Statement { return l.lock.Check() }

// Leave stops the renewal but does not release the lock: the next run of the job takes
// it over.
func (l *Lock) Leave() {
	l.stop(errReleased)
	<-l.renewed
}

// Release releases the lock and wakes the processes that wait for it. If the database
// cannot be reached, Synapse frees the room after two minutes. A second call does
// nothing.
func (l *Lock) Release(ctx context.Context) {
	l.Leave()
	l.synapse.Unlock(ctx, l.lock)
}

// Unlock is [Lock.Release] for a lock that an earlier run of the job has left.
func (s *Synapse) Unlock(ctx context.Context, lock beside.RoomLock) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), releaseTime)
	defer cancel()
	if err := beside.Unlock(ctx, s.db, lock); err != nil {
		s.options.Log.WarnContext(ctx, "room not unlocked at Synapse", "room", lock.Room, "error", err)
		return
	}
	if s.channel == nil {
		return
	}
	for _, name := range lock.Names {
		line, err := lockReleasedLine(name, lock.Room)
		if err == nil {
			err = s.channel.publish(ctx, line)
		}
		if err != nil {
			s.options.Log.WarnContext(ctx, "waiters for the room's lock at Synapse were not woken", "room", lock.Room, "error", err)
		}
	}
}

// ReleaseLater is [Lock.Release] after a pause, in which Synapse clears its caches. It
// returns at once. [Synapse.Run] waits for it.
func (l *Lock) ReleaseLater(ctx context.Context, pause time.Duration) {
	ctx = context.WithoutCancel(ctx)
	l.synapse.releases.Go(func() {
		_ = wait.For(ctx, pause)
		l.Release(ctx)
	})
}
