package lock_test

import (
	"context"
	"crypto/rand"
	"errors"
	"flag"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/logging"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"golang.org/x/sync/errgroup"

	"lethe/internal/devstack/devstacktest"
	"lethe/internal/lock"
	"lethe/internal/redisdb"
)

func TestMain(m *testing.M) {
	logging.Disable() // go-redis logs each failed connection
	// The tests mostly wait for leases to expire. An argument on the command line
	// overrides this.
	_ = flag.Set("test.parallel", "12")
	// A closed client stops dialling a dead server within 1 s.
	devstacktest.Main(m, goleak.IgnoreAnyFunction("github.com/redis/go-redis/v9/internal/pool.(*ConnPool).tryDial"))
}

func TestOneRedis(t *testing.T) {
	exercise(t, func(t testing.TB) *setup { return newSetup(t, devstacktest.Redis(t)) })
}

func TestCluster(t *testing.T) {
	exercise(t, func(t testing.TB) *setup { return newSetup(t, devstacktest.RedisCluster(t)) })
}

func TestThreeMasters(t *testing.T) {
	exercise(t, threeMasters)
}

func TestThreeMastersOneDead(t *testing.T) {
	exercise(t, func(t testing.TB) *setup {
		third := devstacktest.Redis(t)
		third.Kill()
		return newSetup(t, devstacktest.Redis(t), devstacktest.Redis(t)).with(third)
	})
}

func TestThreeMastersOneBlackHoled(t *testing.T) {
	exercise(t, func(t testing.TB) *setup {
		third := devstacktest.Redis(t)
		require.NoError(t, third.Pause())
		return newSetup(t, devstacktest.Redis(t), devstacktest.Redis(t)).with(third)
	})
}

// names are those of no deployment.
var names *redisdb.Names

// A setup is the Redis servers of a test.
type setup struct {
	urls    []string                // of every master
	servers []server                // the working ones
	inside  []redis.UniversalClient // clients of servers, to look at their data
	fences  fences
}

// A server is a Redis or a Redis Cluster.
type server interface {
	URL() string
	Kill()
	Pause() error
	Resume() error
	Restart(context.Context) error // without data
}

func newSetup(t testing.TB, servers ...server) *setup {
	s := &setup{servers: servers}
	for _, server := range servers {
		s.urls = append(s.urls, server.URL())
	}
	s.inside = s.open(t)
	return s
}

func threeMasters(t testing.TB) *setup {
	return newSetup(t, devstacktest.Redis(t), devstacktest.Redis(t), devstacktest.Redis(t))
}

// with adds a broken master.
func (s *setup) with(broken server) *setup {
	s.urls = append(s.urls, broken.URL())
	return s
}

// open returns clients with separate connections, as in another process.
func (s *setup) open(t testing.TB) []redis.UniversalClient {
	var clients []redis.UniversalClient
	for i, url := range s.urls {
		client, err := redisdb.OpenForLocks(url)
		require.NoError(t, err)
		t.Cleanup(func() { assert.NoError(t, client.Close()) })
		if i < len(s.servers) {
			_ = client.Get(t.Context(), "x").Err() // a Cluster's clients begin slowly
		}
		clients = append(clients, client)
	}
	return clients
}

// kill kills every working server.
func (s *setup) kill() {
	for _, server := range s.servers {
		server.Kill()
	}
}

func (s *setup) pause(t testing.TB) {
	for _, server := range s.servers {
		require.NoError(t, server.Pause())
	}
}

func (s *setup) resume(t testing.TB) {
	for _, server := range s.servers {
		require.NoError(t, server.Resume())
	}
}

// start starts the servers after a kill, without data.
func (s *setup) start(t testing.TB) {
	for _, server := range s.servers {
		require.NoError(t, server.Restart(t.Context()))
	}
}

// del removes a key, as if it had expired.
func (s *setup) del(t testing.TB, key string) {
	for _, client := range s.inside {
		require.NoError(t, client.Del(t.Context(), key).Err())
	}
}

// gone requires that the keys do not exist. The last master may need some time.
func (s *setup) gone(t testing.TB, keys ...string) {
	t.Helper()
	require.EventuallyWithT(t, func(c *assert.CollectT) {
		for master, client := range s.inside {
			for _, key := range keys { // a Cluster accepts one at a time
				assert.Zero(c, client.Exists(t.Context(), key).Val(), "%s on master %d", key, master)
			}
		}
	}, 3*time.Second, time.Millisecond)
}

