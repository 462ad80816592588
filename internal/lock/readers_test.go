package lock_test

import (
	"context"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"lethe/internal/devstack/devstacktest"
	"lethe/internal/lock"
	"lethe/internal/redisdb"
)

// forLong is a time to share that is longer than any test.
const forLong = time.Hour

// readers returns Readers as in another process. They have enough time to get a lease on
// a busy machine.
func (s *setup) readers(t testing.TB, options lock.ReadersOptions) *lock.Readers {
	r := lock.NewReaders(s.locker(t, lock.Options{}), options)
	t.Cleanup(r.Close)
	return r
}

func enter(t testing.TB, r *lock.Readers, room string) (leave func()) {
	t.Helper()
	leave, err := r.Enter(t.Context(), room)
	require.NoError(t, err)
	return leave
}

// entering enters in the background. The channel receives leave.
func entering(t testing.TB, r *lock.Readers, room string) <-chan func() {
	entered := make(chan func(), 1)
	inBackground(t, func() error {
		leave, err := r.Enter(t.Context(), room)
		entered <- leave
		return err
	})
	return entered
}

// leases requires that Redis has that number of leases of the room. With several
// masters a quorum must have it, because one may have been too late.
func (s *setup) leases(t testing.TB, room string, want int64) {
	t.Helper()
	require.Eventually(t, func() bool {
		agree := 0
		for _, client := range s.inside {
			if client.ZCard(t.Context(), names.RoomReadLeases(room)).Val() == want {
				agree++
			}
		}
		return agree > len(s.urls)/2
	}, soon, time.Millisecond)
}

func requestsShareALease(t *testing.T, s *setup) {
	room := newRoom()
	var held []time.Duration // read after Close, which waits for it to be written
	began := time.Now()
	r := s.readers(t, lock.ReadersOptions{Share: forLong, Held: func(d time.Duration) { held = append(held, d) }})
	enter(t, r, room)() // and leaves: the lease stays
	var group errgroup.Group
	for range 20 {
		group.Go(func() error {
			for range 10 {
				leave, err := r.Enter(t.Context(), room)
				if err != nil {
					return err
				}
				leave()
				leave()
			}
			return nil
		})
	}
	require.NoError(t, group.Wait())
	one, two := enter(t, r, room), enter(t, r, room)
	s.leases(t, room, 1)
	other := enter(t, s.readers(t, lock.ReadersOptions{Share: forLong}), room)
	s.leases(t, room, 2)
	for _, leave := range []func(){one, two, other} {
		leave()
	}
	r.Close()
	s.leases(t, room, 1)
	require.Len(t, held, 1, "all shared one")
	require.Positive(t, held[0])
	require.LessOrEqual(t, held[0], time.Since(began))
}

// A request that comes after the time to share needs a new lease.
func leaseStopsAcceptingReaders(t *testing.T, s *setup) {
	room := newRoom()
	r := s.readers(t, lock.ReadersOptions{Share: time.Nanosecond})
	one, two := enter(t, r, room), enter(t, r, room)
	s.leases(t, room, 2)
	one()
	s.leases(t, room, 1)
	two()
	s.gone(t, names.RoomReadLeases(room))
}

func idleLeaseIsGivenBack(t *testing.T, s *setup) {
	room := newRoom()
	enter(t, s.readers(t, lock.ReadersOptions{}), room)()
	unlock(t, mustLock(t, s.locker(t, lock.Options{Wait: soon}), room))
	s.gone(t, names.RoomReadLeases(room))
}

// A writer waits only for the requests inside and for those that join them in time,
// however many come.
func requestsDoNotStarveWriters(t *testing.T, s *setup) {
	const (
		processes, clients, turns = 2, 6, 4
		page, share               = 10 * time.Millisecond, 30 * time.Millisecond
		// Each client has one page inside, those that begin while the lease is
		// shared, and one that begins when that time ends.
		most = processes * clients * (int64(share/page) + 2)
	)
	room := newRoom()
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var reading, begun atomic.Int64
	var group errgroup.Group
	for range processes {
		r := s.readers(t, lock.ReadersOptions{Share: share, Wait: soon})
		for range clients {
			group.Go(func() error {
				for ctx.Err() == nil {
					leave, err := r.Enter(t.Context(), room)
					if err != nil {
						return err
					}
					begun.Add(1)
					reading.Add(1)
					time.Sleep(page) // reads
					reading.Add(-1)
					leave()
				}
				return nil
			})
		}
	}
	for range turns {
		require.Eventually(t, func() bool { return reading.Load() > 0 }, soon, time.Millisecond)
		locked := s.locking(t, room)
		before := begun.Load()
		writer := receive(t, locked)
		assert.Zero(t, reading.Load(), "a writer met a reader")
		after := begun.Load()
		assert.LessOrEqual(t, after-before, most, "pages that went before a writer")
		time.Sleep(page) // writes
		assert.Equal(t, after, begun.Load(), "a reader met a writer")
		unlock(t, writer)
	}
	stop()
	require.NoError(t, group.Wait())
}

