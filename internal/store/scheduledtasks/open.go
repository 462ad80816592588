package scheduledtasks

import (
	"context"
	"fmt"

	"lethe/internal/store/postgres"
)

// Open returns a task that the homeserver runs on the room now, or begins within its next
// minute because its time has come. The task does one of the actions, and is the one whose
// turn came first. Without such a task the error is [postgres.ErrNotFound]. A scheduled
// task whose time is still to come does not count.
//
// The answer is as old as its snapshot: the homeserver may begin a task right afterwards.
// So the API asks in order to refuse a request in time, and a worker asks again with all
// actions before it deletes. Only the homeserver's locks keep both from deleting at once.
func (q *Queue) Open(ctx context.Context, room string, actions ...string) (Task, error) {
	const operation = "look for an open task of the homeserver"
	readable, err := q.readable(ctx)
	if err == nil && (!readable || !postgres.Storable(room)) {
		err = postgres.ErrNotFound
	}
	var task Task
	if err == nil {
		// An active task stays active while Synapse is stopped, and begins again with it.
		// The server's clock decides what is due, as for all times that processes compare.
		err = q.db.ReadRow(ctx, task.fields(), `
			SELECT `+columns+` FROM scheduled_tasks
			WHERE resource_id = $1 AND action = ANY ($2)
			  AND (status = 'active'
			       OR status = 'scheduled' AND timestamp::numeric <= extract(epoch FROM clock_timestamp())::numeric * 1000.0)
			ORDER BY timestamp, id
			LIMIT 1`, room, actions)
	}
	if err != nil {
		return Task{}, fmt.Errorf("%s: %w", operation, err)
	}
	return task, nil
}
