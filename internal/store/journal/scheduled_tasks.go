package journal

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"lethe/internal/store/postgres"

	"github.com/jackc/pgx/v5"
)

// A JobList says which jobs to list.
type JobList struct {
	// Kinds and States are the kinds and states to list. A delete of an abandoned room
	// has the kind [ListedPurge] here.
	Kinds  []Kind
	States []State

	// Room, unless nil, is the id of the jobs' room. "" finds no job, not even those
	// without a room.
	Room *string

	// Until, unless nil, is a time in Unix milliseconds. Only jobs that last changed
	// until then are listed.
	Until *int64

	// EndedWithin is the maximum time since the end of an ended job.
	EndedWithin time.Duration

	// Limit is the maximum number of jobs. Those that changed last are listed.
	Limit int
}

// A ListedJob is the entry of a job in a list.
type ListedJob struct {
	ID    string
	Kind  Kind
	Room  string
	State State

	// ChangedTS is the time of the job's last change, in Unix milliseconds.
	ChangedTS int64

	// Phase is the job's current phase, "" before the first.
	Phase string

	// Result is the progress of the room's shutdown, or of the sweep, nil before it has
	// begun. After a delete it also has what the check has found.
	Result json.RawMessage

	// Error says why the job failed, nil unless it did.
	Error *string

	// WaitsFor is what the job waits for, in words, "" if it works or only waits for its turn.
	WaitsFor string

	// Progress counts what the job has done so far, nil before its first batch.
	Progress json.RawMessage
}

// ListedPurge is the kind under which deletes of abandoned rooms are listed.
const ListedPurge Kind = "purge_room"

// listedKind selects the kind under which a job is listed.
const listedKind = `CASE WHEN kind = 'delete_room' AND parameters @> '{"abandoned": true}' THEN '` + string(ListedPurge) + `' ELSE kind END`

// ListJobs lists jobs in the order of their last change.
func (j *Journal) ListJobs(ctx context.Context, list JobList) ([]ListedJob, error) {
	if list.Room != nil && (*list.Room == "" || !postgres.Storable(*list.Room)) {
		return nil, nil
	}
	jobs, err := postgres.ReadAll(ctx, j.db, pgx.RowToStructByPos[ListedJob], `
		SELECT * FROM (
			SELECT id, `+listedKind+` AS kind, room_id, state, floor(extract(epoch FROM updated_at)::numeric * 1000.0)::bigint AS changed_ts,
			       coalesce(checkpoint ->> 'phase'::text, '') AS phase,
			       -- What a delete has left is beside its shutdown in the checkpoint.
			       CASE WHEN jsonb_typeof(checkpoint -> 'shutdown_room'::text) = 'object'
			       THEN (checkpoint -> 'shutdown_room'::text) || jsonb_strip_nulls(pg_catalog.jsonb_build_object(
			           'left', checkpoint -> 'left'::text, 'kept', checkpoint -> 'kept'::text, 'not_checked', checkpoint -> 'not_checked'::text,
			           'check_skipped', checkpoint -> 'check_skipped'::text))
			       ELSE coalesce(checkpoint -> 'shutdown_room'::text, checkpoint -> 'sweep'::text) END AS result, error,
			       CASE WHEN ended_at IS NULL THEN coalesce(waits_for, '') ELSE '' END AS waits_for,
			       CASE WHEN checkpoint ?& '{phase,batches}'::text[] THEN jsonb_strip_nulls(pg_catalog.jsonb_build_object(
			           'phase', checkpoint -> 'phase'::text, 'events_deleted', checkpoint -> 'events_deleted'::text, 'events_kept', checkpoint -> 'events_kept'::text,
			           'batches', checkpoint -> 'batches'::text, 'complete_below', checkpoint -> 'complete_below'::text)) END AS progress
			FROM lethe.jobs
			WHERE `+listedKind+` = ANY ($1) AND state = ANY ($2) AND ($3::text IS NULL OR room_id = $3)
			  AND (ended_at IS NULL OR ended_at > clock_timestamp() - $5::interval)
			  AND ($4::bigint IS NULL OR floor(extract(epoch FROM updated_at)::numeric * 1000.0)::bigint <= $4)
			ORDER BY changed_ts DESC, id DESC
			LIMIT $6) j
		ORDER BY changed_ts, id`, list.Kinds, list.States, list.Room, list.Until, list.EndedWithin, list.Limit)
	if err != nil {
		return nil, fmt.Errorf("list the jobs: %w", err)
	}
	return jobs, nil
}

// WaitingDeletes returns how many deletes wait between shutdown and purge for the
// homeserver's federation, and the highest place in the stream of events that one of
// them waits for.
func (j *Journal) WaitingDeletes(ctx context.Context) (deletes int, place int64, err error) {
	if err := j.db.ReadRow(ctx, []any{&deletes, &place}, `
		SELECT count(*), coalesce(max((checkpoint -> 'leaves_at'::text)::bigint), 0) FROM lethe.jobs
		WHERE kind = 'delete_room' AND state IN ('scheduled', 'queued', 'running', 'held', 'paused')
		  AND checkpoint @> '{"phase": "shutting_down"}' AND checkpoint ? 'leaves_at'::text`); err != nil {
		return 0, 0, fmt.Errorf("count the deletes that wait for federation: %w", err)
	}
	return deletes, place, nil
}
