package tasks

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/hibiken/asynq"
	"github.com/redis/go-redis/v9"

	"lethe/internal/jobs"
	"lethe/internal/observe"
	"lethe/internal/store/journal"
)

// Each worker takes from the queues of jobs that operators wait for, and beside them
// from that of sweeps. The weights say how often each is looked at while all have
// tasks.
var (
	queues    = map[string]int{string(jobs.Critical): 6, string(jobs.Default): 3}
	lowQueues = map[string]int{string(jobs.Low): 1}
)

// asynqQueues is the SET in which asynq keeps the names of its queues. A client
// of asynq's writes a name only once in its life, so after Redis has lost its
// data neither the inspector nor asynqmon would see a queue that works.
const asynqQueues = "asynq:queues"

// payload is what a task carries. All else is in the job's row.
type payload struct {
	JobID      string `json:"job_id"`
	Generation int    `json:"generation"`
}

// decode reads a task's payload. Redis may hold what we did not put there.
func decode(task *asynq.Task) (payload, error) {
	var body payload
	if err := json.Unmarshal(task.Payload(), &body); err != nil {
		return payload{}, fmt.Errorf("decode the task: %w", err)
	}
	if !jobs.ValidID(body.JobID) || body.Generation < 1 || body.Generation > math.MaxInt32 {
		return payload{}, errors.New("decode the task: it names no job")
	}
	return body, nil
}

// The headers of a task, which tell what made its job.
const (
	headerRequestID   = "request_id"
	headerTraceParent = "traceparent"
)

// headersOf are the headers of a job's tasks, nil if there are none.
func headersOf(job journal.Job) map[string]string {
	var headers map[string]string
	for name, value := range map[string]string{headerRequestID: job.RequestID, headerTraceParent: job.TraceParent} {
		if value != "" {
			if headers == nil {
				headers = map[string]string{}
			}
			headers[name] = value
		}
	}
	return headers
}

// originOf reads what made a task's job. Redis may hold what we did not put there.
func originOf(task *asynq.Task) observe.Origin {
	origin := observe.Origin{TraceParent: task.Headers()[headerTraceParent]}
	if id := task.Headers()[headerRequestID]; observe.ValidRequestID(id) {
		origin.RequestID = id
	}
	return origin
}

// taskID names the one task of a generation of a job. asynq refuses a second
// task of that name, so enqueueing twice does no harm.
func taskID(jobID string, generation int) string { return fmt.Sprintf("%s~%d", jobID, generation) }

// A dispatcher puts tasks into asynq.
type dispatcher struct {
	client *asynq.Client
	redis  redis.UniversalClient
}

func newDispatcher(client redis.UniversalClient) dispatcher {
	return dispatcher{client: asynq.NewClientFromRedisClient(client), redis: client}
}

// enqueueTime bounds one enqueueing: with Redis down, a caller waits no longer.
const enqueueTime = 2 * time.Second

// taskTimeout is when asynq gives a task up. It is far beyond a time slice: a
// handler ends its slice by itself, and one that cannot has stopped.
const taskTimeout = 30 * time.Minute

// enqueue enqueues the task of the job's present generation, unless asynq has
// it already.
func (d dispatcher) enqueue(ctx context.Context, job journal.Job) error {
	ctx, cancel := context.WithTimeout(ctx, enqueueTime)
	defer cancel()
	body, err := json.Marshal(payload{JobID: job.ID, Generation: job.Generation})
	if err != nil {
		return fmt.Errorf("encode the task: %w", err)
	}
	// What made the job goes with each of its tasks, of whatever generation.
	_, err = d.client.EnqueueContext(ctx, asynq.NewTaskWithHeaders(string(job.Kind), body, headersOf(job)),
		asynq.Queue(string(jobs.QueueOf(job))),
		asynq.TaskID(taskID(job.ID, job.Generation)),
		asynq.Timeout(taskTimeout),
		// Giving up is decided by the count in the job's row. asynq's own count
		// would archive a task whose workers were killed often enough.
		asynq.MaxRetry(math.MaxInt32))
	if err != nil && !errors.Is(err, asynq.ErrTaskIDConflict) {
		return fmt.Errorf("enqueue job %s: %w", job.ID, err)
	}
	return nil
}
