package dispatch

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
	"lethe/internal/redisdb"
	"lethe/internal/store/journal"
)

// MaxFailures is the number of failures in a row after which a job fails.
const MaxFailures = 20

// asynqQueues is the SET in which asynq keeps the names of its queues. An asynq
// client writes each name only once. So after Redis has lost its data, neither the
// inspector nor asynqmon would see a queue that is in use.
const asynqQueues = "asynq:queues"

// A Task is the content of a task. Everything else is in the job's row.
type Task struct {
	JobID      string `json:"job_id"`
	Generation int    `json:"generation"`

	// Kind and Room are for those who look at the queues. Tasks of older versions are
	// without them, and nothing reads them here.
	Kind journal.Kind `json:"kind,omitempty"`
	Room string       `json:"room_id,omitempty"`
}

// Decode reads a task. Redis may hold tasks that Lethe did not enqueue.
func Decode(task *asynq.Task) (Task, error) {
	var body Task
	if err := json.Unmarshal(task.Payload(), &body); err != nil {
		return Task{}, fmt.Errorf("decode the task: %w", err)
	}
	if !jobs.ValidID(body.JobID) || body.Generation < 1 || body.Generation > math.MaxInt32 {
		return Task{}, errors.New("decode the task: it names no job")
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

// OriginOf reads the origin of a task's job. Redis may hold tasks that Lethe did not
// enqueue.
func OriginOf(task *asynq.Task) observe.Origin {
	origin := observe.Origin{TraceParent: task.Headers()[headerTraceParent]}
	if id := task.Headers()[headerRequestID]; observe.ValidRequestID(id) {
		origin.RequestID = id
	}
	return origin
}

// TaskID returns the id of the one task of a job's generation. asynq refuses a
// second task with the same id, so enqueueing twice does no harm.
func TaskID(jobID string, generation int) string { return fmt.Sprintf("%s~%d", jobID, generation) }

// A Dispatcher puts tasks into asynq. It is safe for concurrent use.
type Dispatcher struct {
	client  *asynq.Client
	inspect *asynq.Inspector
	names   *redisdb.Names
	keep    time.Duration
}

// New returns a Dispatcher that uses the Redis client, and the queues of the deployment
// with these names. The caller closes the client.
func New(client redis.UniversalClient, names *redisdb.Names) *Dispatcher {
	return &Dispatcher{client: asynq.NewClientFromRedisClient(client), inspect: asynq.NewInspectorFromRedisClient(client), names: names}
}

// Keeping makes asynq keep the tasks that the Dispatcher enqueues for that long after their
// end, for those who look at the queues. Without a call they go at once. Call it before all
// other methods; the last call wins.
func (d *Dispatcher) Keeping(finished time.Duration) *Dispatcher {
	d.keep = finished
	return d
}

// queueOf returns the name of the queue of a job's tasks in Redis.
func (d *Dispatcher) queueOf(job journal.Job) string { return d.names.Queue(string(jobs.QueueOf(job))) }

// enqueueTime bounds one call of Enqueue, so that a caller does not wait long for a
// Redis that is down.
const enqueueTime = 2 * time.Second

// taskTimeout is when asynq gives a task up. It is far longer than a time slice: a
// handler ends its slice itself, unless it hangs.
const taskTimeout = 30 * time.Minute

// Enqueue enqueues the task of the job's present generation. It does nothing if asynq
// already has the task.
func (d *Dispatcher) Enqueue(ctx context.Context, job journal.Job) error {
	ctx, cancel := context.WithTimeout(ctx, enqueueTime)
	defer cancel()
	body, err := json.Marshal(Task{JobID: job.ID, Generation: job.Generation, Kind: job.Kind, Room: job.Room})
	if err != nil {
		return fmt.Errorf("encode the task: %w", err)
	}
	// Each task of the job, of any generation, carries the job's origin.
	_, err = d.client.EnqueueContext(ctx, asynq.NewTaskWithHeaders(string(job.Kind), body, headersOf(job)),
		asynq.Queue(d.queueOf(job)),
		asynq.TaskID(TaskID(job.ID, job.Generation)),
		asynq.Timeout(taskTimeout),
		asynq.Retention(d.keep),
		// The count in the job's row decides when to give up. asynq's own count would
		// archive a task whose workers were killed often enough.
		asynq.MaxRetry(math.MaxInt32))
	if err != nil && !errors.Is(err, asynq.ErrTaskIDConflict) {
		return fmt.Errorf("enqueue job %s: %w", job.ID, err)
	}
	return nil
}

// ErrTaskActive is returned for a task that a worker has. If the room was still busy
// when that worker looked, it gives the task back, and the task can be woken then.
var ErrTaskActive = errors.New("a worker has the task")

// Wake makes asynq deliver the task of the job's present generation now. It fails with
// [ErrTaskActive] while a worker has the task.
func (d *Dispatcher) Wake(job journal.Job) error {
	queue, id := d.queueOf(job), TaskID(job.ID, job.Generation)
	task, err := d.inspect.GetTaskInfo(queue, id)
	switch {
	case err != nil:
		return fmt.Errorf("look for the task of job %s: %w", job.ID, err)
	case task.State == asynq.TaskStatePending:
		return nil
	case task.State == asynq.TaskStateActive:
		return ErrTaskActive
	}
	if err := d.inspect.RunTask(queue, id); err != nil {
		return fmt.Errorf("wake the task of job %s: %w", job.ID, err)
	}
	return nil
}
