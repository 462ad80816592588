package dispatch

import (
	"errors"
	"log/slog"
	"time"

	"github.com/hibiken/asynq"
	"github.com/redis/go-redis/v9"

	"lethe/internal/jobs"
	"lethe/internal/observe"
	"lethe/internal/redisdb"
	"lethe/internal/store/journal"
)

// checkInterval is the time between two looks at queues that are empty. A small purge takes
// less, so most of its time would be the wait for a longer one. A look costs Redis a command
// for each queue.
const checkInterval = 100 * time.Millisecond

// ServerOptions are the options of a server of tasks.
type ServerOptions struct {
	// Concurrency is the number of tasks that run at a time. It has no default.
	Concurrency int

	// DrainTimeout is how long a shutdown waits for the tasks that run. It has no default.
	DrainTimeout time.Duration

	// Names are those of the deployment. Defaults to nil, no deployment.
	Names *redisdb.Names

	// Queues are the queues, each with a weight that says how often it is checked while all
	// have tasks. It has no default.
	Queues map[journal.Queue]int
}

// NewServer returns asynq's server for tasks of the deployment's queues. The caller starts
// it, shuts it down, and closes the client.
func NewServer(client redis.UniversalClient, log *slog.Logger, options ServerOptions) *asynq.Server {
	queues := map[string]int{}
	for queue, weight := range options.Queues {
		queues[options.Names.Queue(string(queue))] = weight
	}
	return asynq.NewServerFromRedisClient(client, asynq.Config{
		Concurrency:              options.Concurrency,
		Queues:                   queues,
		Logger:                   observe.NewAsynqLogger(log),
		ShutdownTimeout:          options.DrainTimeout,
		TaskCheckInterval:        checkInterval,
		DelayedTaskCheckInterval: time.Second,
		IsFailure: func(err error) bool {
			var yield jobs.YieldError
			return !errors.As(err, &yield)
		},
		RetryDelayFunc: func(_ int, err error, _ *asynq.Task) time.Duration {
			var yield jobs.YieldError
			errors.As(err, &yield)
			return yield.After
		},
	})
}
