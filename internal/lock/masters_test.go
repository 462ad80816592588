package lock_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"lethe/internal/devstack/devstacktest"
	"lethe/internal/lock"
	"lethe/internal/redisdb"
)

func TestLocksOutliveAMaster(t *testing.T) {
	t.Parallel()
	s, room := threeMasters(t), newRoom()
	x, lease := mustLock(t, s.locker(t, short), room), rlock(t, s.locker(t, short), newRoom())
	s.servers[1].Kill()
	_, err := s.locker(t, lock.Options{Wait: 3 * short.Lease}).Lock(t.Context(), room)
	require.ErrorIs(t, err, lock.ErrTaken)
	require.NoError(t, x.Context().Err())
	require.NoError(t, lease.Context().Err())
	require.NoError(t, lease.Release(t.Context()))
	unlock(t, x)
	x = mustLock(t, s.locker(t, short), room)

	s.servers[2].Kill()
	lost(t, x.Context())
	_, err = s.locker(t, lock.Options{}).RLock(t.Context(), room)
	require.ErrorIs(t, err, lock.ErrUnavailable)
}

func TestAMinorityDecidesNothing(t *testing.T) {
	t.Parallel()
	s, room := threeMasters(t), newRoom()
	ctx, key := t.Context(), names.RoomWriteLock(room)

	// A failed writer may leave its value on one master.
	require.NoError(t, s.inside[0].Set(ctx, key, "another", 0).Err())
	require.NoError(t, rlock(t, s.locker(t, lock.Options{}), room).Release(ctx))
	unlock(t, mustLock(t, s.locker(t, lock.Options{}), room))
	require.Equal(t, "another", s.inside[0].Get(ctx, key).Val())

	// On two masters it blocks others, and the lock on the third is undone.
	require.NoError(t, s.inside[1].Set(ctx, key, "another", 0).Err())
	refused(t, s, room)
	_, err := s.locker(t, lock.Options{Wait: short.KeepAlive}).RLock(ctx, room)
	require.ErrorIs(t, err, lock.ErrTaken)
	s.servers, s.inside = s.servers[2:], s.inside[2:]
	s.gone(t, key, names.RoomReadLeases(room), names.RoomRefusedReaders(room))
}

func TestLeaseOfAMinorityDoesNotBlockWriters(t *testing.T) {
	t.Parallel()
	s, room := threeMasters(t), newRoom()
	lease := rlock(t, s.locker(t, lock.Options{}), room)
	s.eventuallyExists(t, names.RoomReadLeases(room))
	for _, client := range s.inside[:2] {
		require.NoError(t, client.Del(t.Context(), names.RoomReadLeases(room)).Err())
	}
	unlock(t, mustLock(t, s.locker(t, lock.Options{}), room))
	require.ErrorIs(t, lease.Release(t.Context()), lock.ErrLockLost)
}

func TestSentinelFailsOver(t *testing.T) {
	t.Parallel()
	servers := devstacktest.RedisSentinel(t)
	client, err := redisdb.OpenForLocks(servers.URL())
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, client.Close()) })
	locker := lock.New(client, &fences{}, lock.Options{})
	room := newRoom()
	unlock(t, mustLock(t, locker, room))
	require.NoError(t, rlock(t, locker, room).Release(t.Context()))
	servers.Master.Kill()
	_, err = locker.RLock(t.Context(), room)
	require.ErrorIs(t, err, lock.ErrUnavailable)
	unlock(t, mustLock(t, locker, room)) // waits for the new master
	require.NoError(t, rlock(t, locker, room).Release(t.Context()))
}

func TestALockerNeedsARedis(t *testing.T) {
	t.Parallel()
	require.Panics(t, func() { lock.NewQuorum(nil, nil, lock.Options{}) })
}
