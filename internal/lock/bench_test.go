package lock_test

import (
	"slices"
	"testing"
	"time"

	"github.com/go-redsync/redsync/v4"
	redsyncredis "github.com/go-redsync/redsync/v4/redis"
	"github.com/go-redsync/redsync/v4/redis/goredis/v9"
	"github.com/stretchr/testify/require"

	"lethe/internal/devstack/devstacktest"
	"lethe/internal/lock"
)

// An uncontended Lock and Unlock should take at most four times as long as
// BenchmarkRedsync with the same number of masters.
func BenchmarkLock(b *testing.B) {
	onMasters(b, func(b *testing.B, s *setup) {
		locker, room := s.locker(b, lock.Options{}), newRoom()
		for b.Loop() {
			x, err := locker.Lock(b.Context(), room)
			require.NoError(b, err)
			require.NoError(b, x.Unlock(b.Context()))
		}
	})
}

func BenchmarkRedsync(b *testing.B) {
	onMasters(b, func(b *testing.B, s *setup) {
		var pools []redsyncredis.Pool
		for _, client := range s.open(b) {
			pools = append(pools, goredis.NewPool(client))
		}
		mutex := redsync.New(pools...).NewMutex(names.RoomWriteLock(newRoom()))
		for b.Loop() {
			require.NoError(b, mutex.LockContext(b.Context()))
			_, err := mutex.UnlockContext(b.Context())
			require.NoError(b, err)
		}
	})
}

// RLock and Release on one master should take at most 1.5 times as long as
// BenchmarkScripts.
func BenchmarkRLock(b *testing.B) {
	onMasters(b, func(b *testing.B, s *setup) {
		locker, room := s.locker(b, lock.Options{}), newRoom()
		for b.Loop() {
			lease, err := locker.RLock(b.Context(), room)
			require.NoError(b, err)
			require.NoError(b, lease.Release(b.Context()))
		}
	})
}

func BenchmarkScripts(b *testing.B) {
	client, room := newSetup(b, devstacktest.Redis(b)).open(b)[0], newRoom()
	keys := []string{names.RoomWriteLock(room), names.RoomReadLeases(room), names.RoomRefusedReaders(room)}
	wake := names.RoomWakeUp(room)
	for b.Loop() {
		require.NoError(b, lock.ScriptAcquire.Run(b.Context(), client, keys, "id", 10_000, "mark", 1000, wake).Err())
		require.NoError(b, lock.ScriptRelease.Run(b.Context(), client, keys, "id", wake, "mark").Err())
	}
}

// BenchmarkHandOver measures the time from one writer's Unlock to the return of a waiting
// writer's Lock.
func BenchmarkHandOver(b *testing.B) {
	onMasters(b, func(b *testing.B, s *setup) {
		one, other, room := s.locker(b, lock.Options{}), s.locker(b, lock.Options{}), newRoom()
		var times []time.Duration
		for b.Loop() {
			x, err := one.Lock(b.Context(), room)
			require.NoError(b, err)
			entered := make(chan time.Time)
			go func() {
				x, err := other.Lock(b.Context(), room)
				at := time.Now()
				if err == nil {
					err = x.Unlock(b.Context())
				}
				if err != nil {
					b.Error(err)
				}
				entered <- at
			}()
			<-time.After(100 * time.Millisecond) // a batch
			left := time.Now()
			require.NoError(b, x.Unlock(b.Context()))
			times = append(times, (<-entered).Sub(left))
		}
		slices.Sort(times)
		b.ReportMetric(float64(times[len(times)/2])/1e6, "p50-ms")
		b.ReportMetric(float64(times[len(times)*99/100])/1e6, "p99-ms")
	})
}

func onMasters(b *testing.B, bench func(*testing.B, *setup)) {
	b.Run("masters=1", func(b *testing.B) { bench(b, newSetup(b, devstacktest.Redis(b))) })
	b.Run("masters=3", func(b *testing.B) { bench(b, threeMasters(b)) })
}
