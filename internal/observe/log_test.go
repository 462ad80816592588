package observe

import (
	"bytes"
	"context"
	"encoding/json"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"
)

func TestNewLogger(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		level string
		want  []string
	}{
		{"debug", []string{"DEBUG", "INFO", "WARN", "ERROR"}},
		{"info", []string{"INFO", "WARN", "ERROR"}},
		{"warn", []string{"WARN", "ERROR"}},
		{"error", []string{"ERROR"}},
		{"nonsense", []string{"INFO", "WARN", "ERROR"}},
	} {
		t.Run(test.level, func(t *testing.T) {
			t.Parallel()
			var out bytes.Buffer
			log := NewLogger(&out, test.level, "json")
			log.Debug("m")
			log.Info("m")
			log.Warn("m")
			log.Error("m")
			require.Equal(t, test.want, fields(t, &out, "level"))
		})
	}

	var out bytes.Buffer
	NewLogger(&out, "info", "text").Info("hello", "job", 1)
	require.Contains(t, out.String(), "level=INFO msg=hello job=1\n")
}

func TestAsynqLogger(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	log := NewAsynqLogger(NewLogger(&out, "debug", "json"))
	log.Debug("a ", 1, "\n")
	log.Info("b")
	log.Warn("c")
	log.Error("d")
	log.Fatal("e") // and goes on
	lines := out.String()
	require.Equal(t, []string{"DEBUG", "INFO", "WARN", "ERROR", "ERROR"}, fields(t, bytes.NewBufferString(lines), "level"))
	require.Equal(t, []string{"a 1", "b", "c", "d", "e"}, fields(t, bytes.NewBufferString(lines), "msg"))
	require.Equal(t, []string{"asynq", "asynq", "asynq", "asynq", "asynq"}, fields(t, &out, "component"))
}

// It is not parallel: go-redis has one logger per process.
func TestSetRedisLogger(t *testing.T) {
	var out bytes.Buffer
	SetRedisLogger(NewLogger(&out, "info", "json"))
	t.Cleanup(func() { SetRedisLogger(NewLogger(t.Output(), "info", "text")) })
	client := redis.NewClient(&redis.Options{Addr: "127.0.0.1:1", DialerRetries: 1, MaxRetries: -1, Password: "hunter2"})
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	require.Error(t, client.Ping(ctx).Err())
	require.NoError(t, client.Close())

	redisLogger{NewLogger(&out, "info", "json").With("component", "redis")}.Printf(ctx, "lost %s\n", "it")
	require.NotContains(t, out.String(), "hunter2")
	lines := out.String()
	require.Contains(t, fields(t, bytes.NewBufferString(lines), "msg"), "lost it")
	for _, level := range fields(t, bytes.NewBufferString(lines), "level") {
		require.Equal(t, "WARN", level)
	}
	for _, component := range fields(t, &out, "component") {
		require.Equal(t, "redis", component)
	}
}

// fields returns one field of each JSON line.
func fields(t *testing.T, lines *bytes.Buffer, name string) []string {
	t.Helper()
	var values []string
	for decoder := json.NewDecoder(lines); decoder.More(); {
		var record map[string]any
		require.NoError(t, decoder.Decode(&record))
		values = append(values, record[name].(string))
	}
	return values
}
