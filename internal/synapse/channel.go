package synapse

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"

	"lethe/internal/observe"
	"lethe/internal/redisdb"
	"lethe/internal/store/beside"
	"lethe/internal/store/postgres"
	"lethe/internal/wait"
)

const (
	// announceInterval is the time between two announcements. Each tells every process
	// of Synapse of what it may have missed.
	announceInterval = 60 * time.Second

	// announceTime bounds one announcement, and publishTime one message.
	announceTime = 10 * time.Second
	publishTime  = 2 * time.Second

	// recentlyHeard is how long a Synapse counts as listening after it was heard.
	recentlyHeard = 2 * time.Minute

	// askTime bounds the wait for an answer to [replicate], and askPause is the time
	// until it is asked again.
	askTime  = 2 * time.Second
	askPause = 5 * time.Second

	// silence is the time without a message after which the connection is tested.
	silence = 15 * time.Second

	// subscribePause is the wait before another attempt to subscribe.
	subscribePause = time.Second
)

// The commands of Synapse's replication protocol that Lethe sends or waits for.
const (
	// replicate asks every process for its positions. A process sends it when it has
	// connected. Synapse sends it with a space at its end.
	replicate = "REPLICATE"

	position     = "POSITION"
	lockReleased = "LOCK_RELEASED"
)

// The outcomes of a message.
const (
	outcomeSent   = "sent"
	outcomeFailed = "failed"
)

// exportAtZero exports the counters of all messages from the start, so that the first
// failure is seen as a change.
func exportAtZero(metrics *observe.Metrics) {
	for _, command := range []string{position, lockReleased, replicate} {
		for _, outcome := range []string{outcomeSent, outcomeFailed} {
			metrics.HomeserverMessages.WithLabelValues(strings.ToLower(command), outcome)
		}
	}
}

// positionLine is the message that Lethe has committed invalidations up to an id. A
// process that knows a lower id reads those after it.
func positionLine(id int64) string {
	return fmt.Sprintf("%s caches %s %d %d", position, beside.InstanceName, id, id)
}

// lockReleasedLine is the message that a lock of a room is free. A process that waits
// for it tries again at once.
func lockReleasedLine(name beside.LockName, room string) (string, error) {
	lock, err := json.Marshal([]string{beside.InstanceName, string(name), room})
	return lockReleased + " " + string(lock), err
}

// A channel is the one that the processes of Synapse share in their Redis.
type channel struct {
	db      *postgres.DB
	redis   redis.UniversalClient
	name    string
	log     *slog.Logger
	metrics *observe.Metrics
	pace    time.Duration

	announceEvery time.Duration

	// announces says that the channel announces Lethe, and announced that it has since it
	// was last asked for, or had to subscribe.
	announces, announced atomic.Bool

	subscribed atomic.Bool
	ownID      atomic.Int64 // of the last announcement
	heardAt    atomic.Int64 // Unix nanoseconds
	heard      *broadcast
	announce   chan struct{}

	askMu   sync.Mutex
	askedAt time.Time

	mu      sync.Mutex
	told    time.Time // of the last publish
	pending int64     // an id that is not published yet, 0 for none
	later   chan struct{}
}

func newChannel(db *postgres.DB, options Options) *channel {
	return &channel{
		db: db, redis: options.Redis, name: redisdb.HomeserverChannel(options.ServerName), log: options.Log,
		metrics: options.Metrics, pace: options.Pace, announceEvery: announceInterval, heard: newBroadcast(),
		announce: make(chan struct{}, 1), later: make(chan struct{}, 1),
	}
}

// run owns the goroutines of the channel.
func (c *channel) run(ctx context.Context) {
	c.announces.Store(true)
	var group sync.WaitGroup
	group.Go(func() { c.listen(ctx) })
	group.Go(func() { c.announceAll(ctx) })
	group.Go(func() { c.tellLater(ctx) })
	group.Wait()
}

// listen hears the processes of Synapse. It announces Lethe each time it has
// subscribed, because it may have missed a process that asked, and processes may have missed
// what Lethe said.
func (c *channel) listen(ctx context.Context) {
	for ctx.Err() == nil {
		c.listenOnce(ctx)
		c.subscribed.Store(false)
		_ = wait.For(ctx, wait.Jitter(subscribePause))
	}
}

