package monitor_test

import (
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/hibiken/asynq"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"lethe/internal/devstack/devstacktest"
	"lethe/internal/monitor"
	"lethe/internal/redisdb"
)

func TestMain(m *testing.M) { devstacktest.Main(m) }

func TestQueuesOfEveryKindOfRedis(t *testing.T) {
	t.Parallel()
	for name, url := range map[string]string{
		"server":   devstacktest.Redis(t).URL(),
		"cluster":  devstacktest.RedisCluster(t).URL(),
		"sentinel": devstacktest.RedisSentinel(t).URL(),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			client, err := redisdb.Open(url)
			require.NoError(t, err)
			defer func() { require.NoError(t, client.Close()) }()
			_, err = asynq.NewClientFromRedisClient(client).Enqueue(asynq.NewTask("some_kind", []byte(`{"a":1}`)), asynq.Queue("low"))
			require.NoError(t, err)

			h, err := monitor.New(url, monitor.Options{Root: "/asynqmon", ReadOnly: true})
			require.NoError(t, err)
			defer func() { require.NoError(t, h.Close()) }()
			ask := func(method, path string) *httptest.ResponseRecorder {
				answer := httptest.NewRecorder()
				h.ServeHTTP(answer, httptest.NewRequestWithContext(t.Context(), method, path, http.NoBody))
				require.Contains(t, answer.Header().Get("Content-Security-Policy"), "frame-ancestors 'none'")
				return answer
			}
			tasks := ask(http.MethodGet, "/asynqmon/api/queues/low/pending_tasks")
			require.Equal(t, http.StatusOK, tasks.Code, tasks.Body)
			require.Contains(t, tasks.Body.String(), `"type":"some_kind","payload":"{\"a\":1}"`)
			info := ask(http.MethodGet, "/asynqmon/api/redis_info")
			require.Equal(t, http.StatusOK, info.Code, info.Body)
			require.Equal(t, http.StatusMethodNotAllowed, ask(http.MethodPost, "/asynqmon/api/queues/low:pause").Code)
			_, isCluster := client.(*redis.ClusterClient)
			require.Equal(t, name == "cluster", isCluster)
		})
	}
}

func TestRedisIsDown(t *testing.T) {
	t.Parallel()
	h, err := monitor.New("redis://:hunter2@127.0.0.1:1?max_retries=-1", monitor.Options{})
	require.NoError(t, err)
	defer func() { require.NoError(t, h.Close()) }()
	answer := httptest.NewRecorder()
	h.ServeHTTP(answer, httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/api/queues", http.NoBody))
	require.Equal(t, http.StatusInternalServerError, answer.Code)
	require.NotContains(t, answer.Body.String(), "hunter2")
	_, err = monitor.New("rediss://:hunter2@h?ca_file=/nowhere", monitor.Options{})
	require.ErrorContains(t, err, "open asynqmon: read the ca_file")
}
