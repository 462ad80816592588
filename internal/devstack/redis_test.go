package devstack_test

import (
	"context"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"lethe/internal/devstack"
	"lethe/internal/devstack/devstacktest"
)

func TestRedisLosesItsDataUnlessAppendOnly(t *testing.T) {
	t.Parallel()
	for name, aof := range map[string]bool{"lost": false, "kept": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ctx := testContext(t)
			server, err := devstack.StartRedis(ctx, devstack.RedisOptions{AOF: aof})
			require.NoError(t, err)
			defer server.Close()
			url := server.URL()
			client := redisClient(t, server)
			require.NoError(t, client.Set(ctx, "key", "value", 0).Err())

			server.Kill()
			server.Kill() // a second time
			require.Error(t, client.Ping(ctx).Err())
			require.Error(t, server.Pause(), "it is not running")
			require.NoError(t, server.Restart(ctx))
			require.Equal(t, url, server.URL())

			value, err := redisClient(t, server).Get(ctx, "key").Result()
			if aof {
				require.NoError(t, err)
				require.Equal(t, "value", value)
			} else {
				require.ErrorIs(t, err, redis.Nil)
			}

			require.NoError(t, server.Close())
			require.NoError(t, server.Close(), "a second time")
			require.Error(t, server.Restart(ctx), "a closed server stays closed")
		})
	}
}

func TestRedisAnswersNothingWhilePaused(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	server := devstacktest.Redis(t)
	client := redisClient(t, server)
	require.NoError(t, client.Ping(ctx).Err())

	require.NoError(t, server.Pause())
	impatient, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
	defer cancel()
	require.Error(t, client.Ping(impatient).Err())
	require.NoError(t, server.Resume())
	require.NoError(t, client.Ping(ctx).Err())

	require.NoError(t, server.Pause())
	require.NoError(t, server.Close(), "a paused server can be closed")
}

func TestRedisEvictsNothing(t *testing.T) {
	t.Parallel()
	policy, err := redisClient(t, devstacktest.Redis(t)).ConfigGet(testContext(t), "maxmemory-policy").Result()
	require.NoError(t, err)
	require.Equal(t, map[string]string{"maxmemory-policy": "noeviction"}, policy)
}
