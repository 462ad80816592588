package tasks

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"

	"github.com/redis/go-redis/v9"

	"lethe/internal/jobs"
	"lethe/internal/observe"
	"lethe/internal/store/journal"
	"lethe/internal/store/postgres"
)

// A Client accepts jobs.
type Client struct {
	journal  *journal.Journal
	dispatch dispatcher
	log      *slog.Logger
}

// NewClient returns a Client that dispatches through the Redis client, which
// stays the caller's to close.
func NewClient(db *postgres.DB, client redis.UniversalClient, log *slog.Logger) *Client {
	return &Client{journal: journal.New(db), dispatch: newDispatcher(client), log: log}
}

// submit accepts a job: it is accepted once its row is committed, and an error
// means that it is not. A Redis that is down is the reconciler's business.
func (c *Client) submit(ctx context.Context, kind journal.Kind, room, requester string, parameters any, alone bool) (id string, err error) {
	encoded, err := json.Marshal(parameters)
	if err != nil {
		return "", fmt.Errorf("encode the job's parameters: %w", err)
	}
	job := journal.Job{
		ID: jobs.NewID(), Kind: kind, Room: room, Parameters: encoded, Requester: requester,
		State: journal.Queued, Generation: 1,
	}
	ctx, span := observe.StartSpan(ctx, "submit "+string(kind), about(job)...)
	defer func() { span.End(err) }()
	origin := observe.OriginOf(ctx)
	job.TraceParent, job.RequestID = origin.TraceParent, origin.RequestID
	if err := c.journal.InsertJob(ctx, job, alone); err != nil {
		return "", err
	}
	// The job is accepted, and its caller going away changes nothing about it.
	ctx = context.WithoutCancel(ctx)
	log := c.log.With("job", job.ID, "room", job.Room, "kind", job.Kind)
	log.InfoContext(ctx, "job accepted", "requester", requester)
	// Its status is read from the row until somebody has asked or a worker has
	// begun: most jobs of a sweep begin before anybody does.
	if err := c.dispatch.enqueue(ctx, job); err != nil {
		log.WarnContext(ctx, "job not enqueued: left to the reconciler", "error", err)
		if err := c.journal.MarkTaskNever(ctx, job.ID, job.Generation); err != nil {
			log.WarnContext(ctx, "job not marked as not enqueued", "error", err)
		}
	}
	return job.ID, nil
}

// Enqueue enqueues the task of a job's present generation. It does nothing if asynq
// has the task.
func (c *Client) Enqueue(ctx context.Context, job journal.Job) error {
	return c.dispatch.enqueue(ctx, job)
}
