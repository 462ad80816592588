package redisdb_test

import (
	"errors"
	"testing"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"lethe/internal/devstack/devstacktest"
	"lethe/internal/redisdb"
)

// A process that does not know its deployment must not use anything of another.
func TestUnboundNamesPanic(t *testing.T) {
	t.Parallel()
	names := new(redisdb.Names)
	require.False(t, names.Bound())
	require.Panics(t, func() { names.Queue("critical") })
	require.Panics(t, func() { names.RoomWriteLock("!a:b") })
	names.Bind("0123456789ab")
	require.True(t, names.Bound())
	require.Equal(t, "lethe:0123456789ab:critical", names.Queue("critical"))
	require.Equal(t, "critical", (*redisdb.Names)(nil).Queue("critical"))
}

func TestIsRefusal(t *testing.T) {
	t.Parallel()
	client, err := redisdb.Open(devstacktest.Redis(t).URL())
	require.NoError(t, err)
	t.Cleanup(func() { _ = client.Close() })
	ctx := t.Context()
	require.NoError(t, client.Set(ctx, "text", "x", 0).Err())
	require.NoError(t, client.Do(ctx, "ACL", "SETUSER", "weak", "on", "nopass", "~allowed", "+@all", "-config").Err())
	weak := client.(*redis.Client).Conn()
	t.Cleanup(func() { _ = weak.Close() })
	require.NoError(t, weak.AuthACL(ctx, "weak", "").Err())
	script := redis.NewScript(`return redis.call("ZCARD", KEYS[1])`)
	for name, err := range map[string]error{
		"another type":              client.ZCard(ctx, "text").Err(),
		"another type, in a script": script.Run(ctx, client, []string{"text"}).Err(),
		"a key that is not allowed": weak.Get(ctx, "text").Err(),
		"a command":                 weak.ConfigGet(ctx, "maxmemory").Err(),
	} {
		require.Error(t, err, name)
		require.True(t, redisdb.IsRefusal(err), "%s: %v", name, err)
	}
	require.NoError(t, client.ConfigSet(ctx, "maxmemory", "1").Err())
	full := client.Set(ctx, "more", "x", 0).Err()
	require.NoError(t, client.ConfigSet(ctx, "maxmemory", "0").Err())
	require.NoError(t, client.ConfigSet(ctx, "min-replicas-to-write", "1").Err())
	alone := client.Set(ctx, "more", "x", 0).Err()
	down, err := redisdb.OpenForLocks("redis://127.0.0.1:1")
	require.NoError(t, err)
	t.Cleanup(func() { _ = down.Close() })
	for name, err := range map[string]error{
		"no memory": full, "no replica": alone, "no server": down.Ping(ctx).Err(),
		"no key": redis.Nil, "no reply": errors.New("WRONGTYPE"), "nil": nil,
	} {
		require.False(t, redisdb.IsRefusal(err), "%s: %v", name, err)
	}
	require.ErrorContains(t, full, "OOM")
	require.ErrorContains(t, alone, "NOREPLICAS")
}