// exercise tests what the package promises on any setup. The setups run one after
// another, because all at once would be too much for a small machine. The tests of
// one setup run in parallel.
func exercise(t *testing.T, newSetup func(testing.TB) *setup) {
	shared := newSetup(t)
	for name, test := range map[string]func(*testing.T, *setup){
		"WritersExcludeEachOther":             writersExcludeEachOther,
		"ReadersAreTogether":                  readersAreTogether,
		"WriterWaitsForReaders":               writerWaitsForReaders,
		"WaitingWriterGoesBeforeNewReaders":   waitingWriterGoesBeforeNewReaders,
		"ReadersAreLetInBetweenWriters":       readersAreLetInBetweenWriters,
		"WriterLearnsOfWaitingReaders":        writerLearnsOfWaitingReaders,
		"WritersAreAlone":                     writersAreAlone,
		"LockIsKeptAlive":                     lockIsKeptAlive,
		"LeaseIsKeptAlive":                    leaseIsKeptAlive,
		"LeaseHasALimit":                      leaseHasALimit,
		"LockOfAVanishedProcessExpires":       lockOfAVanishedProcessExpires,
		"LeaseOfAVanishedProcessExpires":      leaseOfAVanishedProcessExpires,
		"LockThatIsNotRenewedIsLost":          lockThatIsNotRenewedIsLost,
		"LockIsLostWhenItsKeyIsGone":          lockIsLostWhenItsKeyIsGone,
		"LockIsLostWhenAnotherHasIt":          lockIsLostWhenAnotherHasIt,
		"LeaseIsLostWhenItsKeyIsGone":         leaseIsLostWhenItsKeyIsGone,
		"LockLostWhileWaitingIsTakenAgain":    lockLostWhileWaitingIsTakenAgain,
		"LockLostWhileFencedIsTakenAgain":     lockLostWhileFencedIsTakenAgain,
		"FenceGrows":                          fenceGrows,
		"FailingFencerLeavesNothingLocked":    failingFencerLeavesNothingLocked,
		"SlowFencerIsBounded":                 slowFencerIsBounded,
		"CancelledWriterLetsReadersIn":        cancelledWriterLetsReadersIn,
		"CancelledReaderLeavesNothing":        cancelledReaderLeavesNothing,
		"EndedContextLocksNothing":            endedContextLocksNothing,
		"CancelledOwnerCanGiveBack":           cancelledOwnerCanGiveBack,
		"OddRoomsAreApart":                    oddRoomsAreApart,
		"NothingIsLeftBehindForever":          nothingIsLeftBehindForever,
		"ContextCarriesTheCallersValues":      contextCarriesTheCallersValues,
		"UnlockByManyAtOnceUnlocksOnce":       unlockByManyAtOnceUnlocksOnce,
		"WaitIsNotPartOfTheLocksOwnLifetime":  waitIsNotPartOfTheLocksOwnLifetime,
		"ReaderWhoseWriterIsStuckIsToldTaken": readerWhoseWriterIsStuckIsToldTaken,
		"WaitersAreWoken":                     waitersAreWoken,
		"RequestsShareALease":                 requestsShareALease,
		"CallersEnterNowOnlyByAnOpenLease":    callersEnterNowOnlyByAnOpenLease,
		"LeaseStopsAcceptingReaders":          leaseStopsAcceptingReaders,
		"IdleLeaseIsGivenBack":                idleLeaseIsGivenBack,
		"RequestsDoNotStarveWriters":          requestsDoNotStarveWriters,
		"WritersWaitForNoIdleLease":           writersWaitForNoIdleLease,
		"RequestBehindAWriterIsToldTaken":     requestBehindAWriterIsToldTaken,
		"RequestsWithoutALeaseLeaveNothing":   requestsWithoutALeaseLeaveNothing,
		"RoomsInMemoryAreBounded":             roomsInMemoryAreBounded,
		"LostLeaseIsNoError":                  lostLeaseIsNoError,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, shared)
		})
	}
	// These tests break their servers.
	for name, test := range map[string]func(*testing.T, *setup){
		"LostWhenRedisDies":           lostWhenRedisDies,
		"LostWhenRedisHangs":          lostWhenRedisHangs,
		"ShortOutageIsSurvived":       shortOutageIsSurvived,
		"LostWhenRedisForgets":        lostWhenRedisForgets,
		"UnavailableWhileWaiting":     unavailableWhileWaiting,
		"WriterWaitsThroughARestart":  writerWaitsThroughARestart,
		"ReaderIsToldAtOnceWhenHangs": readerIsToldAtOnceWhenHangs,
		"RequestsGoOnWithoutRedis":    requestsGoOnWithoutRedis,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, newSetup(t))
		})
	}
}

// Short enough for several of them in a test, long enough for a busy machine.
var short = lock.Options{Lease: time.Second, KeepAlive: 150 * time.Millisecond}

// soon limits what happens as soon as the machine has time.
const soon = 15 * time.Second

func writersExcludeEachOther(t *testing.T, s *setup) {
	const writers, rounds = 8, 5
	room := newRoom()
	var count, done atomic.Int64
	var group errgroup.Group
	for range writers {
		locker := s.locker(t, lock.Options{})
		group.Go(func() error {
			for range rounds {
				x, err := locker.Lock(t.Context(), room)
				if err != nil {
					return err
				}
				seen := count.Load()
				done.Add(1)
				count.Store(seen + 1) // would lose another writer's increment
				if err := x.Unlock(t.Context()); err != nil {
					return err
				}
			}
			return nil
		})
	}
	require.NoError(t, group.Wait())
	require.EqualValues(t, writers*rounds, done.Load())
	require.EqualValues(t, writers*rounds, count.Load())
}

