package lock

import (
	"context"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"

	"lethe/internal/redisdb"
	"lethe/internal/wait"
)

// Whoever waits looks again when woken, and in case that nobody does also after
// a pause: a short one at first, then twice as long each time.
const (
	minPause = 10 * time.Millisecond
	maxPause = 250 * time.Millisecond
)

// markLasts is how long a refused reader's mark lasts: so long that the reader
// has come back, even if nobody wakes it and a master is black-holed.
func (o Options) markLasts() time.Duration { return 2*maxPause + o.Timeout }

// A waiter waits until it is worth another look at a room, for one caller.
type waiter struct {
	bells *bells
	room  string
	ear   chan struct{} // nil before the first pause
	first time.Duration // the pause after a wake-up
	next  time.Duration // the pause to come
}

func (l *Locker) newWaiter(room string) *waiter {
	return &waiter{bells: &l.bells, room: room, first: l.firstPause, next: l.firstPause}
}

// pause returns nil when it is worth another look, or the cause of a context
// that has ended.
func (w *waiter) pause(ctx context.Context) error {
	if w.ear == nil {
		w.ear = w.bells.listen(w.room)
	}
	// Not all at the same time, or several could lock a part of the masters each.
	timer := time.NewTimer(w.next/2 + rand.N(w.next/2))
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-w.ear:
		w.next = w.first
	case <-timer.C:
		w.next = min(2*w.next, maxPause)
	}
	return nil
}

// leave must be called when the waiting is over.
func (w *waiter) leave() {
	if w.ear != nil {
		w.bells.leave(w.room, w.ear)
	}
}

// bells wake the waiters of one Locker. A room that someone waits for has a bell,
// with a subscription to each master.
type bells struct {
	clients []redis.UniversalClient
	timeout time.Duration // of one command

	mu     sync.Mutex
	byRoom map[string]*bell
}

type bell struct {
	silence context.CancelFunc
	ears    map[chan struct{}]struct{}
}

// listen returns what gets a value when it is worth another look at the room,
// as may be at once; the caller leaves.
func (b *bells) listen(room string) chan struct{} {
	b.mu.Lock()
	defer b.mu.Unlock()
	ear := make(chan struct{}, 1)
	if bell, ok := b.byRoom[room]; ok {
		ear <- struct{}{} // something may have happened since it looked
		bell.ears[ear] = struct{}{}
		return ear
	}
	ctx, silence := context.WithCancel(context.Background())
	if b.byRoom == nil {
		b.byRoom = map[string]*bell{}
	}
	b.byRoom[room] = &bell{silence, map[chan struct{}]struct{}{ear: {}}}
	for _, client := range b.clients {
		go b.toll(ctx, client, room)
	}
	return ear
}

// leave undoes a listen. The last one out ends the subscriptions.
func (b *bells) leave(room string, ear chan struct{}) {
	b.mu.Lock()
	defer b.mu.Unlock()
	bell := b.byRoom[room]
	delete(bell.ears, ear)
	if len(bell.ears) == 0 {
		bell.silence()
		delete(b.byRoom, room)
	}
}

// ring wakes those who wait for the room.
func (b *bells) ring(room string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if bell, ok := b.byRoom[room]; ok {
		for ear := range bell.ears {
			select {
			case ear <- struct{}{}:
			default: // is awake
			}
		}
	}
}

// toll rings for what one master publishes, until ctx ends. A master that is
// away is tried again; those who wait still look from time to time.
func (b *bells) toll(ctx context.Context, client redis.UniversalClient, room string) {
	for {
		b.follow(ctx, client, room)
		if wait.For(ctx, maxPause) != nil {
			return
		}
	}
}

// follow rings for what the master publishes until the subscription fails or
// ctx ends.
func (b *bells) follow(ctx context.Context, client redis.UniversalClient, room string) {
	subscription := client.Subscribe(ctx)
	defer context.AfterFunc(ctx, func() { _ = subscription.Close() })()
	defer func() { _ = subscription.Close() }()
	begin, cancel := context.WithTimeout(ctx, b.timeout)
	defer cancel()
	if subscription.Subscribe(begin, redisdb.RoomWakeUp(room)) != nil {
		return
	}
	for {
		// The first is that the subscription has begun: something may have
		// happened before.
		if _, err := subscription.Receive(ctx); err != nil {
			return
		}
		b.ring(room)
	}
}
