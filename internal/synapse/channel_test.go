package synapse

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"lethe/internal/store/beside/besidetest"
	"lethe/internal/store/storetest"
)

// positions are the positions of Lethe that the process has heard.
func positions(listener *besidetest.Listener) (ids []int64) {
	for _, line := range listener.Heard() {
		var before, id int64
		if _, err := fmt.Sscanf(line, "POSITION caches lethe %d %d", &before, &id); err == nil {
			if before != id {
				panic(line) // a process would believe that nothing lies between
			}
			ids = append(ids, id)
		}
	}
	return ids
}

// ids are those of the rows that the process has read.
func ids(listener *besidetest.Listener) (ids []int64) {
	for _, row := range listener.Read() {
		ids = append(ids, row.ID)
	}
	return ids
}

// readAll reports whether the process has read these rows. It reads one twice whose id is
// above that of the message.
func readAll(listener *besidetest.Listener, want []int64) bool {
	read := ids(listener)
	slices.Sort(read)
	return slices.Equal(want, slices.Compact(read))
}

// Lethe announces itself when it begins, and to each process that asks for positions, and
// not more often.
func TestAnnouncements(t *testing.T) {
	t.Parallel()
	l := setup(t)
	listener := l.listen(true)
	s := l.told(Options{})
	l.run(s)
	l.eventually(func() bool { return len(positions(listener)) > 0 })
	for n := range 4 {
		require.Len(t, positions(listener), n+1)
		l.redis.Publish(l.Ctx, "x", "REPLICATE ") // as Synapse sends it
		l.eventually(func() bool { return len(positions(listener)) == n+2 })
	}
	require.True(t, slices.IsSorted(positions(listener)))
	require.Len(t, slices.Compact(positions(listener)), 5, "each is above the last")

	// Its own words are no process that listens, nor are those that ask.
	require.False(t, s.channel.heardWithin(never))
	for _, line := range []string{
		"RDATA events master 7 []", `LOCK_RELEASED ["master","new_event_during_purge_lock","!r:x"]`, "POSITION caches lethe_2 5 5", "\x00", "",
	} {
		s.channel.heardAt.Store(0)
		l.redis.Publish(l.Ctx, "x", line)
		l.eventually(func() bool { return s.channel.heardWithin(never) }, line)
	}
	require.Len(t, positions(listener), 5)
}

func TestAnnouncementsByTheClock(t *testing.T) {
	t.Parallel()
	l := setup(t)
	listener := l.listen(true)
	s := l.told(Options{})
	require.Equal(t, time.Minute, newChannel(l.DB, s.options).announceEvery)
	s.channel.announceEvery = 20 * time.Millisecond
	l.run(s)
	l.eventually(func() bool { return len(positions(listener)) > 3 })
}

// A process that dies between its commit and its publish leaves a row that no process of
// the homeserver reads, until another process of Lethe announces itself.
func TestCrashBetweenCommitAndPublish(t *testing.T) {
	t.Parallel()
	for what, announce := range map[string]func(l *lab, s *Synapse){
		"start":     func(l *lab, _ *Synapse) { l.run(l.told(Options{})) },
		"replicate": func(l *lab, _ *Synapse) { l.redis.Publish(l.Ctx, "x", "REPLICATE ") },
		"reconnect": func(l *lab, _ *Synapse) {
			require.NoError(l.T, l.redis.Do(l.Ctx, "CLIENT", "KILL", "TYPE", "pubsub").Err())
		},
		"another's invalidation": func(l *lab, s *Synapse) { s.Tell(l.Ctx, l.invalidate("!other:x"), true) },
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			l := setup(t)
			listener := l.listen(true)
			s := l.told(Options{})
			l.run(s)
			l.eventually(func() bool { return len(positions(listener)) == 1 })
			id := l.invalidate(room)
			require.Empty(t, listener.Read())
			announce(l, s)
			if what == "reconnect" {
				// The listener has lost its connection too, and asks when it is back.
				l.eventually(func() bool { return len(positions(listener)) > 1 })
			}
			l.eventually(func() bool { return slices.Contains(ids(listener), id) })
		})
	}
}