func readersAreTogether(t *testing.T, s *setup) {
	room := newRoom()
	var leases []*lock.Lease
	for range 3 {
		leases = append(leases, rlock(t, s.locker(t, lock.Options{}), room))
	}
	refused(t, s, room)
	for _, lease := range leases {
		require.NoError(t, lease.Release(t.Context()))
		require.NoError(t, lease.Release(t.Context()), "a second call does nothing")
	}
	unlock(t, mustLock(t, s.locker(t, lock.Options{}), room))
}

func writerWaitsForReaders(t *testing.T, s *setup) {
	room := newRoom()
	one, two := rlock(t, s.locker(t, lock.Options{}), room), rlock(t, s.locker(t, lock.Options{}), room)
	locked := s.locking(t, room)
	require.NoError(t, one.Release(t.Context()))
	still(t, locked)
	require.NoError(t, two.Release(t.Context()))
	unlock(t, receive(t, locked))
}

func waitingWriterGoesBeforeNewReaders(t *testing.T, s *setup) {
	room := newRoom()
	inside := rlock(t, s.locker(t, lock.Options{}), room)
	locked := s.locking(t, room)
	_, err := s.locker(t, lock.Options{Wait: 50 * time.Millisecond}).RLock(t.Context(), room)
	require.ErrorIs(t, err, lock.ErrTaken)

	admitted := make(chan *lock.Lease, 1)
	reader := s.locker(t, lock.Options{})
	inBackground(t, func() error {
		lease, err := reader.RLock(t.Context(), room)
		admitted <- lease
		return err
	})
	s.eventuallyExists(t, names.RoomRefusedReaders(room))
	still(t, admitted)
	require.NoError(t, inside.Release(t.Context()))
	writer := receive(t, locked)
	still(t, admitted)
	unlock(t, writer)
	require.NoError(t, receive(t, admitted).Release(t.Context()))
}

// Two writers lock without a pause, and readers want to enter: each reader enters
// after the current batch or the next one.
func readersAreLetInBetweenWriters(t *testing.T, s *setup) {
	const readers, visits, enough = 4, 8, 2000
	room := newRoom()
	var batches, reading atomic.Int64
	reading.Store(readers)
	var group errgroup.Group
	for range 2 {
		writer := s.locker(t, lock.Options{})
		group.Go(func() error {
			for range enough {
				if reading.Load() == 0 {
					return nil
				}
				x, err := writer.Lock(t.Context(), room)
				if err != nil {
					return err
				}
				batches.Add(1)
				time.Sleep(5 * time.Millisecond) // the batch's work
				if err := x.Unlock(t.Context()); err != nil {
					return err
				}
			}
			return errors.New("readers starve")
		})
	}
	var waited atomic.Int64
	for range readers {
		reader := s.locker(t, lock.Options{})
		group.Go(func() error {
			defer reading.Add(-1)
			for range visits {
				before := batches.Load()
				lease, err := reader.RLock(t.Context(), room)
				if err != nil {
					return err
				}
				passed := batches.Load() - before
				waited.Add(passed)
				assert.LessOrEqual(t, passed, int64(5), "batches that went before a reader")
				if err := lease.Release(t.Context()); err != nil {
					return err
				}
			}
			return nil
		})
	}
	require.NoError(t, group.Wait())
	require.LessOrEqual(t, waited.Load(), int64(2*readers*visits), "on average two at most")
}

// A writer learns at its end whether readers have waited for it.
func writerLearnsOfWaitingReaders(t *testing.T, s *setup) {
	room := newRoom()
	locker := s.locker(t, lock.Options{Wait: soon})
	rlock(t, locker, room) // which leaves before the writer enters
	entered := s.locking(t, room)
	s.eventuallyExists(t, names.RoomWriteLock(room))
	still(t, entered)
	reader := make(chan *lock.Lease, 1)
	inBackground(t, func() error {
		lease, err := locker.RLock(t.Context(), room)
		reader <- lease
		return err
	})
	s.eventuallyExists(t, names.RoomRefusedReaders(room))
	s.del(t, names.RoomReadLeases(room))
	x := receive(t, entered)
	require.False(t, x.ReadersWaited())
	unlock(t, x)
	require.True(t, x.ReadersWaited())
	require.NoError(t, receive(t, reader).Release(t.Context()))

	x = mustLock(t, locker, room)
	unlock(t, x)
	require.False(t, x.ReadersWaited())
}

