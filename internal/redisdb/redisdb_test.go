package redisdb_test

import (
	"context"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"lethe/internal/devstack/devstacktest"
	"lethe/internal/redisdb"
)

func TestMain(m *testing.M) { devstacktest.Main(m) }

func TestKeysOfOneRoomShareASlotAndNoTwoThingsAKey(t *testing.T) {
	t.Parallel()
	seen := map[string]bool{}
	for _, room := range []string{"!a:b", "!a:b}", "!a}b:c", "!{a}:c", "!}", "!{", "!", "!a:b}:w", "!a:b}:r"} {
		tags := map[string]bool{}
		for _, key := range []string{redisdb.RoomWriteLock(room), redisdb.RoomReadLeases(room), redisdb.RoomRefusedReader(room)} {
			assert.True(t, strings.HasPrefix(key, "lethe:"), key)
			assert.False(t, seen[key], key)
			seen[key] = true
			tags[hashTag(key)] = true
		}
		assert.Len(t, tags, 1, room)
		assert.NotContains(t, tags, "", room)
	}
	assert.Equal(t, "abc", hashTag(redisdb.JobStatus("abc")))
}

// hashTag is what decides the Cluster slot: what stands between the first brace
// that opens and the first after it that closes.
func hashTag(key string) string {
	_, rest, _ := strings.Cut(key, "{")
	tag, _, _ := strings.Cut(rest, "}")
	return tag
}

func TestValidURL(t *testing.T) {
	t.Parallel()
	for _, url := range []string{"redis://host:6379/0", "rediss://user:secret@host:6379/3", "redis://host"} {
		assert.NoError(t, redisdb.ValidURL(url), url)
	}
	for _, url := range []string{
		"", "host:6379", "http://host", "redis://user:secret@host:port/0", "redis://user:secret@host:1/zero",
		"redis://user:secret@ho st", "redis://user:secret@host:1/0?db=x", "redis://user:secret@host:1/0?what=1", "redis://user:se%cret@host:1",
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

func TestCheckPolicy(t *testing.T) {
	t.Parallel()
	client := open(t, redisdb.Open, devstacktest.Redis(t).URL())
	require.NoError(t, redisdb.CheckPolicy(t.Context(), client))
	require.NoError(t, client.ConfigSet(t.Context(), "maxmemory-policy", "allkeys-lru").Err())
	err := redisdb.CheckPolicy(t.Context(), client)
	require.ErrorIs(t, err, redisdb.ErrEviction)
	require.ErrorContains(t, err, "allkeys-lru")
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
