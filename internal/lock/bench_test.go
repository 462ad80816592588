package lock_test

import (
	"testing"

	"github.com/go-redsync/redsync/v4"
	"github.com/go-redsync/redsync/v4/redis/goredis/v9"
	"github.com/stretchr/testify/require"

	"lethe/internal/devstack/devstacktest"
	"lethe/internal/lock"
	"lethe/internal/redisdb"
)

// An uncontended Lock and Unlock should cost no more than four times those of
// BenchmarkRedsync.
func BenchmarkLock(b *testing.B) {
	locker := benchLocker(b)
	room := newRoom()
	for b.Loop() {
		x, err := locker.Lock(b.Context(), room)
		require.NoError(b, err)
		require.NoError(b, x.Unlock(b.Context()))
	}
}

func BenchmarkRLock(b *testing.B) {
	locker := benchLocker(b)
	room := newRoom()
	for b.Loop() {
		lease, err := locker.RLock(b.Context(), room)
		require.NoError(b, err)
		require.NoError(b, lease.Release(b.Context()))
	}
}

func BenchmarkRedsync(b *testing.B) {
	client, err := redisdb.OpenForLocks(devstacktest.Redis(b).URL())
	require.NoError(b, err)
	defer client.Close()
	mutex := redsync.New(goredis.NewPool(client)).NewMutex(redisdb.RoomWriteLock(newRoom()))
	for b.Loop() {
		require.NoError(b, mutex.LockContext(b.Context()))
		_, err := mutex.UnlockContext(b.Context())
		require.NoError(b, err)
	}
}

func benchLocker(b *testing.B) *lock.Locker {
	client, err := redisdb.OpenForLocks(devstacktest.Redis(b).URL())
	require.NoError(b, err)
	b.Cleanup(func() { _ = client.Close() })
	return lock.New(client, &fences{}, lock.Options{})
}