func writersAreAlone(t *testing.T, s *setup) {
	const readers, writers = 16, 2
	room := newRoom()
	var lockers []*lock.Locker
	for range readers + writers {
		lockers = append(lockers, s.locker(t, lock.Options{}))
	}
	ends := time.Now().Add(2 * time.Second)
	var reading, writing, reads, writes, newest atomic.Int64
	var group errgroup.Group
	for _, reader := range lockers[writers:] {
		group.Go(func() error {
			for time.Now().Before(ends) {
				lease, err := reader.RLock(t.Context(), room)
				if err != nil {
					return err
				}
				reading.Add(1)
				assert.Zero(t, writing.Load(), "a reader met a writer")
				time.Sleep(time.Millisecond) // reads
				reading.Add(-1)
				reads.Add(1)
				if err := lease.Release(t.Context()); err != nil {
					return err
				}
			}
			return nil
		})
	}
	for _, writer := range lockers[:writers] {
		group.Go(func() error {
			for time.Now().Before(ends) {
				x, err := writer.Lock(t.Context(), room)
				if err != nil {
					return err
				}
				assert.EqualValues(t, 1, writing.Add(1), "a writer met a writer")
				assert.Zero(t, reading.Load(), "a writer met a reader")
				assert.Greater(t, x.Fence(), newest.Swap(x.Fence()))
				time.Sleep(time.Millisecond) // writes
				assert.Zero(t, reading.Load(), "a writer met a reader")
				writing.Add(-1)
				writes.Add(1)
				if err := x.Unlock(t.Context()); err != nil {
					return err
				}
			}
			return nil
		})
	}
	require.NoError(t, group.Wait())
	require.NotZero(t, reads.Load())
	require.NotZero(t, writes.Load())
	t.Logf("%d reads, %d writes", reads.Load(), writes.Load())
}

func lockIsKeptAlive(t *testing.T, s *setup) {
	room := newRoom()
	x := mustLock(t, s.locker(t, short), room)
	_, err := s.locker(t, lock.Options{Wait: 2 * short.Lease}).Lock(t.Context(), room)
	require.ErrorIs(t, err, lock.ErrTaken)
	require.ErrorIs(t, err, context.DeadlineExceeded)
	require.NotErrorIs(t, err, lock.ErrUnavailable)
	require.NoError(t, x.Context().Err())
	require.NoError(t, x.Unlock(t.Context()))
	require.ErrorIs(t, context.Cause(x.Context()), context.Canceled)
	require.NoError(t, x.Unlock(t.Context()), "a second call does nothing")
}

func leaseIsKeptAlive(t *testing.T, s *setup) {
	room := newRoom()
	lease := rlock(t, s.locker(t, short), room)
	_, err := s.locker(t, lock.Options{Wait: 2 * short.Lease}).Lock(t.Context(), room)
	require.ErrorIs(t, err, lock.ErrTaken)
	require.NoError(t, lease.Context().Err())
	require.NoError(t, lease.Release(t.Context()))
	require.ErrorIs(t, context.Cause(lease.Context()), context.Canceled)
}

func leaseHasALimit(t *testing.T, s *setup) {
	room := newRoom()
	options := short
	options.MaxLease = 2 * short.Lease
	lease := rlock(t, s.locker(t, options), room)
	x := mustLock(t, s.locker(t, lock.Options{}), room) // the lease is not released
	lost(t, lease.Context())
	unlock(t, x)
	require.ErrorIs(t, lease.Release(t.Context()), lock.ErrLockLost)
}

func lockOfAVanishedProcessExpires(t *testing.T, s *setup) {
	room := newRoom()
	ctx, vanish := context.WithCancel(t.Context())
	old, err := s.locker(t, short).Lock(ctx, room)
	require.NoError(t, err)
	vanish()
	x := mustLock(t, s.locker(t, lock.Options{}), room)
	require.Greater(t, x.Fence(), old.Fence())
	require.ErrorIs(t, old.Unlock(ctx), lock.ErrLockLost)
	refused(t, s, room)
	unlock(t, x)
}

func leaseOfAVanishedProcessExpires(t *testing.T, s *setup) {
	room := newRoom()
	ctx, vanish := context.WithCancel(t.Context())
	lease, err := s.locker(t, short).RLock(ctx, room)
	require.NoError(t, err)
	other := rlock(t, s.locker(t, lock.Options{}), room) // keeps the key alive
	vanish()
	locked := s.locking(t, room)
	require.NoError(t, other.Release(t.Context()))
	unlock(t, receive(t, locked))
	require.ErrorIs(t, lease.Release(ctx), lock.ErrLockLost)
}

func lockThatIsNotRenewedIsLost(t *testing.T, s *setup) {
	room := newRoom()
	options := lock.Options{Lease: short.Lease, KeepAlive: time.Hour}
	x, lease := mustLock(t, s.locker(t, options), room), rlock(t, s.locker(t, options), newRoom())
	lost(t, x.Context())
	lost(t, lease.Context())
	next := mustLock(t, s.locker(t, lock.Options{}), room)
	require.ErrorIs(t, x.Unlock(t.Context()), lock.ErrLockLost)
	require.NoError(t, next.Context().Err())
	unlock(t, next)
}

