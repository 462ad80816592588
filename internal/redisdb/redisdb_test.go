package redisdb_test

import (
	"context"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/hibiken/asynq"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"lethe/internal/devstack"
	"lethe/internal/devstack/devstacktest"
	"lethe/internal/redisdb"
)

func TestMain(m *testing.M) { devstacktest.Main(m) }

func TestKeysOfOneRoomShareASlotAndNoTwoThingsAKey(t *testing.T) {
	t.Parallel()
	seen := map[string]bool{}
	names := redisdb.NamesOf("0123456789ab")
	for _, room := range []string{"", "{", "}", "{}", "!a:b", "!a:b}", "!a}b:c", "!{a}:c", "!}", "!{", "!", "!a:b}:w", "!a:b}:r"} {
		tags := map[string]bool{}
		for _, key := range []string{names.RoomWriteLock(room), names.RoomReadLeases(room), names.RoomRefusedReaders(room), names.RoomWakeUp(room)} {
			assert.True(t, strings.HasPrefix(key, "lethe:0123456789ab:"), key)
			assert.False(t, seen[key], key)
			seen[key] = true
			tags[hashTag(key)] = true
		}
		assert.Len(t, tags, 1, room)
		assert.NotContains(t, tags, "", room)
	}
	others := redisdb.NamesOf("ba9876543210")
	for _, pair := range [][2]string{
		{names.RoomWriteLock("!a:b"), others.RoomWriteLock("!a:b")},
		{names.JobStatus("a"), others.JobStatus("a")},
		{names.KindRows("k"), others.KindRows("k")},
		{names.RetentionRows(), others.RetentionRows()},
		{names.Queue("q"), others.Queue("q")},
	} {
		assert.NotEqual(t, pair[0], pair[1])
	}
	assert.Equal(t, "abc", hashTag(names.JobStatus("abc")))
}

// hashTag returns the part of a key that decides the Cluster slot: the text between
// the first opening brace and the next closing one.
func hashTag(key string) string {
	_, rest, _ := strings.Cut(key, "{")
	tag, _, _ := strings.Cut(rest, "}")
	return tag
}

func TestValidURL(t *testing.T) {
	t.Parallel()
	for _, url := range []string{
		"redis://host:6379/0", "rediss://user:secret@host:6379/3", "redis://host",
		"redis-cluster://host", "redis-cluster://user:secret@host:1,[::1]:2,c/", "redis-cluster://:a%40b@host:1,b/0?read_timeout=1s",
		"redis-sentinel://:secret@host:1,b:2?master=m", "redis-sentinel://user:secret@host,b/3?master=m&username=u&password=p",
	} {
		assert.NoError(t, redisdb.ValidURL(url), url)
	}
	for _, url := range []string{
		"", "host:6379", "http://host", "redis://user:secret@host:port/0", "redis://user:secret@host:1/zero",
		"redis://user:secret@ho st", "redis://user:secret@host:1/0?db=x", "redis://user:secret@host:1/0?what=1", "redis://user:se%cret@host:1",
		"redis://user:1/secret@host/0", "redis-cluster://user:1/secret@host,b", "redis-sentinel://user:1#secret@host?master=m",
		"redis-cluster://", "redis-cluster://host,", "redis-cluster://host/1", "redis-cluster://host:secret,b", "redis-cluster://host?what=1",
		"redis-cluster://user:se%cret@host", "redis-sentinel://host", "redis-sentinel://host/zero?master=m", "redis-sentinel://ho st?master=m",
	} {
		err := redisdb.ValidURL(url)
		assert.Error(t, err, url)
		assert.NotContains(t, err.Error(), "secret")
		_, err = redisdb.Open(url)
		assert.Error(t, err, url)
		_, err = redisdb.OpenForLocks(url)
		assert.Error(t, err, url)
	}
}

func TestOpenByScheme(t *testing.T) {
	t.Parallel()
	for _, opener := range []opener{redisdb.Open, redisdb.OpenForLocks} {
		single := open(t, opener, "redis://user:secret@host/3").(*redis.Client).Options()
		require.Equal(t, "host:6379", single.Addr)
		require.Equal(t, 3, single.DB)
		cluster := open(t, opener, "redis-cluster://user:se%2Ccret@a:1,[::1],c:3").(*redis.ClusterClient).Options()
		require.Equal(t, []string{"a:1", "[::1]:6379", "c:3"}, cluster.Addrs)
		require.Equal(t, "user se,cret", cluster.Username+" "+cluster.Password)
		require.True(t, cluster.ContextTimeoutEnabled)
		sentinel := open(t, opener, "redis-sentinel://user:secret@a:1,b/3?master=m").(*redis.Client).Options()
		require.Equal(t, "user secret", sentinel.Username+" "+sentinel.Password)
		require.Equal(t, 3, sentinel.DB)
		require.True(t, sentinel.ContextTimeoutEnabled)
		sentinel = open(t, opener, "redis-sentinel://:of-sentinel@a?master=m&username=user&password=secret").(*redis.Client).Options()
		require.Equal(t, "user secret", sentinel.Username+" "+sentinel.Password)
	}
}