// When Redis is back, it is told of everything that was committed meanwhile.
func TestRedisRestarts(t *testing.T) {
	t.Parallel()
	l := setup(t)
	listener := l.listen(true)
	s := l.told(Options{Pace: 50 * time.Millisecond})
	l.run(s)
	l.eventually(func() bool { return len(positions(listener)) == 1 })
	l.server.Kill()
	l.eventually(func() bool { return !s.channel.subscribed.Load() })
	_, err := s.Ready(l.Ctx)
	var waits *Waiting
	require.ErrorAs(t, err, &waits)
	require.Contains(t, waits.Reason, "homeserver.redis_url, cannot be reached")
	told := []int64{l.invalidate("!a:x"), l.invalidate("!b:x"), l.invalidate("!c:x")}
	s.Tell(l.Ctx, told[0], true)
	s.Tell(l.Ctx, told[1], false)
	require.Empty(t, listener.Read())

	require.NoError(t, l.server.Restart(l.Ctx))
	// The listener may be back later than Lethe, and then asks.
	l.eventually(func() bool {
		l.redis.Publish(l.Ctx, "x", "REPLICATE ")
		return readAll(listener, told)
	})
	l.eventually(s.channel.subscribed.Load)
	way, err := s.Ready(l.Ctx)
	require.NoError(t, err)
	require.Equal(t, ByStream, way)
	l.eventually(func() bool { // nothing is left to be published again
		s.channel.mu.Lock()
		defer s.channel.mu.Unlock()
		return s.channel.pending == 0
	})
}

// Lethe announces itself when it is back, without being asked.
func TestAnnouncementAfterARedisRestart(t *testing.T) {
	t.Parallel()
	l := setup(t)
	s := l.told(Options{})
	sent := countPublishes(s.options.Redis)
	l.run(s)
	l.eventually(func() bool { return sent.Load() == 1 })
	require.NoError(t, l.server.Restart(l.Ctx))
	l.eventually(func() bool { return sent.Load() == 2 })
	l.eventually(s.channel.subscribed.Load)
	require.EqualValues(t, 2, sent.Load())
}

// counter counts publishes that have succeeded.
type counter struct{ atomic.Int64 }

func countPublishes(client redis.UniversalClient) *counter {
	c := &counter{}
	client.AddHook(c)
	return c
}

func (c *counter) DialHook(next redis.DialHook) redis.DialHook { return next }

func (c *counter) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return next
}

func (c *counter) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		err := next(ctx, cmd)
		if err == nil && cmd.Name() == "publish" {
			c.Add(1)
		}
		return err
	}
}

// Two workers under one name, which invalidate and announce at the same time: a process
// of the homeserver reads each row.
func TestNoInvalidationIsMissed(t *testing.T) {
	t.Parallel()
	l := setup(t)
	listener := l.listen(true)
	workers := []*Synapse{l.told(Options{Pace: time.Millisecond}), l.told(Options{Pace: 20 * time.Millisecond})}
	for _, s := range workers {
		s.channel.announceEvery = 3 * time.Millisecond
		l.run(s)
	}
	l.eventually(func() bool { return len(positions(listener)) > 1 })
	const writers, each = 8, 25
	var group errgroup.Group
	for n := range writers {
		group.Go(func() error {
			for i := range each {
				id, err := invalidate(l.Ctx, l.DB, fmt.Sprintf("!%d.%d:x", n, i))
				if err != nil {
					return err
				}
				workers[n%2].Tell(l.Ctx, id, i%3 == 0)
			}
			return nil
		})
	}
	require.NoError(t, group.Wait())
	all := storetest.All[int64](l.Lab, `SELECT stream_id FROM cache_invalidation_stream_by_instance ORDER BY 1`)
	require.Len(t, all, writers*each)
	l.eventually(func() bool { return readAll(listener, all) })
	for _, row := range listener.Read() {
		require.Equal(t, "ph_cache_fake", row.Cache)
		require.Len(t, row.Keys, 1)
	}
}

// What may wait is told together with others, and never later than the pace. What may not
// is told at once.
func TestPace(t *testing.T) {
	t.Parallel()
	l := setup(t)
	listener := l.listen(true)
	s := l.told(Options{Pace: never})
	stop := l.run(s)
	l.eventually(func() bool { return len(positions(listener)) == 1 })
	sent := countPublishes(s.options.Redis)
	var written []int64
	for range 8 {
		written = append(written, l.invalidate(room))
	}
	s.Tell(l.Ctx, 0, true)
	s.Tell(l.Ctx, written[0], false)
	require.EqualValues(t, 1, sent.Load(), "the first waits for nothing")
	for _, id := range []int64{written[1], written[3], written[2]} {
		s.Tell(l.Ctx, id, false)
	}
	require.EqualValues(t, 1, sent.Load())
	s.Tell(l.Ctx, written[4], true)
	require.EqualValues(t, 2, sent.Load(), "and takes the others with it")
	s.Tell(l.Ctx, written[7], false)
	s.Tell(l.Ctx, written[6], false)
	require.EqualValues(t, 2, sent.Load())
	stop()
	require.EqualValues(t, 3, sent.Load(), "the last words")
	l.eventually(func() bool { return len(positions(listener)) == 4 })
	require.Equal(t, []int64{written[0], written[4], written[7]}, positions(listener)[1:])
	l.eventually(func() bool { return readAll(listener, written) })

	quick := l.told(Options{Pace: 50 * time.Millisecond})
	l.run(quick)
	l.eventually(func() bool { return len(positions(listener)) == 5 })
	last := l.invalidate(room)
	for range 5 {
		quick.Tell(l.Ctx, last, false)
		last = l.invalidate(room)
		quick.Tell(l.Ctx, last, false)
	}
	l.eventually(func() bool { return slices.Contains(positions(listener), last) })
	require.Less(t, len(positions(listener)), 5+10)
}

