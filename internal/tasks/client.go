package tasks

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/redis/go-redis/v9"

	"lethe/internal/dispatch"
	"lethe/internal/jobs"
	"lethe/internal/observe"
	"lethe/internal/redisdb"
	"lethe/internal/store/audit"
	"lethe/internal/store/journal"
	"lethe/internal/store/postgres"
)

// A Client accepts jobs.
type Client struct {
	journal    *journal.Journal
	dispatcher *dispatch.Dispatcher
	log        *slog.Logger
}

// NewClient returns a Client that enqueues tasks through a Redis client, into the queues of
// the deployment with these names. The caller closes the Redis client. With a nil Redis client the reconciler enqueues them, some
// seconds later.
func NewClient(db *postgres.DB, client redis.UniversalClient, names *redisdb.Names, log *slog.Logger) *Client {
	c := &Client{journal: journal.New(db), log: log}
	if client != nil {
		c.dispatcher = dispatch.New(client, names)
	}
	return c
}

// Keeping makes asynq keep the tasks of accepted jobs for that long after their end, for
// those who look at the queues. Without a call they go at once. Call it before all other
// methods; the last call wins.
func (c *Client) Keeping(finished time.Duration) *Client {
	if c.dispatcher != nil {
		c.dispatcher.Keeping(finished)
	}
	return c
}

// An Acceptance is how a job is accepted.
type Acceptance struct {
	// Grace is how long nothing is done of the job, in which it can be cancelled. Defaults
	// to 0: it is queued at once.
	Grace time.Duration

	// Plan is what [WorkerOptions.CheckPlan] compares before the job begins, in JSON.
	// Defaults to nil, nothing.
	Plan json.RawMessage

	// Reason is why the job is requested, for its log. Defaults to "".
	Reason string
}

// submit accepts a job, of which it reads Kind, Room and Requester. A job is accepted
// once its row is committed; after an error it is not. If Redis is down, the reconciler enqueues the task later.
func (c *Client) submit(ctx context.Context, job journal.Job, accepted Acceptance, parameters any, alone bool) (id string, err error) {
	encoded, err := json.Marshal(parameters)
	if err != nil {
		return "", fmt.Errorf("encode the job's parameters: %w", err)
	}
	job.ID, job.Parameters, job.State, job.Generation = jobs.NewID(), encoded, journal.Queued, 1
	job.Grace, job.Plan, job.Reason, job.Way = accepted.Grace, accepted.Plan, postgres.Sanitize(accepted.Reason), audit.WayOf(ctx)
	ctx, span := observe.StartSpan(ctx, "submit "+string(job.Kind), about(job)...)
	defer func() { span.End(err) }()
	origin := observe.OriginOf(ctx)
	job.TraceParent, job.RequestID = origin.TraceParent, origin.RequestID
	if err := c.journal.InsertJob(ctx, job, alone); err != nil {
		return "", err
	}
	// The job is accepted, also if its caller goes away now.
	ctx = context.WithoutCancel(ctx)
	log := c.log.With("job", job.ID, "room", job.Room, "kind", job.Kind)
	log.InfoContext(ctx, "job accepted", "requester", job.Requester, "grace", job.Grace.String())
	if job.Grace > 0 {
		return job.ID, nil // the reconciler enqueues it at the end of its grace
	}
	// The status is not written to Redis here. It is read from the row until the
	// first request or the job's start, and most jobs of a sweep start before any
	// request for their status.
	if err := c.Enqueue(ctx, job); err != nil {
		log.WarnContext(ctx, "job not enqueued: left to the reconciler", "error", err)
		if err := c.journal.MarkTaskNever(ctx, job.ID, job.Generation); err != nil {
			log.WarnContext(ctx, "job not marked as not enqueued", "error", err)
		}
	}
	return job.ID, nil
}

// Enqueue enqueues the task of a job's current generation. It does nothing if asynq
// already has the task.
func (c *Client) Enqueue(ctx context.Context, job journal.Job) error {
	if c.dispatcher == nil {
		return errNoRedis
	}
	return c.dispatcher.Enqueue(ctx, job)
}

// errNoRedis is why a Client without Redis leaves a task to the reconciler.
var errNoRedis = errors.New("no Redis")
