package redisdb_test

import (
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"lethe/internal/devstack"
	"lethe/internal/devstack/devstacktest"
	"lethe/internal/redisdb"
)

func TestTLSByScheme(t *testing.T) {
	t.Parallel()
	authority := devstacktest.NewAuthority(t)
	cert, key := authority.Certificate(t, "client")
	folder := t.TempDir()
	file := func(name string, text []byte) string {
		path := filepath.Join(folder, name)
		require.NoError(t, os.WriteFile(path, text, 0o600))
		return path
	}
	files := "ca_file=" + file("a ca", authority.PEM) + "&cert_file=" + file("cert", cert) + "&key_file=" + file("key", key)
	files = strings.ReplaceAll(files, " ", "%20")

	single := open(t, redisdb.Open, "rediss://user:secret@host/3?dial_timeout=1s&"+files).(*redis.Client).Options()
	cluster := open(t, redisdb.Open, "rediss-cluster://user:secret@a,b?"+files).(*redis.ClusterClient).Options()
	sentinel := open(t, redisdb.Open, "rediss-sentinel://user:secret@a,b/3?master=m&"+files).(*redis.Client).Options()
	require.Equal(t, 3, single.DB)
	require.EqualValues(t, 1e9, single.DialTimeout)
	require.Equal(t, []string{"a:6379", "b:6379"}, cluster.Addrs)
	require.Equal(t, 3, sentinel.DB)
	for _, config := range []any{single.TLSConfig, cluster.TLSConfig, sentinel.TLSConfig} {
		require.NotNil(t, config)
	}
	require.NotNil(t, single.TLSConfig.RootCAs)
	require.NotNil(t, single.TLSConfig.GetClientCertificate)
	require.False(t, single.TLSConfig.InsecureSkipVerify)
	require.Empty(t, cluster.TLSConfig.ServerName, "the first node's name must not be expected of all")
	require.Nil(t, open(t, redisdb.Open, "redis-cluster://a").(*redis.ClusterClient).Options().TLSConfig)

	for raw, want := range map[string]string{
		"redis://u:secret@h?ca_file=/x":           "are for rediss://",
		"redis-cluster://u:secret@h?cert_file=/x": "are for rediss://",
		"rediss://u:secret@h?cert_file=/x":        "cert_file and key_file go together",
		"redisss://u:secret@h":                    "a Redis URL is",
		"rediss-other://u:secret@h":               "a Redis URL is",
	} {
		err := redisdb.ValidURL(raw)
		assert.ErrorContains(t, err, want, raw)
		assert.NotContains(t, err.Error(), "secret")
	}
	for raw, want := range map[string]string{
		"rediss://u:secret@h?ca_file=/nowhere":                                                   "read the ca_file of the Redis URL: open /nowhere: no such file or directory",
		"rediss://u:secret@h?ca_file=" + folder + "/key":                                         "the ca_file of the Redis URL contains no PEM certificate",
		"rediss://u:secret@h?cert_file=/nowhere&key_file=/nowhere":                               "read the cert_file and key_file of the Redis URL: open /nowhere",
		"rediss-cluster://u:secret@h?cert_file=" + folder + "/cert&key_file=" + folder + "/cert": "read the cert_file and key_file of the Redis URL",
	} {
		require.NoError(t, redisdb.ValidURL(raw), "the URL itself is valid")
		_, err := redisdb.Open(raw)
		assert.ErrorContains(t, err, want, raw)
		assert.NotContains(t, err.Error(), "secret")
	}
}

func TestRedisCertificateIsVerified(t *testing.T) {
	t.Parallel()
	authority := devstacktest.NewAuthority(t)
	cert, key := authority.Certificate(t, "localhost")
	server, err := devstack.StartRedis(t.Context(), devstack.RedisOptions{Guard: &devstack.Guard{
		Authority: authority.PEM, Certificate: cert, Key: key, Password: "se/cret@1",
	}})
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, server.Close()) })
	good := server.URL()
	require.NoError(t, open(t, redisdb.Open, good).Ping(t.Context()).Err())
	require.NoError(t, redisdb.CheckPolicy(t.Context(), open(t, redisdb.OpenForLocks, good)))

	u, err := url.Parse(good)
	require.NoError(t, err)
	other := filepath.Join(t.TempDir(), "ca")
	require.NoError(t, os.WriteFile(other, devstacktest.NewAuthority(t).PEM, 0o600))
	for raw, want := range map[string]string{
		"rediss://:se%2Fcret%401@" + u.Host + "/0":                           "certificate signed by unknown authority",
		"rediss://:se%2Fcret%401@" + u.Host + "/0?ca_file=" + other:          "certificate signed by unknown authority",
		"rediss://:se%2Fcret%401@127.0.0.1:" + u.Port() + "/0?" + u.RawQuery: "cannot validate certificate for 127.0.0.1",
		"rediss://:se%2Fcret%402@" + u.Host + "/0?" + u.RawQuery:             "WRONGPASS",
		"rediss://" + u.Host + "/0?" + u.RawQuery:                            "NOAUTH",
	} {
		err := open(t, redisdb.Open, raw).Ping(t.Context()).Err()
		require.ErrorContains(t, err, want)
		require.NotContains(t, err.Error(), "cret")
	}
	require.Error(t, open(t, redisdb.Open, "redis://:se%2Fcret%401@"+u.Host).Ping(t.Context()).Err(), "it is let in without TLS")
}
