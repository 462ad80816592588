package wait_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"lethe/internal/wait"
)

func TestJitterStaysWithinAQuarter(t *testing.T) {
	t.Parallel()
	var low, high bool
	for range 1000 {
		d := wait.Jitter(time.Second)
		require.InDelta(t, time.Second, d, float64(time.Second)/4)
		low, high = low || d < time.Second, high || d > time.Second
	}
	require.True(t, low && high)
}

func TestForEndsWithItsContext(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		started := time.Now()
		require.NoError(t, wait.For(t.Context(), time.Minute))
		require.Equal(t, time.Minute, time.Since(started))

		why := errors.New("why")
		ctx, cancel := context.WithCancelCause(t.Context())
		time.AfterFunc(time.Second, func() { cancel(why) })
		started = time.Now()
		require.ErrorIs(t, wait.For(ctx, time.Minute), why)
		require.Equal(t, time.Second, time.Since(started))
	})
}

func TestEveryCallsAtEachInterval(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 3500*time.Millisecond)
		defer cancel()
		started := time.Now()
		var calls []time.Duration
		wait.Every(ctx, time.Second, func(context.Context) { calls = append(calls, time.Since(started)) })
		require.Equal(t, []time.Duration{time.Second, 2 * time.Second, 3 * time.Second}, calls)
	})
}

func TestBackoffDoublesUpToItsMaximum(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := wait.Backoff{Min: time.Second, Max: 5 * time.Second}
		waits := func(want ...time.Duration) {
			for _, d := range want {
				started := time.Now()
				require.NoError(t, b.Wait(t.Context()))
				require.InDelta(t, d, time.Since(started), float64(d)/4)
			}
		}
		waits(time.Second, 2*time.Second, 4*time.Second, 5*time.Second, 5*time.Second)
		b.Reset()
		waits(time.Second)
		b = wait.Backoff{Min: time.Second}
		waits(time.Second, time.Second)
	})
}

func TestRetry(t *testing.T) {
	t.Parallel()
	passing, lasting := errors.New("passing"), errors.New("lasting")
	again := func(err error) bool { return errors.Is(err, passing) }
	synctest.Test(t, func(t *testing.T) {
		tries := 0
		failing := func(times int, err error) func() error {
			tries = 0
			return func() error {
				if tries++; tries <= times {
					return err
				}
				return nil
			}
		}
		backoff := wait.Backoff{Min: time.Second}
		require.NoError(t, wait.Retry(t.Context(), backoff, again, failing(3, passing)))
		require.Equal(t, 4, tries)

		require.ErrorIs(t, wait.Retry(t.Context(), backoff, again, failing(3, lasting)), lasting)
		require.Equal(t, 1, tries)

		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		require.ErrorIs(t, wait.Retry(ctx, backoff, again, failing(1000, passing)), passing)
		require.InDelta(t, 10, tries, 4)

		require.ErrorIs(t, wait.Retry(ctx, backoff, again, failing(1000, passing)), passing, "its context has ended")
		require.Equal(t, 1, tries)
	})
}
