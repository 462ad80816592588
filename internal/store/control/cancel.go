package control

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/jackc/pgx/v5"

	"lethe/internal/store/postgres"
)

// cancel ends a job. The row decides: a run that is in a batch cannot commit it, because
// its generation is no longer the row's.
func cancel(ctx context.Context, tx pgx.Tx, job Job, request Request) error {
	switch {
	case job.State.Ended():
		return hasEnded(job)
	case vanished(job):
		return refusal("its room is gone, and what is left of the room must go too")
	}
	detail := map[string]any{}
	if job.CompleteBelow != nil {
		detail["complete_below"] = *job.CompleteBelow
	}
	if err := note(ctx, tx, job, request, detail); err != nil {
		return err
	}
	if err := endTask(ctx, tx, job); err != nil {
		return err
	}
	if err := unlock(ctx, tx, job); err != nil {
		return err
	}
	_, err := tx.Exec(ctx, `
		UPDATE lethe.jobs
		SET state = 'cancelled', generation = generation + 1, heartbeat_at = NULL, task_missing_since = NULL,
		    waits_for = NULL, waits_since = NULL, ended_at = clock_timestamp(), updated_at = clock_timestamp()
		WHERE id = $1`, job.ID)
	if err != nil {
		return err
	}
	return endPause(ctx, tx, job.ID)
}

// vanished reports whether a delete has begun to delete the room. From then on users do not
// see it any more, and a part of it is of no use to anybody.
func vanished(job Job) bool {
	var at struct {
		LookAt int64 `json:"look_at"`
		At     struct {
			Part string `json:"part"`
		} `json:"at"`
	}
	if len(job.Checkpoint) == 0 || json.Unmarshal(job.Checkpoint, &at) != nil {
		return false
	}
	return job.Phase == "purging" && (at.At.Part != "" || at.LookAt != 0)
}

// endTask deletes the task by which the homeserver would go on with the job. It refuses if
// the homeserver is at it. Both need rights that only a role beside a homeserver has.
func endTask(ctx context.Context, tx pgx.Tx, job Job) error {
	var at struct {
		Task string `json:"task"`
	}
	if len(job.Checkpoint) == 0 || json.Unmarshal(job.Checkpoint, &at) != nil || at.Task == "" {
		return nil
	}
	var readable, deletable bool
	if err := tx.QueryRow(ctx, `
		SELECT coalesce(has_table_privilege(name::oid, 'SELECT'), false), coalesce(has_table_privilege(name::oid, 'DELETE'), false)
		FROM to_regclass('scheduled_tasks') AS name`).Scan(&readable, &deletable); err != nil || !readable {
		return err
	}
	if deletable {
		if _, err := tx.Exec(ctx, `DELETE FROM scheduled_tasks WHERE id = $1 AND status = 'scheduled'`, at.Task); err != nil {
			return fmt.Errorf("end the homeserver's task: %w", err)
		}
	}
	var open bool
	if err := tx.QueryRow(ctx, `
		SELECT EXISTS (SELECT FROM scheduled_tasks WHERE id = $1 AND status IN ('scheduled', 'active'))`, at.Task).Scan(&open); err != nil {
		return fmt.Errorf("look for the homeserver's task: %w", err)
	}
	if open {
		return refusal("Synapse runs its task " + at.Task + " for the job, which Lethe cannot stop")
	}
	return nil
}

// unlock releases the locks at the homeserver that a run of the job has left for the next
// one, if the role has the rights. Otherwise a worker does so, or the homeserver after two
// minutes. A run in a batch cannot commit without them, nor after the cancel.
func unlock(ctx context.Context, tx pgx.Tx, job Job) error {
	var there bool
	if err := tx.QueryRow(ctx, `SELECT to_regclass('worker_read_write_locks') IS NOT NULL`).Scan(&there); err != nil || !there {
		return err
	}
	// The triggers of the table need rights on another one, so only an attempt shows
	// whether the role has them all.
	err := pgx.BeginFunc(ctx, tx, func(tx pgx.Tx) error {
		_, err := tx.Exec(ctx, `DELETE FROM worker_read_write_locks WHERE lock_key = $1 AND token = $2`, job.Room, job.ID)
		return err
	})
	if err != nil && !postgres.HasCode(err, "42501") { // insufficient privilege
		return fmt.Errorf("unlock the room at the homeserver: %w", err)
	}
	return nil
}
