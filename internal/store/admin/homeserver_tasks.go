package admin

import (
	"context"
	"encoding/json"
	"fmt"

	"lethe/internal/store/postgres"

	"github.com/jackc/pgx/v5"
)

// A HomeserverTask is a row of the homeserver's own queue of tasks. Lethe only reads that
// table: Synapse runs every open task that it finds there.
type HomeserverTask struct {
	ID string

	// Action is what the task does, and Status one of scheduled, active, complete, failed
	// and cancelled, in Synapse's words.
	Action, Status string

	// ChangedTS is the time of the task's last change, in Unix milliseconds; for a
	// scheduled task, the time at which it is to begin.
	ChangedTS int64

	// Resource is the id of the room or user that the task is about, nil if it has none.
	Resource *string

	// Result is the result so far, in JSON, nil if there is none. It was not validated.
	Result json.RawMessage

	// Error says why the task failed, nil unless it did.
	Error *string
}

// homeserverTaskColumns are the columns of a [HomeserverTask].
const homeserverTaskColumns = `id, action, status, timestamp, resource_id, result, error`

// A HomeserverTaskList says which tasks of the homeserver to list. A nil value selects
// all.
type HomeserverTaskList struct {
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

// HomeserverTasks lists the homeserver's own tasks in the order of their last change. A
// database without the table has none.
func (q *Queries) HomeserverTasks(ctx context.Context, list HomeserverTaskList) ([]HomeserverTask, error) {
	const operation = "list the homeserver's tasks"
	readable, err := q.mayRead(ctx, "scheduled_tasks")
	if err != nil {
		return nil, fmt.Errorf("%s: %w", operation, err)
	}
	if !readable || list.Resource != nil && !postgres.Storable(*list.Resource) {
		return nil, nil
	}
	if list.Actions != nil {
		list.Actions = postgres.OnlyStorable(list.Actions)
	}
	tasks, err := postgres.ReadAll(ctx, q.db, pgx.RowToStructByPos[HomeserverTask], `
		SELECT * FROM (
			SELECT `+homeserverTaskColumns+` FROM scheduled_tasks
			WHERE ($1::text[] IS NULL OR action = ANY ($1)) AND ($2::text[] IS NULL OR status = ANY ($2))
			  AND ($3::text IS NULL OR resource_id = $3) AND ($4::bigint IS NULL OR timestamp <= $4)
			ORDER BY timestamp DESC, id DESC
			LIMIT $5) t
		ORDER BY timestamp, id`, list.Actions, list.Statuses, list.Resource, list.Until, list.Limit)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", operation, err)
	}
	return tasks, nil
}

// HomeserverTask returns one of the homeserver's own tasks. An unknown id is
// [postgres.ErrNotFound].
func (q *Queries) HomeserverTask(ctx context.Context, id string) (HomeserverTask, error) {
	const operation = "read a task of the homeserver"
	readable, err := q.mayRead(ctx, "scheduled_tasks")
	if err == nil && (!readable || !postgres.Storable(id)) {
		err = postgres.ErrNotFound
	}
	var t HomeserverTask
	if err == nil {
		err = q.db.ReadRow(ctx, []any{&t.ID, &t.Action, &t.Status, &t.ChangedTS, &t.Resource, &t.Result, &t.Error},
			`SELECT `+homeserverTaskColumns+` FROM scheduled_tasks WHERE id = $1`, id)
	}
	if err != nil {
		return HomeserverTask{}, fmt.Errorf("%s: %w", operation, err)
	}
	return t, nil
}
