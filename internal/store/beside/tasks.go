package beside

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"

	"lethe/internal/store/postgres"
	"lethe/internal/store/scheduledtasks"
)

// A homeserver without Redis listens to nothing outside. But it runs the tasks in its
// own table, and a purge of its own clears its caches. So it is asked for one that has
// next to nothing left to do.

// A TaskRequest is a task that the homeserver is asked to run.
type TaskRequest struct {
	// ID is 16 letters, for one task only.
	ID string

	// Action is an action that every supported version of Synapse knows, such as
	// [scheduledtasks.PurgeRoom]: another one would keep it from running any task.
	Action string

	Room string

	// Parameters are encoded as JSON.
	Parameters any
}

// MayRequestTasks reports whether the homeserver has the table of tasks, and the role
// may add one and look at it. The rights to the columns that this takes suffice.
func MayRequestTasks(ctx context.Context, db *postgres.DB) (may bool, err error) {
	err = db.ReadRow(ctx, []any{&may}, `
		SELECT coalesce(bool_and(has_column_privilege(to_regclass('scheduled_tasks')::oid, name, privilege)), false)
		FROM (VALUES
			('id', 'INSERT'), ('action', 'INSERT'), ('status', 'INSERT'), ('timestamp', 'INSERT'), ('resource_id', 'INSERT'), ('params', 'INSERT'),
			('id', 'SELECT'), ('status', 'SELECT'), ('error', 'SELECT')) AS used (name, privilege)`)
	if err != nil {
		return false, fmt.Errorf("look for the homeserver's tasks: %w", err)
	}
	return may, nil
}

// RequestTask adds a task that is due now. The homeserver begins it within a minute. A
// second call with the same id changes nothing.
func RequestTask(ctx context.Context, db postgres.Execer, task TaskRequest) error {
	parameters, err := json.Marshal(task.Parameters)
	if err != nil {
		return fmt.Errorf("encode the task's parameters: %w", err)
	}
	_, err = db.Exec(ctx, `
		INSERT INTO scheduled_tasks (id, action, status, timestamp, resource_id, params)
		VALUES ($1, $2, 'scheduled', (extract(epoch FROM clock_timestamp())::numeric * 1000.0)::bigint, $3, $4)
		ON CONFLICT (id) DO NOTHING`, task.ID, task.Action, task.Room, string(parameters))
	if err != nil {
		return fmt.Errorf("request a task of the homeserver: %w", err)
	}
	return nil
}

// ErrTaskFailed is returned for a task that the homeserver could not do.
var ErrTaskFailed = errors.New("the homeserver's task has failed")

// TaskEnded reports whether the homeserver has done the task. It fails with
// [ErrTaskFailed] if the task has failed or was cancelled, and with
// [postgres.ErrNotFound] if it is not there.
func TaskEnded(ctx context.Context, db *postgres.DB, id string) (bool, error) {
	const operation = "look at a task of the homeserver"
	task, err := scheduledtasks.New(db).Get(ctx, id)
	if err == nil && (task.Status == "failed" || task.Status == "cancelled") {
		reason := ""
		if task.Error != nil {
			reason = *task.Error
		}
		err = fmt.Errorf("%w: %s %s", ErrTaskFailed, task.Status, reason)
	}
	if err != nil {
		return false, fmt.Errorf("%s: %w", operation, err)
	}
	return task.Status == "complete", nil
}

// MarkStateGroups is the statement that moves up to limit unused state groups of the
// room from the candidates to the homeserver's list of groups to delete. The homeserver
// checks each again, and deletes those that it does not use by then. The number of
// groups goes to marked.
func MarkStateGroups(room string, limit int, marked *int64) postgres.Statement {
	return postgres.Statement{
		What: "mark state groups for the homeserver",
		SQL: `
			WITH chunk AS (
				DELETE FROM lethe.state_group_candidates c
				WHERE c.room_id = $1 AND c.state <> 'found' AND c.state_group = ANY (ARRAY(
					SELECT n.state_group FROM lethe.state_group_candidates n
					WHERE n.room_id = $1 AND n.state <> 'found' LIMIT $2))
				RETURNING c.state_group
			), marked AS (
				INSERT INTO state_groups_pending_deletion (state_group, insertion_ts)
				SELECT g.id, (extract(epoch FROM clock_timestamp())::numeric * 1000.0)::bigint
				FROM state_groups g WHERE g.id = ANY (ARRAY(SELECT state_group FROM chunk)) AND g.room_id = $1
				ON CONFLICT (state_group) DO NOTHING
			)
			SELECT count(*) FROM chunk`,
		Args: []any{room, limit},
		Row:  func(row pgx.Row) error { return row.Scan(marked) },
	}
}

// LowestExtremity returns the depth of the lowest forward extremity of a room. A batch
// that purges it must be known to the homeserver at once, which would let its next
// event follow it. It is [postgres.ErrNotFound] for a room without any.
func LowestExtremity(ctx context.Context, q postgres.Querier, room string) (depth int64, err error) {
	var lowest *int64
	err = q.QueryRow(ctx, `
		SELECT min(e.depth) FROM event_forward_extremities x JOIN events e USING (event_id) WHERE x.room_id = $1`, room).Scan(&lowest)
	if err == nil && lowest == nil {
		err = postgres.ErrNotFound
	}
	if err != nil {
		return 0, fmt.Errorf("read the lowest forward extremity: %w", err)
	}
	return *lowest, nil
}