// Only a lease that accepts further requests lets a caller in who does not wait, and no other
// one is asked for.
func callersEnterNowOnlyByAnOpenLease(t *testing.T, s *setup) {
	room := newRoom()
	r := s.readers(t, lock.ReadersOptions{Share: forLong, Wait: soon})
	refused := func(r *lock.Readers, why string) {
		t.Helper()
		_, entered := r.EnterNow(room)
		require.False(t, entered, why)
	}
	refused(r, "no lease")
	s.leases(t, room, 0)
	one := enter(t, r, room)
	two, entered := r.EnterNow(room)
	require.True(t, entered)
	refused(s.readers(t, lock.ReadersOptions{Share: forLong}), "the lease of another process")
	one()
	locked := s.locking(t, room)
	s.eventuallyExists(t, names.RoomWriteLock(room))
	still(t, locked)
	two()
	two()
	r.Close()
	refused(r, "closed")
	unlock(t, receive(t, locked))

	short := s.readers(t, lock.ReadersOptions{Share: time.Nanosecond, Wait: soon})
	defer enter(t, short, room)()
	refused(short, "its time to share is over")
}

// In a contended room no writer waits for an idle lease.
func writersWaitForNoIdleLease(t *testing.T, s *setup) {
	room := newRoom()
	r := s.readers(t, lock.ReadersOptions{Share: forLong, Wait: soon})
	writer := mustLock(t, s.locker(t, lock.Options{}), room)
	entered := entering(t, r, room)
	s.eventuallyExists(t, names.RoomRefusedReaders(room))
	still(t, entered)
	unlock(t, writer)
	one := receive(t, entered)
	two := enter(t, r, room)
	s.leases(t, room, 1)
	one()
	s.leases(t, room, 1)
	two()
	s.gone(t, names.RoomReadLeases(room))
	// Nor later, without meeting a reader again.
	enter(t, r, room)()
	unlock(t, mustLock(t, s.locker(t, lock.Options{Wait: soon}), room))
}

func requestBehindAWriterIsToldTaken(t *testing.T, s *setup) {
	room := newRoom()
	var waits atomic.Int64
	r := s.readers(t, lock.ReadersOptions{Wait: 50 * time.Millisecond, Waited: func(d time.Duration) { waits.Store(int64(d)) }})
	patient := s.readers(t, lock.ReadersOptions{Wait: soon})
	writer := mustLock(t, s.locker(t, lock.Options{}), room)
	_, err := r.Enter(t.Context(), room)
	require.ErrorIs(t, err, lock.ErrTaken)
	require.GreaterOrEqual(t, waits.Load(), int64(50*time.Millisecond))

	ctx, cancel := context.WithCancel(t.Context())
	failed := make(chan error, 1)
	inBackground(t, func() error {
		_, err := patient.Enter(ctx, room)
		failed <- err
		return nil
	})
	entered := entering(t, patient, room)
	s.eventuallyExists(t, names.RoomRefusedReaders(room))
	cancel()
	require.ErrorIs(t, receive(t, failed), context.Canceled)
	// A request that gives up does not affect the others.
	still(t, entered)
	unlock(t, writer)
	receive(t, entered)()
	s.gone(t, names.RoomReadLeases(room), names.RoomRefusedReaders(room), names.RoomWriteLock(room))
}

func requestsWithoutALeaseLeaveNothing(t *testing.T, s *setup) {
	room := newRoom()
	var without atomic.Int64
	r := s.readers(t, lock.ReadersOptions{Share: forLong, WithoutLease: func() { without.Add(1) }})
	one := enter(t, r, room)
	s.leases(t, room, 1)
	entered := entering(t, r, newRoom())
	receive(t, entered)()
	r.Close()
	s.gone(t, names.RoomReadLeases(room))
	require.Zero(t, without.Load())
	enter(t, r, room)()
	require.EqualValues(t, 1, without.Load())
	s.gone(t, names.RoomReadLeases(room))
	one()
	r.Close()
}

func roomsInMemoryAreBounded(t *testing.T, s *setup) {
	first, second := newRoom(), newRoom()
	r := s.readers(t, lock.ReadersOptions{MaxRooms: 1, Share: forLong})
	enter(t, r, first)()
	one, two := enter(t, r, second), enter(t, r, second)
	s.leases(t, second, 2)
	one()
	two()
	s.gone(t, names.RoomReadLeases(second))
	s.leases(t, first, 1)
}

func lostLeaseIsNoError(t *testing.T, s *setup) {
	room := newRoom()
	r := s.readers(t, lock.ReadersOptions{Share: time.Nanosecond})
	one := enter(t, r, room)
	s.del(t, names.RoomReadLeases(room))
	one()
	unlock(t, mustLock(t, s.locker(t, lock.Options{}), room))
	enter(t, r, room)()
}

