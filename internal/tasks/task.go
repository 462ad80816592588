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

// Each worker takes tasks from the queues of the jobs that operators wait for, and
// separately from the queue of sweeps. A queue's weight says how often it is checked
// while all have tasks.
var (
	queues    = map[string]int{string(jobs.Critical): 6, string(jobs.Default): 3}
	lowQueues = map[string]int{string(jobs.Low): 1}
)

// asynqQueues is the SET in which asynq keeps the names of its queues. An asynq
// client writes each name only once. So after Redis has lost its data, neither the
// inspector nor asynqmon would see a queue that is in use.
const asynqQueues = "asynq:queues"

// payload is the content of a task. Everything else is in the job's row.
type payload struct {
	JobID      string `json:"job_id"`
	Generation int    `json:"generation"`
}

// decode reads a task's payload. Redis may hold tasks that Lethe did not enqueue.
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

// The headers of a task, which name the origin of its job.
const (
	headerRequestID   = "request_id"
	headerTraceParent = "traceparent"
)

// headersOf returns the headers of a job's tasks, nil if it has no origin.
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

// originOf reads the origin of a task's job. Redis may hold tasks that Lethe did not
// enqueue.
func originOf(task *asynq.Task) observe.Origin {
	origin := observe.Origin{TraceParent: task.Headers()[headerTraceParent]}
	if id := task.Headers()[headerRequestID]; observe.ValidRequestID(id) {
		origin.RequestID = id
	}
	return origin
}

// taskID returns the id of the one task of a job's generation. asynq refuses a
// second task with the same id, so enqueueing twice does no harm.
func taskID(jobID string, generation int) string { return fmt.Sprintf("%s~%d", jobID, generation) }

// A dispatcher puts tasks into asynq.
type dispatcher struct {
	client *asynq.Client
	redis  redis.UniversalClient
}

func newDispatcher(client redis.UniversalClient) dispatcher {
	return dispatcher{client: asynq.NewClientFromRedisClient(client), redis: client}
}

// enqueueTime bounds one call of enqueue, so that a caller does not wait long for a
// Redis that is down.
const enqueueTime = 2 * time.Second

// taskTimeout is when asynq gives a task up. It is far longer than a time slice: a
// handler ends its slice itself, unless it hangs.
const taskTimeout = 30 * time.Minute

// enqueue enqueues the task of the job's present generation, unless asynq already
// has it.
func (d dispatcher) enqueue(ctx context.Context, job journal.Job) error {
	ctx, cancel := context.WithTimeout(ctx, enqueueTime)
	defer cancel()
	body, err := json.Marshal(payload{JobID: job.ID, Generation: job.Generation})
	if err != nil {
		return fmt.Errorf("encode the task: %w", err)
	}
	// Each task of the job, of any generation, carries the job's origin.
	_, err = d.client.EnqueueContext(ctx, asynq.NewTaskWithHeaders(string(job.Kind), body, headersOf(job)),
		asynq.Queue(string(jobs.QueueOf(job))),
		asynq.TaskID(taskID(job.ID, job.Generation)),
		asynq.Timeout(taskTimeout),
		// The count in the job's row decides when to give up. asynq's own count would
		// archive a task whose workers were killed often enough.
		asynq.MaxRetry(math.MaxInt32))
	if err != nil && !errors.Is(err, asynq.ErrTaskIDConflict) {
		return fmt.Errorf("enqueue job %s: %w", job.ID, err)
	}
	return nil
}
