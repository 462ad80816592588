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

// A waiter tries again after a wake-up or after a pause. The first pause is
// minPause. Each further one is twice as long, up to maxPause.
const (
	minPause = 10 * time.Millisecond
	maxPause = 250 * time.Millisecond
)

// markLasts is how long a refused reader's mark lasts. In that time the reader
// tries again, even without a wake-up and with a black-holed master.
func (o Options) markLasts() time.Duration { return 2*maxPause + o.Timeout }

// A waiter waits for a room on behalf of one caller.
type waiter struct {
	wakeups *wakeups
	room    string
	ch      chan struct{} // nil before the first pause
	first   time.Duration // the pause after a wake-up
	next    time.Duration // the next pause
}

func (l *Locker) newWaiter(room string) *waiter {
	return &waiter{wakeups: &l.wakeups, room: room, first: l.firstPause, next: l.firstPause}
}

// pause returns nil when the caller should try again, or the cause of a context
// that has ended.
func (w *waiter) pause(ctx context.Context) error {
	if w.ch == nil {
		w.ch = w.wakeups.subscribe(w.room)
	}
	// If several waiters tried at the same moment, each could lock some of the
	// masters and none a quorum.
	timer := time.NewTimer(w.next/2 + rand.N(w.next/2))
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-w.ch:
		w.next = w.first
	case <-timer.C:
		w.next = min(2*w.next, maxPause)
	}
	return nil
}

// stop must be called when the caller waits no more.
func (w *waiter) stop() {
	if w.ch != nil {
		w.wakeups.unsubscribe(w.room, w.ch)
	}
}

// wakeups wake the waiters of one Locker. While a room has waiters, wakeups keep
// a subscription to each master for it.
type wakeups struct {
	clients []redis.UniversalClient
	names   *redisdb.Names
	timeout time.Duration // of one command

	mu     sync.Mutex
	byRoom map[string]*roomWakeups
}

// roomWakeups are the waiters of one room.
type roomWakeups struct {
	cancel context.CancelFunc // ends the subscriptions
	chs    map[chan struct{}]struct{}
}

// subscribe returns a channel that receives a value when the room may be free.
// It may receive one at once. The caller calls unsubscribe.
func (w *wakeups) subscribe(room string) chan struct{} {
	w.mu.Lock()
	defer w.mu.Unlock()
	ch := make(chan struct{}, 1)
	if waiting, ok := w.byRoom[room]; ok {
		ch <- struct{}{} // the room may have become free since the caller tried
		waiting.chs[ch] = struct{}{}
		return ch
	}
	ctx, cancel := context.WithCancel(context.Background())
	if w.byRoom == nil {
		w.byRoom = map[string]*roomWakeups{}
	}
	w.byRoom[room] = &roomWakeups{cancel, map[chan struct{}]struct{}{ch: {}}}
	for _, client := range w.clients {
		go w.listen(ctx, client, room)
	}
	return ch
}

// unsubscribe undoes a subscribe. The last one of a room ends its subscriptions.
func (w *wakeups) unsubscribe(room string, ch chan struct{}) {
	w.mu.Lock()
	defer w.mu.Unlock()
	waiting := w.byRoom[room]
	delete(waiting.chs, ch)
	if len(waiting.chs) == 0 {
		waiting.cancel()
		delete(w.byRoom, room)
	}
}

// notify wakes the room's waiters.
func (w *wakeups) notify(room string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if waiting, ok := w.byRoom[room]; ok {
		for ch := range waiting.chs {
			select {
			case ch <- struct{}{}:
			default: // already notified
			}
		}
	}
}

// listen notifies the room's waiters of one master's messages until ctx ends. It
// subscribes again if a subscription fails. Meanwhile the waiters still try after
// each pause.
func (w *wakeups) listen(ctx context.Context, client redis.UniversalClient, room string) {
	for {
		w.receive(ctx, client, room)
		if wait.For(ctx, maxPause) != nil {
			return
		}
	}
}

// receive notifies the room's waiters until the subscription fails or ctx ends.
func (w *wakeups) receive(ctx context.Context, client redis.UniversalClient, room string) {
	subscription := client.Subscribe(ctx)
	defer context.AfterFunc(ctx, func() { _ = subscription.Close() })()
	defer func() { _ = subscription.Close() }()
	begin, cancel := context.WithTimeout(ctx, w.timeout)
	defer cancel()
	if subscription.Subscribe(begin, w.names.RoomWakeUp(room)) != nil {
		return
	}
	for {
		// The first message confirms the subscription. It counts as a wake-up,
		// because the room may have become free before.
		if _, err := subscription.Receive(ctx); err != nil {
			return
		}
		w.notify(room)
	}
}