func lockIsLostWhenItsKeyIsGone(t *testing.T, s *setup) {
	room := newRoom()
	x := mustLock(t, s.locker(t, short), room)
	s.del(t, names.RoomWriteLock(room))
	lost(t, x.Context())
	require.ErrorIs(t, x.Unlock(t.Context()), lock.ErrLockLost)
}

func lockIsLostWhenAnotherHasIt(t *testing.T, s *setup) {
	room := newRoom()
	x := mustLock(t, s.locker(t, short), room)
	s.del(t, names.RoomWriteLock(room))
	other := mustLock(t, s.locker(t, lock.Options{}), room)
	lost(t, x.Context())
	require.ErrorIs(t, x.Unlock(t.Context()), lock.ErrLockLost)
	refused(t, s, room)
	unlock(t, other)
}

func leaseIsLostWhenItsKeyIsGone(t *testing.T, s *setup) {
	room := newRoom()
	lease := rlock(t, s.locker(t, short), room)
	s.del(t, names.RoomReadLeases(room))
	lost(t, lease.Context())
	require.ErrorIs(t, lease.Release(t.Context()), lock.ErrLockLost)
}

func lockLostWhileWaitingIsTakenAgain(t *testing.T, s *setup) {
	room := newRoom()
	lease := rlock(t, s.locker(t, lock.Options{}), room)
	locked := s.locking(t, room)
	first := s.inside[0]
	before := first.Get(t.Context(), names.RoomWriteLock(room)).Val()
	s.del(t, names.RoomWriteLock(room))
	require.Eventually(t, func() bool {
		now := first.Get(t.Context(), names.RoomWriteLock(room)).Val()
		return now != "" && now != before
	}, soon, time.Millisecond)
	still(t, locked)
	require.NoError(t, lease.Release(t.Context()))
	unlock(t, receive(t, locked))
}

func lockLostWhileFencedIsTakenAgain(t *testing.T, s *setup) {
	room := newRoom()
	asked := 0
	fencer := fencerFunc(func(ctx context.Context, room string) (int64, error) {
		if asked++; asked > 1 {
			return int64(asked), nil
		}
		s.del(t, names.RoomWriteLock(room))
		<-ctx.Done() // ended by the keep-alive
		return 0, ctx.Err()
	})
	x := mustLock(t, lock.NewQuorum(s.open(t), fencer, short), room)
	require.EqualValues(t, 2, x.Fence())
	unlock(t, x)
}

func fenceGrows(t *testing.T, s *setup) {
	room := newRoom()
	for want := range int64(5) {
		x := mustLock(t, s.locker(t, lock.Options{}), room)
		require.Equal(t, want+1, x.Fence(), "one for each lock")
		unlock(t, x)
	}
}

func failingFencerLeavesNothingLocked(t *testing.T, s *setup) {
	room := newRoom()
	broken := errors.New("broken")
	fencer := fencerFunc(func(context.Context, string) (int64, error) { return 0, broken })
	_, err := lock.NewQuorum(s.open(t), fencer, lock.Options{}).Lock(t.Context(), room)
	require.ErrorIs(t, err, broken)
	require.NotErrorIs(t, err, lock.ErrTaken)
	s.gone(t, names.RoomWriteLock(room))
}

func slowFencerIsBounded(t *testing.T, s *setup) {
	room := newRoom()
	fencer := fencerFunc(func(ctx context.Context, _ string) (int64, error) {
		<-ctx.Done()
		return 0, ctx.Err()
	})
	_, err := lock.NewQuorum(s.open(t), fencer, lock.Options{Wait: 100 * time.Millisecond}).Lock(t.Context(), room)
	require.ErrorIs(t, err, context.DeadlineExceeded)
	s.gone(t, names.RoomWriteLock(room))
}

func cancelledWriterLetsReadersIn(t *testing.T, s *setup) {
	room := newRoom()
	inside := rlock(t, s.locker(t, lock.Options{}), room)
	ctx, cancel := context.WithCancelCause(t.Context())
	failed := make(chan error, 1)
	writer := s.locker(t, lock.Options{})
	inBackground(t, func() error {
		_, err := writer.Lock(ctx, room)
		failed <- err
		return nil
	})
	s.eventuallyExists(t, names.RoomWriteLock(room))
	leaving := errors.New("leaving")
	cancel(leaving)
	require.ErrorIs(t, receive(t, failed), leaving)
	require.NoError(t, rlock(t, s.locker(t, lock.Options{}), room).Release(t.Context()))
	require.NoError(t, inside.Release(t.Context()))
}

