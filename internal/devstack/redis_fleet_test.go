package devstack_test

import (
	"testing"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"lethe/internal/devstack/devstacktest"
	"lethe/internal/redisdb"
)

func TestRedisCluster(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	cluster := devstacktest.RedisCluster(t)
	client := openRedis(t, cluster.URL())
	keys := []string{"a", "b", "c", "d", "e", "f"} // on all three nodes
	for _, key := range keys {
		require.NoError(t, client.Set(ctx, key, "value", 0).Err())
	}
	cluster.Kill()
	require.Error(t, client.Get(ctx, "a").Err())
	require.NoError(t, cluster.Restart(ctx))
	for _, key := range keys {
		require.ErrorIs(t, client.Get(ctx, key).Err(), redis.Nil)
	}
	require.NoError(t, cluster.Pause())
	require.NoError(t, cluster.Resume())
	require.NoError(t, cluster.Close())
	require.NoError(t, cluster.Close(), "a second time")
}

func TestRedisSentinelFailsOver(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	sentinel := devstacktest.RedisSentinel(t)
	client := openRedis(t, sentinel.URL())
	require.NoError(t, client.Set(ctx, "key", "value", 0).Err())
	require.NoError(t, client.Do(ctx, "WAIT", 1, 0).Err())
	sentinel.Master.Kill()
	require.EventuallyWithT(t, func(t *assert.CollectT) {
		assert.NoError(t, client.Set(ctx, "key2", "value", 0).Err())
	}, timeout, timeout/1000)
	require.Equal(t, "value", client.Get(ctx, "key").Val())
	require.NoError(t, sentinel.Close())
	require.NoError(t, sentinel.Close(), "a second time")
}

func openRedis(t *testing.T, url string) redis.UniversalClient {
	client, err := redisdb.Open(url)
	require.NoError(t, err)
	t.Cleanup(func() { _ = client.Close() })
	return client
}