// While Redis does not answer, requests enter without a lease, and only one per
// redisRest waits for it.
func requestsGoOnWithoutRedis(t *testing.T, s *setup) {
	var without atomic.Int64
	r := lock.NewReaders(s.locker(t, lock.Options{Timeout: 400 * time.Millisecond}),
		lock.ReadersOptions{WithoutLease: func() { without.Add(1) }})
	t.Cleanup(r.Close)
	enter(t, r, newRoom())()
	require.Zero(t, without.Load())
	s.pause(t)
	hung := time.Now()
	for range 50 {
		enter(t, r, newRoom())()
	}
	require.EqualValues(t, 50, without.Load())
	require.Less(t, time.Since(hung), 10*time.Second, "each alone would wait for 400 ms and more")
	s.resume(t)
	require.Eventually(t, func() bool {
		before := without.Load()
		enter(t, r, newRoom())()
		return without.Load() == before
	}, soon, 10*time.Millisecond)
}

// A counter counts the scripts that a client runs.
type counter struct{ scripts atomic.Int64 }

func (c *counter) DialHook(next redis.DialHook) redis.DialHook {
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		return next(ctx, network, address)
	}
}

func (c *counter) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		if strings.HasPrefix(cmd.Name(), "eval") {
			c.scripts.Add(1)
		}
		return next(ctx, cmd)
	}
}

func (c *counter) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return next
}

func TestPagesCostFewRoundTrips(t *testing.T) {
	t.Parallel()
	client, err := redisdb.OpenForLocks(devstacktest.Redis(t).URL())
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, client.Close()) })
	// The server now has the scripts, so that each is one command.
	warm := lock.NewReaders(lock.New(client, nil, lock.Options{}), lock.ReadersOptions{})
	enter(t, warm, newRoom())()
	warm.Close()
	var count counter
	client.AddHook(&count)

	r := lock.NewReaders(lock.New(client, nil, lock.Options{}), lock.ReadersOptions{Share: forLong})
	room := newRoom()
	for range 1000 {
		enter(t, r, room)()
	}
	require.EqualValues(t, 1, count.scripts.Load())
	r.Close()
	require.EqualValues(t, 2, count.scripts.Load())

	r = lock.NewReaders(lock.New(client, nil, lock.Options{}), lock.ReadersOptions{Share: time.Nanosecond})
	for range 10 {
		enter(t, r, room)()
	}
	r.Close()
	require.EqualValues(t, 2+20, count.scripts.Load(), "at worst one to enter and one, later, to leave")
}

// An interruption does something after the next script, before its client has the answer.
type interruption struct{ do func() }

func (i *interruption) DialHook(next redis.DialHook) redis.DialHook {
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		return next(ctx, network, address)
	}
}

func (i *interruption) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		err := next(ctx, cmd)
		if strings.HasPrefix(cmd.Name(), "eval") && i.do != nil {
			do := i.do
			i.do = nil
			do()
		}
		return err
	}
}

func (i *interruption) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return next
}

// A lease that Redis has given when its only reader has left is released, so that no writer
// waits for it.
func TestLeaseWithoutReadersIsReleased(t *testing.T) {
	t.Parallel()
	s := newSetup(t, devstacktest.Redis(t))
	client := s.open(t)[0]
	// The server now has the scripts, so that each is one command.
	warm := lock.NewReaders(lock.New(client, nil, lock.Options{}), lock.ReadersOptions{})
	enter(t, warm, newRoom())()
	warm.Close()

	room := newRoom()
	ctx, cancel := context.WithCancel(t.Context())
	r := lock.NewReaders(lock.New(client, nil, lock.Options{Lease: forLong, MaxLease: forLong}), lock.ReadersOptions{Share: forLong})
	t.Cleanup(r.Close)
	left := make(chan error, 1)
	client.AddHook(&interruption{do: func() {
		s.leases(t, room, 1)
		cancel()
		require.ErrorIs(t, <-left, context.Canceled)
	}})
	_, err := r.Enter(ctx, room)
	left <- err
	s.gone(t, names.RoomReadLeases(room))
}

// A lease that has expired keeps no writer out, although other readers have kept its set
// alive.
func TestExpiredLeaseKeepsNoWriterOut(t *testing.T) {
	t.Parallel()
	s := newSetup(t, devstacktest.Redis(t))
	room := newRoom()
	key := names.RoomReadLeases(room)
	require.NoError(t, s.inside[0].ZAdd(t.Context(), key, redis.Z{Score: 1, Member: "of a reader that was killed"}).Err())
	require.NoError(t, s.inside[0].PExpire(t.Context(), key, forLong).Err())
	unlock(t, mustLock(t, s.locker(t, lock.Options{Wait: 5 * time.Second}), room))
}