func cancelledReaderLeavesNothing(t *testing.T, s *setup) {
	room := newRoom()
	x := mustLock(t, s.locker(t, lock.Options{}), room)
	ctx, cancel := context.WithCancel(t.Context())
	failed := make(chan error, 1)
	reader := s.locker(t, lock.Options{})
	inBackground(t, func() error {
		_, err := reader.RLock(ctx, room)
		failed <- err
		return nil
	})
	s.eventuallyExists(t, names.RoomRefusedReaders(room))
	cancel()
	require.ErrorIs(t, receive(t, failed), context.Canceled)
	s.gone(t, names.RoomReadLeases(room))
	unlock(t, x)
	unlock(t, mustLock(t, s.locker(t, lock.Options{}), room))
}

func endedContextLocksNothing(t *testing.T, s *setup) {
	room := newRoom()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	locker := s.locker(t, lock.Options{})
	_, err := locker.Lock(ctx, room)
	require.ErrorIs(t, err, context.Canceled)
	_, err = locker.RLock(ctx, room)
	require.ErrorIs(t, err, context.Canceled)
	s.gone(t, names.RoomWriteLock(room), names.RoomReadLeases(room))
}

func cancelledOwnerCanGiveBack(t *testing.T, s *setup) {
	room := newRoom()
	ctx, cancel := context.WithCancel(t.Context())
	x, err := s.locker(t, lock.Options{}).Lock(ctx, room)
	require.NoError(t, err)
	lease, err := s.locker(t, lock.Options{}).RLock(ctx, room+"2")
	require.NoError(t, err)
	cancel()
	require.ErrorIs(t, x.Context().Err(), context.Canceled)
	require.ErrorIs(t, lease.Context().Err(), context.Canceled)
	require.NoError(t, x.Unlock(ctx))
	require.NoError(t, lease.Release(ctx))
	s.gone(t, names.RoomWriteLock(room))
	s.gone(t, names.RoomReadLeases(room+"2"))
}