func TestCheckPolicy(t *testing.T) {
	t.Parallel()
	client := open(t, redisdb.Open, devstacktest.Redis(t).URL())
	require.NoError(t, redisdb.CheckPolicy(t.Context(), client))
	require.NoError(t, client.ConfigSet(t.Context(), "maxmemory-policy", "allkeys-lru").Err())
	err := redisdb.CheckPolicy(t.Context(), client)
	require.ErrorIs(t, err, redisdb.ErrEviction)
	require.ErrorContains(t, err, "allkeys-lru")
}

func TestCheckQuorum(t *testing.T) {
	t.Parallel()
	var masters []redis.UniversalClient
	var servers []*devstack.Redis
	for range 3 {
		server := devstacktest.Redis(t)
		servers = append(servers, server)
		masters = append(masters, open(t, redisdb.OpenForLocks, server.URL()))
	}
	require.NoError(t, redisdb.CheckQuorum(t.Context(), masters))
	require.NoError(t, servers[0].Pause())
	require.NoError(t, redisdb.CheckQuorum(t.Context(), masters), "one may be down")
	require.NoError(t, masters[1].ConfigSet(t.Context(), "maxmemory-policy", "allkeys-lru").Err())
	require.ErrorIs(t, redisdb.CheckQuorum(t.Context(), masters), redisdb.ErrEviction)
	servers[1].Kill()
	err := redisdb.CheckQuorum(t.Context(), masters)
	require.ErrorContains(t, err, "2 of 3 Redis masters are out of reach")
	require.NotErrorIs(t, err, redisdb.ErrEviction)
	require.Error(t, redisdb.CheckQuorum(t.Context(), masters[1:2]), "the only one")
}

func TestCluster(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	cluster := devstacktest.RedisCluster(t)
	client := open(t, redisdb.Open, cluster.URL())

	// asynq, as package tasks uses it.
	tasks := asynq.NewClientFromRedisClient(client)
	queues := []string{"critical", "default", "low"}
	for _, queue := range queues {
		_, err := tasks.Enqueue(asynq.NewTask("test", nil), asynq.Queue(queue))
		require.NoError(t, err)
	}
	require.NoError(t, client.SAdd(ctx, "asynq:queues", "critical", "default", "low").Err())
	inspector := asynq.NewInspectorFromRedisClient(client)
	for _, queue := range queues {
		info, err := inspector.GetQueueInfo(queue)
		require.NoError(t, err)
		require.Equal(t, 1, info.Pending)
	}

	// Each node is asked for its policy.
	require.NoError(t, redisdb.CheckPolicy(ctx, client))
	for _, node := range cluster.Nodes {
		one := open(t, redisdb.Open, node.URL())
		require.NoError(t, one.ConfigSet(ctx, "maxmemory-policy", "volatile-lru").Err())
		require.ErrorIs(t, redisdb.CheckPolicy(ctx, client), redisdb.ErrEviction)
		require.NoError(t, one.ConfigSet(ctx, "maxmemory-policy", "noeviction").Err())
	}
}

func TestDeadlineReachesTheSocket(t *testing.T) {
	t.Parallel()
	server := devstacktest.Redis(t)
	for _, opener := range []opener{redisdb.Open, redisdb.OpenForLocks} {
		client := open(t, opener, server.URL())
		require.NoError(t, client.Ping(t.Context()).Err())
		require.NoError(t, server.Pause())
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		started := time.Now()
		require.Error(t, client.Ping(ctx).Err())
		cancel()
		require.Less(t, time.Since(started), 2*time.Second)
		require.NoError(t, server.Resume())
	}
}

func TestLocksAreNotRetriedInTheClient(t *testing.T) {
	t.Parallel()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	require.NoError(t, listener.Close()) // refuses from now on
	client := open(t, redisdb.OpenForLocks, "redis://"+listener.Addr().String())
	started := time.Now()
	require.Error(t, client.Ping(t.Context()).Err())
	require.Less(t, time.Since(started), 90*time.Millisecond, "the client waits 100 ms before it dials again")
}

type opener = func(string) (redis.UniversalClient, error)

func open(t *testing.T, opener opener, url string) redis.UniversalClient {
	t.Helper()
	client, err := opener(url)
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, client.Close()) })
	return client
}
