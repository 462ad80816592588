package config

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// What is no boolean or no text in Synapse's section redis is not guessed at.
func TestSynapsesRedisOfWrongTypes(t *testing.T) {
	t.Parallel()
	load := func(redis string) (Config, error) {
		return Load([]string{
			"LETHE_DATABASE_URL=" + databaseURL, "LETHE_REDIS_URL=" + redisURL,
			"LETHE_HOMESERVER_CONFIG_FILE=" + homeserverYAML(t, "server_name: x\nredis: "+redis+"\n"),
		}, ForWorker)
	}
	for redis, want := range map[string]string{
		`{}`:                                  "",
		`{enabled: null, host: h}`:            "",
		`{enabled: off, host: [h]}`:           "",
		`{enabled: "true", host: h}`:          "redis://h:6379/0",
		`{enabled: on, host: "::1"}`:          "redis://[::1]:6379/0",
		`{enabled: yes, password: "@/?#% ä"}`: "redis://:%40%2F%3F%23%25%20%C3%A4@localhost:6379/0",
	} {
		config, err := load(redis)
		require.NoError(t, err, redis)
		require.Equal(t, want, string(config.Homeserver.RedisURL), redis)
	}
	for redis, want := range map[string]string{
		`{enabled: "false"}`:                      "redis.enabled: must be true or false",
		`{enabled: 1}`:                            "redis.enabled: must be true or false",
		`{enabled: [true]}`:                       "redis.enabled: must be true or false",
		`{enabled: true, host: [hunter2]}`:        "redis.host: ",
		`{enabled: true, password: {hunter2: 1}}`: "redis.password: ",
		`{enabled: true, port: hunter2}`:          "redis: a Redis URL is",
	} {
		_, err := load(redis)
		require.ErrorContains(t, err, want, redis)
		require.NotContains(t, err.Error(), "hunter2", redis)
	}
}