func oddRoomsAreApart(t *testing.T, s *setup) {
	base := newRoom()
	locker := s.locker(t, lock.Options{})
	for _, odd := range []string{"", "}", "{}", "{x}", "}{", "}a{b}", " \t\r\n", "\x00", "*?[a-z]", `"'\`, "ü☃", "\xff\xfe", ":w", "}:r", "%s"} {
		room := base + odd
		x := mustLock(t, locker, room)
		refused(t, s, room)
		t.Cleanup(func() { unlock(t, x) }) // at the end, so that all rooms are locked at once
	}
}

func nothingIsLeftBehindForever(t *testing.T, s *setup) {
	room := newRoom()
	locker := s.locker(t, lock.Options{Wait: 50 * time.Millisecond})
	lease := rlock(t, locker, room)
	s.eventuallyExists(t, names.RoomReadLeases(room))
	require.Positive(t, s.inside[0].PTTL(t.Context(), names.RoomReadLeases(room)).Val())
	require.NoError(t, lease.Release(t.Context()))
	x := mustLock(t, locker, room)
	s.eventuallyExists(t, names.RoomWriteLock(room))
	require.Positive(t, s.inside[0].PTTL(t.Context(), names.RoomWriteLock(room)).Val())
	_, err := locker.RLock(t.Context(), room)
	require.ErrorIs(t, err, lock.ErrTaken)
	unlock(t, x)
	s.gone(t, names.RoomReadLeases(room), names.RoomWriteLock(room), names.RoomRefusedReaders(room))
}

func contextCarriesTheCallersValues(t *testing.T, s *setup) {
	type key struct{}
	locker := s.locker(t, lock.Options{})
	x, err := locker.Lock(context.WithValue(t.Context(), key{}, "writer"), newRoom())
	require.NoError(t, err)
	require.Equal(t, "writer", x.Context().Value(key{}))
	unlock(t, x)
	lease, err := locker.RLock(context.WithValue(t.Context(), key{}, "reader"), newRoom())
	require.NoError(t, err)
	require.Equal(t, "reader", lease.Context().Value(key{}))
	require.NoError(t, lease.Release(t.Context()))
}

func unlockByManyAtOnceUnlocksOnce(t *testing.T, s *setup) {
	x := mustLock(t, s.locker(t, short), newRoom())
	var group errgroup.Group
	for range 8 {
		group.Go(func() error { return x.Unlock(t.Context()) })
	}
	require.NoError(t, group.Wait())
}

func waitIsNotPartOfTheLocksOwnLifetime(t *testing.T, s *setup) {
	room, options := newRoom(), short
	options.Wait = 200 * time.Millisecond
	x := mustLock(t, s.locker(t, options), room)
	_, err := s.locker(t, lock.Options{Wait: 2 * options.Wait}).Lock(t.Context(), room)
	require.ErrorIs(t, err, lock.ErrTaken)
	require.NoError(t, x.Context().Err())
	unlock(t, x)
}

func readerWhoseWriterIsStuckIsToldTaken(t *testing.T, s *setup) {
	room := newRoom()
	x := mustLock(t, s.locker(t, lock.Options{}), room)
	_, err := s.locker(t, lock.Options{Wait: 100 * time.Millisecond}).RLock(t.Context(), room)
	require.ErrorIs(t, err, lock.ErrTaken)
	require.ErrorIs(t, err, context.DeadlineExceeded)
	require.NotErrorIs(t, err, lock.ErrUnavailable)
	unlock(t, x)
}

func lostWhenRedisDies(t *testing.T, s *setup) {
	x, lease := mustLock(t, s.locker(t, short), newRoom()), rlock(t, s.locker(t, short), newRoom())
	s.kill()
	died := time.Now()
	lost(t, x.Context())
	lost(t, lease.Context())
	require.Less(t, time.Since(died), short.Lease+time.Second)
	for _, err := range []error{x.Unlock(t.Context()), lease.Release(t.Context())} {
		require.ErrorIs(t, err, lock.ErrUnavailable)
		require.ErrorIs(t, err, lock.ErrLockLost, "known without Redis")
	}
}

func lostWhenRedisHangs(t *testing.T, s *setup) {
	options := short
	options.Timeout = time.Hour // no command times out before the lock expires
	x, lease := mustLock(t, s.locker(t, options), newRoom()), rlock(t, s.locker(t, options), newRoom())
	s.pause(t)
	hung := time.Now()
	lost(t, x.Context())
	lost(t, lease.Context())
	require.Less(t, time.Since(hung), short.Lease+time.Second)
	s.resume(t)
	require.NotErrorIs(t, x.Unlock(t.Context()), lock.ErrUnavailable)
	require.NotErrorIs(t, lease.Release(t.Context()), lock.ErrUnavailable)
}

func shortOutageIsSurvived(t *testing.T, s *setup) {
	options := lock.Options{Lease: 5 * time.Second, KeepAlive: 50 * time.Millisecond, Timeout: 400 * time.Millisecond}
	room := newRoom()
	locker := s.locker(t, options)
	x := mustLock(t, locker, room)
	s.pause(t)
	_, err := locker.RLock(t.Context(), room) // takes longer than a renewal
	require.ErrorIs(t, err, lock.ErrUnavailable)
	s.resume(t)
	refused(t, s, room)
	require.NoError(t, x.Context().Err())
	unlock(t, x)
}

func lostWhenRedisForgets(t *testing.T, s *setup) {
	room := newRoom()
	x := mustLock(t, s.locker(t, short), room)
	s.kill()
	s.start(t)
	lost(t, x.Context())
	next := mustLock(t, s.locker(t, lock.Options{}), room)
	require.Greater(t, next.Fence(), x.Fence())
	require.ErrorIs(t, x.Unlock(t.Context()), lock.ErrLockLost)
	unlock(t, next)
}

func unavailableWhileWaiting(t *testing.T, s *setup) {
	room := newRoom()
	locker := s.locker(t, lock.Options{Wait: time.Second})
	lease := rlock(t, s.locker(t, lock.Options{}), room)
	failed := make(chan error, 1)
	inBackground(t, func() error {
		_, err := locker.Lock(t.Context(), room)
		failed <- err
		return nil
	})
	s.eventuallyExists(t, names.RoomWriteLock(room))
	s.kill()
	killed := time.Now()
	_, err := locker.RLock(t.Context(), room)
	require.ErrorIs(t, err, lock.ErrUnavailable)
	require.Less(t, time.Since(killed), time.Second, "a reader does not wait for Redis")
	err = receive(t, failed)
	require.ErrorIs(t, err, lock.ErrUnavailable)
	require.ErrorIs(t, err, context.DeadlineExceeded)
	require.NotErrorIs(t, err, lock.ErrTaken)
	require.ErrorIs(t, lease.Release(t.Context()), lock.ErrUnavailable)
}

func writerWaitsThroughARestart(t *testing.T, s *setup) {
	room := newRoom()
	lease := rlock(t, s.locker(t, short), room)
	locked := s.locking(t, room)
	s.kill()
	still(t, locked)
	s.start(t)
	unlock(t, receive(t, locked))
	lost(t, lease.Context())
	require.ErrorIs(t, lease.Release(t.Context()), lock.ErrLockLost)
}

func readerIsToldAtOnceWhenHangs(t *testing.T, s *setup) {
	locker := s.locker(t, lock.Options{Timeout: 400 * time.Millisecond})
	require.NoError(t, rlock(t, locker, newRoom()).Release(t.Context()))
	s.pause(t)
	hung := time.Now()
	_, err := locker.RLock(t.Context(), newRoom())
	require.ErrorIs(t, err, lock.ErrUnavailable)
	require.Less(t, time.Since(hung), 2*time.Second)
	s.resume(t)
}

// Without polls, waiters are woken by the user that they wait for: readers by the
// writer inside, the next writer by the last refused reader that enters, and then by
// the last reader that leaves.
func waitersAreWoken(t *testing.T, s *setup) {
	// The marks of refused readers last that long, because the readers do not poll.
	room, options := newRoom(), lock.Options{Timeout: soon}
	x := mustLock(t, s.locker(t, options), room)
	leases := make(chan *lock.Lease, 2)
	for range cap(leases) {
		reader := s.locker(t, options)
		reader.NeverPoll()
		inBackground(t, func() error {
			lease, err := reader.RLock(t.Context(), room)
			leases <- lease
			return err
		})
	}
	locks := make(chan *lock.Lock, 1)
	writer := s.locker(t, options)
	writer.NeverPoll()
	inBackground(t, func() error {
		x, err := writer.Lock(t.Context(), room)
		locks <- x
		return err
	})
	for _, client := range s.inside {
		require.Eventually(t, func() bool {
			// The lock refuses the writer, not the mark.
			return client.ZCard(t.Context(), names.RoomRefusedReaders(room)).Val() == 2 &&
				client.PubSubNumSub(t.Context(), names.RoomWakeUp(room)).Val()[names.RoomWakeUp(room)] == 3
		}, soon, time.Millisecond)
	}
	unlock(t, x)
	for range cap(leases) {
		require.NoError(t, receive(t, leases).Release(t.Context()))
	}
	unlock(t, receive(t, locks))
}

// locker returns a Locker with separate connections, as in another process. Its
// commands have enough time on a machine that is busy with other tests.
func (s *setup) locker(t testing.TB, options lock.Options) *lock.Locker {
	if options.Timeout == 0 {
		options.Timeout = 5 * time.Second
	}
	return lock.NewQuorum(s.open(t), &s.fences, options)
}

// locking locks a room in the background, and returns when the writer waits for
// the readers inside.
func (s *setup) locking(t testing.TB, room string) <-chan *lock.Lock {
	locked := make(chan *lock.Lock, 1)
	locker := s.locker(t, lock.Options{})
	inBackground(t, func() error {
		x, err := locker.Lock(t.Context(), room)
		locked <- x
		return err
	})
	s.eventuallyExists(t, names.RoomWriteLock(room))
	return locked
}

// eventuallyExists waits until every master has the key.
func (s *setup) eventuallyExists(t testing.TB, key string) {
	t.Helper()
	for _, client := range s.inside {
		require.Eventually(t, func() bool { return client.Exists(t.Context(), key).Val() == 1 }, soon, time.Millisecond)
	}
}

// refused requires that another writer cannot lock the room.
func refused(t testing.TB, s *setup, room string) {
	t.Helper()
	_, err := s.locker(t, lock.Options{Wait: 30 * time.Millisecond}).Lock(t.Context(), room)
	require.ErrorIs(t, err, lock.ErrTaken)
}

func mustLock(t testing.TB, locker *lock.Locker, room string) *lock.Lock {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), soon)
	t.Cleanup(cancel)
	x, err := locker.Lock(ctx, room)
	require.NoError(t, err)
	return x
}

func rlock(t testing.TB, locker *lock.Locker, room string) *lock.Lease {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), soon)
	t.Cleanup(cancel)
	lease, err := locker.RLock(ctx, room)
	require.NoError(t, err)
	return lease
}

func unlock(t testing.TB, x *lock.Lock) {
	t.Helper()
	require.NoError(t, x.Unlock(t.Context()))
}

// lost waits until the context ends and requires that it does so because the
// lock or lease was lost.
func lost(t testing.TB, ctx context.Context) {
	t.Helper()
	select {
	case <-ctx.Done():
		require.ErrorIs(t, context.Cause(ctx), lock.ErrLockLost)
	case <-time.After(soon):
		t.Fatal("the lock is not lost")
	}
}

func receive[T any](t testing.TB, from <-chan T) T {
	t.Helper()
	select {
	case value := <-from:
		return value
	case <-time.After(soon):
		t.Fatal("nothing was received")
		panic("not reached")
	}
}

// still requires that nothing is received for a few polls.
func still[T any](t testing.TB, from <-chan T) {
	t.Helper()
	select {
	case <-from:
		t.Fatal("received too early")
	case <-time.After(60 * time.Millisecond):
	}
}

// inBackground runs work, which must succeed before the test ends.
func inBackground(t testing.TB, work func() error) {
	var group errgroup.Group
	group.Go(work)
	t.Cleanup(func() { assert.NoError(t, group.Wait()) })
}

func newRoom() string { return "!" + rand.Text() + ":example.org" }

// fences creates fence tokens in memory. The zero value is ready to use.
type fences struct {
	mu     sync.Mutex
	newest map[string]int64
}

func (f *fences) NextFence(_ context.Context, room string) (int64, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.newest == nil {
		f.newest = map[string]int64{}
	}
	f.newest[room]++
	return f.newest[room], nil
}

type fencerFunc func(ctx context.Context, room string) (int64, error)

func (f fencerFunc) NextFence(ctx context.Context, room string) (int64, error) { return f(ctx, room) }
