package scheduledtasks

import (
	"context"
	"encoding/json"
	"fmt"

	"lethe/internal/store/postgres"

	"github.com/jackc/pgx/v5"
)

// The actions of tasks that delete something of a room. Their resource is the room's id.
const (
	// PurgeHistory deletes a part of a room's history.
	PurgeHistory = "purge_history"

	// PurgeRoom deletes a room that no local user is in any more.
	PurgeRoom = "purge_room"

	// DeleteRoom shuts a room down, and deletes it unless it was told not to.
	DeleteRoom = "shutdown_and_purge_room"
)

// A Task is a row of the homeserver's queue.
type Task struct {
	ID string

	// Action is what the task does, and Status one of scheduled, active, complete, failed
	// and cancelled, in Synapse's words.
	Action, Status string

	// ChangedTS is the time of the task's last change, in Unix milliseconds; for a
	// scheduled task, the time at which it is to begin.
	ChangedTS int64

	// Resource is the id of the room or user that the task is about, nil if it has none.
	Resource *string

	// Result is the result so far, in JSON, nil before the first. It was not validated.
	Result json.RawMessage

	// Error says why the task failed, nil unless it did.
	Error *string
}

// columns are the columns of a [Task].
const columns = `id, action, status, timestamp, resource_id, result, error`

// A Filter says which tasks to list. A nil value selects all.
type Filter struct {
	// Actions and Statuses must have the task's.
	Actions, Statuses []string

	// Resource must be the task's, and the last change at or before Until, in Unix
	// milliseconds.
	Resource *string
	Until    *int64

	// Limit is the maximum number of tasks. The newest ones are listed. It has no
	// default.
	Limit int
}

// A Queue reads the homeserver's queue. It is safe for concurrent use.
type Queue struct{ db *postgres.DB }

// New returns a Queue on the database.
func New(db *postgres.DB) *Queue { return &Queue{db: db} }

// readable reports whether the database has the table, and Lethe's role may read it. Where
// Lethe made the tables it has no tasks. lethe doctor names a right that is missing.
func (q *Queue) readable(ctx context.Context) (bool, error) {
	return q.db.MayRead(ctx, "scheduled_tasks")
}

// List lists tasks in the order of their last change.
func (q *Queue) List(ctx context.Context, filter Filter) ([]Task, error) {
	const operation = "list the homeserver's tasks"
	readable, err := q.readable(ctx)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", operation, err)
	}
	if !readable || filter.Resource != nil && !postgres.Storable(*filter.Resource) {
		return nil, nil
	}
	if filter.Actions != nil {
		filter.Actions = postgres.OnlyStorable(filter.Actions)
	}
	tasks, err := postgres.ReadAll(ctx, q.db, pgx.RowToStructByPos[Task], `
		SELECT * FROM (
			SELECT `+columns+` FROM scheduled_tasks
			WHERE ($1::text[] IS NULL OR action = ANY ($1)) AND ($2::text[] IS NULL OR status = ANY ($2))
			  AND ($3::text IS NULL OR resource_id = $3) AND ($4::bigint IS NULL OR timestamp <= $4)
			ORDER BY timestamp DESC, id DESC
			LIMIT $5) t
		ORDER BY timestamp, id`, filter.Actions, filter.Statuses, filter.Resource, filter.Until, filter.Limit)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", operation, err)
	}
	return tasks, nil
}

// Get returns a task by its id. An unknown id is [postgres.ErrNotFound].
func (q *Queue) Get(ctx context.Context, id string) (Task, error) {
	const operation = "read a task of the homeserver"
	readable, err := q.readable(ctx)
	if err == nil && (!readable || !postgres.Storable(id)) {
		err = postgres.ErrNotFound
	}
	var task Task
	if err == nil {
		err = q.db.ReadRow(ctx, task.fields(), `SELECT `+columns+` FROM scheduled_tasks WHERE id = $1`, id)
	}
	if err != nil {
		return Task{}, fmt.Errorf("%s: %w", operation, err)
	}
	return task, nil
}

// fields are where the [columns] are read to.
func (t *Task) fields() []any {
	return []any{&t.ID, &t.Action, &t.Status, &t.ChangedTS, &t.Resource, &t.Result, &t.Error}
}
