package lock_test

import (
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"lethe/internal/devstack/devstacktest"
	"lethe/internal/lock"
	"lethe/internal/redisdb"
)

// A room id is whatever another server has sent. In a Cluster all keys of a command must
// have one slot.
func TestAnyRoomIDHasOneSlot(t *testing.T) {
	t.Parallel()
	s := newSetup(t, devstacktest.RedisCluster(t))
	locker := s.locker(t, lock.Options{Names: redisdb.NamesOf("0123456789ab")})
	for _, room := range []string{"", "{", "}", "{}", "{}!a:b", "!{}:b", "!a}{b:c", "!a:b"} {
		require.NoError(t, rlock(t, locker, room).Release(t.Context()))
		unlock(t, mustLock(t, locker, room))
	}
}

// Two deployments neither share locks nor leases.
func TestDeploymentsDoNotMeet(t *testing.T) {
	t.Parallel()
	s := newSetup(t, devstacktest.Redis(t))
	room := newRoom()
	one := s.locker(t, lock.Options{Names: redisdb.NamesOf("0123456789ab")})
	other := s.locker(t, lock.Options{Names: redisdb.NamesOf("ba9876543210"), Wait: time.Second})
	held := mustLock(t, one, room)
	unlock(t, mustLock(t, other, room))
	lease := rlock(t, other, room)
	unlock(t, held)
	unlock(t, mustLock(t, one, room))
	_, err := other.Lock(t.Context(), room)
	require.ErrorIs(t, err, lock.ErrTaken, "its own lease counts")
	require.NoError(t, lease.Release(t.Context()))
}

// A Redis that refuses a command works: it is not down, and other rooms have their locks.
func TestARefusedCommandIsNoOutage(t *testing.T) {
	t.Parallel()
	for name, masters := range map[string]int{"one Redis": 1, "three masters": 3} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSetup(t, devstacktest.Redis(t))
			if masters == 3 {
				s = threeMasters(t)
			}
			room, another := newRoom(), newRoom()
			for _, client := range s.inside {
				require.NoError(t, client.Set(t.Context(), names.RoomReadLeases(room), "of another type", 0).Err())
			}
			locker := s.locker(t, lock.Options{})
			begun := time.Now()
			_, err := locker.Lock(t.Context(), room)
			require.ErrorIs(t, err, lock.ErrRefused)
			require.NotErrorIs(t, err, lock.ErrUnavailable)
			require.ErrorContains(t, err, "WRONGTYPE")
			_, err = locker.RLock(t.Context(), room)
			require.ErrorIs(t, err, lock.ErrRefused)
			require.NotErrorIs(t, err, lock.ErrUnavailable)
			require.Less(t, time.Since(begun), 30*time.Second, "it must not wait for what does not change")

			without := 0
			r := lock.NewReaders(locker, lock.ReadersOptions{WithoutLease: func() { without++ }})
			defer r.Close()
			leave, err := r.Enter(t.Context(), room)
			require.NoError(t, err)
			leave()
			require.Equal(t, 1, without)
			leave, err = r.Enter(t.Context(), another)
			require.NoError(t, err)
			require.Equal(t, 1, without, "another room's reader has its lease")
			leave()
		})
	}
}

// While a master is down that may come back, a refusal of another decides nothing.
func TestARefusalAndAnOutageAreAnOutage(t *testing.T) {
	t.Parallel()
	s := threeMasters(t)
	room := newRoom()
	require.NoError(t, s.inside[0].Set(t.Context(), names.RoomReadLeases(room), "of another type", 0).Err())
	s.servers[1].Kill()
	_, err := s.locker(t, lock.Options{}).RLock(t.Context(), room)
	require.ErrorIs(t, err, lock.ErrUnavailable)
	require.False(t, errors.Is(err, lock.ErrRefused), "%v", err)
}
