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
	// Kinds and States are those to list. A delete of an abandoned room is of the
	// kind [ListedPurge] here.
	Kinds  []Kind
	States []State

	// Room, unless nil, is the id of their room. Those without one are not found by
	// "".
	Room *string

	// Until, unless nil, is when they must have changed last, in Unix
	// milliseconds.
	Until *int64

	// EndedWithin bounds how long ago those that have ended did.
	EndedWithin time.Duration

	// Limit is how many to return at most: those that changed last.
	Limit int
}

// A ListedJob is what a list says of a job.
type ListedJob struct {
	ID    string
	Kind  Kind
	Room  string
	State State

	// ChangedTS is when the job changed last, in Unix milliseconds.
	ChangedTS int64

	// Phase is the phase that the job is in, "" before the first.
	Phase string

	// Result is how far the shutdown of the room is, or the sweep of all rooms, nil
	// unless that has begun.
	Result json.RawMessage

	// Error says why the job failed, nil unless it did.
	Error *string
}

// ListedPurge is the kind under which deletes of abandoned rooms are listed.
const ListedPurge Kind = "purge_room"

// listedKind is a job's kind as it is listed.
const listedKind = `CASE WHEN kind = 'delete_room' AND parameters @> '{"abandoned": true}' THEN '` + string(ListedPurge) + `' ELSE kind END`

// ListJobs lists jobs in the order of their last change.
func (j *Journal) ListJobs(ctx context.Context, list JobList) ([]ListedJob, error) {
	if list.Room != nil && (*list.Room == "" || !postgres.Storable(*list.Room)) {
		return nil, nil
	}
	jobs, err := postgres.ReadAll(ctx, j.db, pgx.RowToStructByPos[ListedJob], `
		SELECT * FROM (
			SELECT id, `+listedKind+` AS kind, room_id, state, floor(extract(epoch FROM updated_at) * 1000)::bigint AS changed_ts,
			       coalesce(checkpoint ->> 'phase', '') AS phase,
			       coalesce(checkpoint -> 'shutdown_room', checkpoint -> 'sweep') AS result, error
			FROM lethe.jobs
			WHERE `+listedKind+` = ANY ($1) AND state = ANY ($2) AND ($3::text IS NULL OR room_id = $3)
			  AND (ended_at IS NULL OR ended_at > clock_timestamp() - $5::interval)
			  AND ($4::bigint IS NULL OR floor(extract(epoch FROM updated_at) * 1000) <= $4)
			ORDER BY changed_ts DESC, id DESC
			LIMIT $6) j
		ORDER BY changed_ts, id`, list.Kinds, list.States, list.Room, list.Until, list.EndedWithin, list.Limit)
	if err != nil {
		return nil, fmt.Errorf("list the jobs: %w", err)
	}
	return jobs, nil
}