// A quiet Redis holds no process up that stops.
func TestStopsAtOnce(t *testing.T) {
	t.Parallel()
	l := setup(t)
	s := l.told(Options{})
	stop := l.run(s)
	l.eventually(s.channel.subscribed.Load)
	started := time.Now()
	stop()
	require.Less(t, time.Since(started), silence/2)
}

func TestDefaults(t *testing.T) {
	t.Parallel()
	s := New(nil, Options{})
	require.Equal(t, Auto, s.options.Mode)
	require.Equal(t, 2*time.Second, s.options.Pace)
	require.Equal(t, 200*time.Millisecond, s.options.LookAge)
	require.Equal(t, 30*time.Second, s.renewEvery)
}

// A homeserver that is present must have been heard, or answer.
func TestSilentHomeserver(t *testing.T) {
	t.Parallel()
	l := setup(t)
	s := l.told(Options{})
	l.run(s)
	way, err := s.Ready(l.Ctx)
	require.NoError(t, err)
	require.Equal(t, ByStream, way, "none is seen")

	end := besidetest.Sessions(t, l.URL)
	listener := l.listen(true)
	var waits *Waiting
	_, err = s.Ready(l.Ctx)
	require.ErrorAs(t, err, &waits)
	require.Contains(t, waits.Reason, `no process of it answers on the channel "x"`)
	asked := func() int {
		return len(slices.DeleteFunc(listener.Heard(), func(line string) bool { return !strings.HasPrefix(line, "REPLICATE") }))
	}
	l.eventually(func() bool { return asked() == 2 }, "the listener's own, and Lethe's")
	started := time.Now()
	_, err = s.Ready(l.Ctx)
	require.ErrorAs(t, err, &waits)
	require.Less(t, time.Since(started), askTime, "it was asked just now")
	require.Equal(t, 2, asked())

	listener.Stop()
	end()
	l.listen(false)
	s.channel.askedAt = time.Time{}
	way, err = s.Ready(l.Ctx)
	require.NoError(t, err)
	require.Equal(t, ByStream, way)
}

// A process of a homeserver that does not know Lethe yet never reads an id below its own.
// So nothing is committed before it can have heard of Lethe.
func TestNothingIsReadyBeforeTheAnnouncement(t *testing.T) {
	t.Parallel()
	l := setup(t)
	l.Exec(`SELECT pg_advisory_lock(724001)`)
	s := l.told(Options{})
	l.run(s)
	l.eventually(s.channel.subscribed.Load)
	var waits *Waiting
	_, err := s.Ready(l.Ctx)
	require.ErrorAs(t, err, &waits)
	require.Contains(t, waits.Reason, "stream of invalidations")
	l.Exec(`SELECT pg_advisory_unlock(724001)`)
	l.eventually(func() bool {
		way, err := s.Ready(l.Ctx)
		return err == nil && way == ByStream
	})
}

// failing makes some publishes fail.
type failing struct{ left atomic.Int64 }

func (f *failing) DialHook(next redis.DialHook) redis.DialHook { return next }

func (f *failing) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return next
}

func (f *failing) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		if cmd.Name() == "publish" && f.left.Add(-1) >= 0 {
			err := errors.New("made to fail")
			cmd.SetErr(err)
			return err
		}
		return next(ctx, cmd)
	}
}

// A message that could not be published is published again.
func TestPublishThatFails(t *testing.T) {
	t.Parallel()
	l := setup(t)
	listener := l.listen(true)
	s := l.told(Options{Pace: 10 * time.Millisecond})
	fails := &failing{}
	s.options.Redis.AddHook(fails)
	l.run(s)
	l.eventually(func() bool { return len(positions(listener)) == 1 })
	fails.left.Store(3)
	id := l.invalidate(room)
	s.Tell(l.Ctx, id, true)
	l.eventually(func() bool { return readAll(listener, []int64{id}) })
	require.Negative(t, fails.left.Load())
}