func (c *channel) listenOnce(ctx context.Context) {
	subscription := c.redis.Subscribe(ctx, c.name)
	// A context does not end a wait for a message.
	stop := context.AfterFunc(ctx, func() { _ = subscription.Close() })
	defer func() {
		stop()
		_ = subscription.Close()
	}()
	pinged := false
	for {
		message, err := subscription.ReceiveTimeout(ctx, silence)
		var timeout net.Error
		if errors.As(err, &timeout) && timeout.Timeout() && !pinged && ctx.Err() == nil {
			// A quiet Synapse, or a connection that is dead.
			pinged = true
			if err = subscription.Ping(ctx); err == nil {
				continue
			}
		}
		pinged = false
		switch m := message.(type) {
		case *redis.Subscription:
			c.subscribed.Store(true)
			c.wantAnnouncement()
		case *redis.Message:
			c.hear(m.Payload)
		}
		if err != nil {
			if ctx.Err() == nil {
				c.log.WarnContext(ctx, "Synapse's Redis cannot be listened to", "error", err)
			}
			return
		}
	}
}

// hear reads a message.
func (c *channel) hear(line string) {
	command, rest, _ := strings.Cut(line, " ")
	switch {
	case command == replicate:
		c.wantAnnouncement() // perhaps from Lethe itself, so it proves nothing
		return
	case command == position && strings.HasPrefix(rest, ours):
		c.toldByOthers(rest)
		return
	case command == lockReleased && strings.HasPrefix(rest, `["`+beside.InstanceName+`",`):
		return // another process of Lethe
	}
	c.heardAt.Store(time.Now().UnixNano())
	c.heard.notify()
}

// ours begins the positions of Lethe's processes.
const ours = "caches " + beside.InstanceName + " "

// toldByOthers takes note of a position that a process of Lethe, perhaps this one, has
// published: Synapse has read all up to it. So the pace is that of the whole fleet.
func (c *channel) toldByOthers(rest string) {
	fields := strings.Fields(rest)
	id, err := strconv.ParseInt(fields[len(fields)-1], 10, 64)
	if err != nil {
		return // not from Lethe
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if id != c.ownID.Load() { // which mostly tells of nothing new
		c.told = time.Now()
	}
	if c.pending <= id {
		c.pending = 0
	}
}

func (c *channel) heardWithin(age time.Duration) bool {
	at := c.heardAt.Load()
	return at != 0 && time.Since(time.Unix(0, at)) < age
}

// connected reports whether Synapse hears of all that is committed from now on. A process
// that does not know Lethe yet never reads ids below its own, so it must hear an
// announcement first.
func (c *channel) connected() bool {
	return c.subscribed.Load() && (c.announced.Load() || !c.announces.Load())
}

func (c *channel) wantAnnouncement() {
	c.announced.Store(false)
	select {
	case c.announce <- struct{}{}:
	default: // one is wanted already
	}
}

// announceAll announces Lethe at the interval, and when it is wanted.
func (c *channel) announceAll(ctx context.Context) {
	interval := time.NewTicker(c.announceEvery)
	defer interval.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-interval.C:
		case <-c.announce:
		}
		if err := c.announceOnce(ctx); err != nil && ctx.Err() == nil {
			c.log.WarnContext(ctx, "Synapse was not told of Lethe's position", "error", err)
			_ = wait.For(ctx, wait.Jitter(subscribePause))
			c.wantAnnouncement()
		}
	}
}

// announceOnce tells every process of Synapse a position above all that Lethe has
// committed. A process that does not know Lethe yet learns from where on to read, and
// one that has missed a message reads what it has missed.
func (c *channel) announceOnce(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, announceTime)
	defer cancel()
	id, err := beside.NextPosition(ctx, c.db)
	if err != nil {
		return err
	}
	c.ownID.Store(id)
	if err := c.publish(ctx, positionLine(id)); err != nil {
		return err
	}
	c.announced.Store(true)
	return nil
}

