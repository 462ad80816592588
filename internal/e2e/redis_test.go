package e2e

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"lethe/internal/devstack"
	"lethe/internal/devstack/devstacktest"
	"lethe/internal/redisdb"
)

// on makes the fleet use another Redis, from its api on.
func (f *fleet) on(url string, env ...string) {
	f.t.Helper()
	f.api.kill()
	f.env = append(f.env, append(env, "LETHE_REDIS_URL="+url)...)
	f.api = f.start("api")
}

func TestPurgeOnARedisCluster(t *testing.T) {
	t.Parallel()
	f, purge := longDemo(t)
	cluster := devstacktest.RedisCluster(t)
	f.on(cluster.URL())
	f.start("scheduler")
	worker := f.start("worker", slowly)
	id := f.underway(purge)
	// What the reconciler knows of asynq, it must find on a Cluster too.
	worker.kill()
	f.start("worker", slowly)
	f.await(3*time.Minute, id)
	require.Zero(t, f.left())
}

func TestPurgeThroughRedisSentinel(t *testing.T) {
	t.Parallel()
	f, purge := demo(t, 200)
	f.on(devstacktest.RedisSentinel(t).URL())
	f.start("scheduler")
	f.start("worker")
	f.await(3*time.Minute, f.purge(large, purge))
	require.Zero(t, f.left())
}

// TestPurgeLockedByQuorum loses one of three masters of the locks on its way.
func TestPurgeLockedByQuorum(t *testing.T) {
	t.Parallel()
	f, purge := longDemo(t)
	masters := []*devstack.Redis{devstacktest.Redis(t), devstacktest.Redis(t), devstacktest.Redis(t)}
	var urls []string
	for _, master := range masters {
		urls = append(urls, master.URL())
	}
	f.on(f.redis.URL(), "LETHE_LOCK_REDIS_URLS="+strings.Join(urls, ","))
	f.start("scheduler")
	f.start("worker", slowly)
	id := f.underway(purge)
	client, err := redisdb.Open(f.redis.URL())
	require.NoError(t, err)
	defer func() { _ = client.Close() }()
	keys, err := client.Keys(t.Context(), "*lock:*").Result()
	require.NoError(t, err)
	require.Empty(t, keys, "the locks are not on the masters")
	masters[0].Kill()
	f.await(3*time.Minute, id)
	require.Zero(t, f.left())
}
