package observe

import (
	"bytes"
	"context"
	"encoding/json"
	"log/slog"
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
	t.Cleanup(func() { SetRedisLogger(slog.New(slog.DiscardHandler)) })

	// go-redis complains of this duration before it tries to connect.
	client := redis.NewClient(&redis.Options{Addr: "127.0.0.1:1"})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	require.Error(t, client.PExpire(ctx, "key", time.Nanosecond).Err())
	require.NoError(t, client.Close())

	line := out.String()
	require.Equal(t, []string{"WARN"}, fields(t, bytes.NewBufferString(line), "level"))
	require.Equal(t, []string{"redis"}, fields(t, bytes.NewBufferString(line), "component"))
	require.Contains(t, line, "minimal supported value")
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