// tell publishes the id, or leaves it to tellLater.
func (c *channel) tell(ctx context.Context, id int64, urgent bool) {
	c.mu.Lock()
	c.pending = max(c.pending, id)
	due := urgent || time.Since(c.told) >= c.pace
	c.mu.Unlock()
	if due {
		c.tellNow(context.WithoutCancel(ctx))
		return
	}
	select {
	case c.later <- struct{}{}:
	default: // tellLater is awake
	}
}

// tellNow publishes the pending id. If that fails, it stays pending.
func (c *channel) tellNow(ctx context.Context) {
	c.mu.Lock()
	id := c.pending
	c.pending, c.told = 0, time.Now()
	c.mu.Unlock()
	if id == 0 {
		return
	}
	err := c.publish(ctx, positionLine(id))
	if err == nil {
		return
	}
	c.log.WarnContext(ctx, "Synapse was not told of an invalidation: it will be told again", "error", err)
	c.mu.Lock()
	c.pending = max(c.pending, id)
	c.mu.Unlock()
	select {
	case c.later <- struct{}{}:
	default:
	}
}

// tellLater publishes what could wait, no more often than the pace.
func (c *channel) tellLater(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			c.tellNow(context.WithoutCancel(ctx)) // the last words
			return
		case <-c.later:
		}
		c.mu.Lock()
		rest := c.pace - time.Since(c.told)
		c.mu.Unlock()
		_ = wait.For(ctx, rest)
		c.tellNow(context.WithoutCancel(ctx))
	}
}

func (c *channel) publish(ctx context.Context, line string) error {
	ctx, cancel := context.WithTimeout(ctx, publishTime)
	defer cancel()
	command, _, _ := strings.Cut(line, " ")
	err := c.redis.Publish(ctx, c.name, line).Err()
	if err != nil {
		c.metrics.HomeserverMessages.WithLabelValues(strings.ToLower(command), outcomeFailed).Inc()
		return fmt.Errorf("publish to Synapse: %w", err)
	}
	c.metrics.HomeserverMessages.WithLabelValues(strings.ToLower(command), outcomeSent).Inc()
	return nil
}

// ready fails with a [Waiting] if Synapse cannot be told now. If one is present, it
// must have been heard lately, or answer when it is asked.
func (c *channel) ready(ctx context.Context, present bool) error {
	if !c.connected() {
		// The process may have just started.
		if err := c.awaitHeard(ctx, c.connected); err != nil {
			return waiting("Synapse's Redis, homeserver.redis_url, cannot be reached, or Synapse's stream of invalidations in the database")
		}
	}
	if !present || c.heardWithin(recentlyHeard) {
		return nil
	}
	c.askMu.Lock()
	defer c.askMu.Unlock()
	heard := func() bool { return c.heardWithin(recentlyHeard) }
	if time.Since(c.askedAt) < askPause && !heard() {
		return c.unheard()
	}
	c.askedAt = time.Now()
	if err := c.publish(ctx, replicate+" "); err != nil {
		return waiting("Synapse's Redis, homeserver.redis_url, cannot be reached")
	}
	if err := c.awaitHeard(ctx, heard); err != nil {
		return c.unheard()
	}
	return nil
}

func (c *channel) unheard() error {
	return waiting("Synapse runs, but no process of it answers on the channel %q of homeserver.redis_url: "+
		"is that the Redis of this Synapse, and is redis enabled in its configuration?", c.name)
}

// awaitHeard waits up to [askTime] until done reports true.
func (c *channel) awaitHeard(ctx context.Context, done func() bool) error {
	ctx, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	for {
		changed := c.heard.wait()
		if done() {
			return nil
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-changed:
		case <-time.After(subscribePause / 20): // a subscription is no message
		}
	}
}

// A broadcast wakes all that wait.
type broadcast struct {
	mu sync.Mutex
	ch chan struct{}
}

func newBroadcast() *broadcast { return &broadcast{ch: make(chan struct{})} }

// wait returns a channel that the next notify closes.
func (b *broadcast) wait() <-chan struct{} {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.ch
}

func (b *broadcast) notify() {
	b.mu.Lock()
	defer b.mu.Unlock()
	close(b.ch)
	b.ch = make(chan struct{})
}
