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
	"lethe/internal/store/journal"
	"lethe/internal/store/postgres"
)

// A Client accepts jobs.
type Client struct {
	journal    *journal.Journal
	dispatcher *dispatch.Dispatcher
	log        *slog.Logger
}

// NewClient returns a Client that enqueues tasks through a Redis client. The caller
// closes the Redis client. With a nil Redis client the reconciler enqueues them, some
// seconds later.
func NewClient(db *postgres.DB, client redis.UniversalClient, log *slog.Logger) *Client {
	c := &Client{journal: journal.New(db), log: log}
	if client != nil {
		c.dispatcher = dispatch.New(client)
	}
	return c
}

// Acceptance is how a job is accepted.
type Acceptance struct {
	// Grace is how long nothing is done, and the job can be cancelled. Defaults to 0, no
	// grace.
	Grace time.Duration

	// Plan is the digest of the job's plan. The job fails at its begin if the room has
	// drifted from the plan by more than Tolerance events. Defaults to "", no plan.
	Plan      string
	Tolerance int64

	// Reason is why the job was requested, in words. Defaults to "".
	Reason string
}

// plan returns the plan in the job's row, nil if there is none.
func (a Acceptance) plan() json.RawMessage {
	if a.Plan == "" {
		return nil
	}
	encoded, _ := json.Marshal(AcceptedPlan{Digest: a.Plan, Tolerance: a.Tolerance}) // never fails
	return encoded
}

// An AcceptedPlan is the plan in a job's row.
type AcceptedPlan struct {
	Digest    string `json:"digest"`
	Tolerance int64  `json:"tolerance"`
}

// submit accepts a job. A job is accepted once its row is committed; after an error
// it is not. If Redis is down, the reconciler enqueues the task later.
func (c *Client) submit(ctx context.Context, kind journal.Kind, room, requester string, parameters any, alone bool, a Acceptance,
) (id string, err error) {
	encoded, err := json.Marshal(parameters)
	if err != nil {
		return "", fmt.Errorf("encode the job's parameters: %w", err)
	}
	job := journal.Job{
		ID: jobs.NewID(), Kind: kind, Room: room, Parameters: encoded, Requester: requester,
		State: journal.Queued, Generation: 1, Reason: a.Reason, Grace: a.Grace, Plan: a.plan(),
	}
	ctx, span := observe.StartSpan(ctx, "submit "+string(kind), about(job)...)
	defer func() { span.End(err) }()
	origin := observe.OriginOf(ctx)
	job.TraceParent, job.RequestID = origin.TraceParent, origin.RequestID
	if err := c.journal.InsertJob(ctx, job, alone); err != nil {
		return "", err
	}
	// The job is accepted, also if its caller goes away now.
	ctx = context.WithoutCancel(ctx)
	log := c.log.With("job", job.ID, "room", job.Room, "kind", job.Kind)
	log.InfoContext(ctx, "job accepted", "requester", requester)
	if a.Grace > 0 {
		return job.ID, nil // the reconciler enqueues it
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
