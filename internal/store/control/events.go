package control

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"lethe/internal/store/postgres"
)

// An Event is a change of a job's state, or a verb.
type Event struct {
	// ID is above those of all earlier events, of all jobs.
	ID    int64
	JobID string
	At    time.Time

	// Event is the job's new state, or the verb.
	Event string

	// Who has done it, and why. They are "" for a change that a process of Lethe's has made,
	// except that a new job names its requester.
	Who, Reason string

	// Detail is an object with more about the event.
	Detail json.RawMessage
}

const eventColumns = `id, job_id, at, event, coalesce(who, ''), coalesce(reason, ''), detail`

func scanEvent(row pgx.CollectableRow) (e Event, err error) {
	err = row.Scan(&e.ID, &e.JobID, &e.At, &e.Event, &e.Who, &e.Reason, &e.Detail)
	return e, err
}

// maxLog bounds the events of one job's log.
const maxLog = 1000

// Log returns what has happened to a job, the oldest first: the newest 1,000 events. An
// unknown id has none.
func (c *Control) Log(ctx context.Context, id string) ([]Event, error) {
	if !postgres.Storable(id) {
		return nil, nil
	}
	events, err := postgres.ReadAll(ctx, c.db, scanEvent, `
		SELECT * FROM (
			SELECT `+eventColumns+` FROM lethe.job_events WHERE job_id = $1 ORDER BY id DESC LIMIT $2) AS newest
		ORDER BY id`, id, maxLog)
	if err != nil {
		return nil, fmt.Errorf("read the job's log: %w", err)
	}
	return events, nil
}

// lastSettled selects the id up to which no event can appear any more.
//
// Ids are taken before their transactions commit, so an event may appear after one with a
// higher id. Each row has a number that is above those of all transactions that had taken
// a lower id. Once all these have ended, the rows up to this one are complete, and this
// statement sees them. A long transaction of another program would hold that up, so an
// event counts after 5 s anyway: a transaction that writes one commits at once.
const lastSettled = `
	coalesce((
		SELECT id FROM lethe.job_events
		WHERE settled_by <= pg_snapshot_xmin(pg_current_snapshot()) OR at < clock_timestamp() - interval '5 seconds'
		ORDER BY id DESC LIMIT 1), 0)`

// Events returns up to limit events with a higher id than after, in the order of their
// ids, of one job, or of all jobs if job is "". A caller that asks again with the last
// id gets each event once, and misses none. Events of jobs that are pruned are gone.
func (c *Control) Events(ctx context.Context, after int64, job string, limit int) ([]Event, error) {
	if !postgres.Storable(job) {
		return nil, nil
	}
	events, err := postgres.ReadAll(ctx, c.db, scanEvent, `
		SELECT `+eventColumns+` FROM lethe.job_events
		WHERE id > $1 AND id <= `+lastSettled+` AND ($2 = '' OR job_id = $2) ORDER BY id LIMIT $3`, after, job, min(max(limit, 1), MaxPage))
	if err != nil {
		return nil, fmt.Errorf("read events of jobs: %w", err)
	}
	return events, nil
}

// LastEvent returns the id of the last event that [Control.Events] would return now, 0 if
// there is none.
func (c *Control) LastEvent(ctx context.Context) (id int64, err error) {
	if err := c.db.ReadRow(ctx, []any{&id}, `SELECT `+lastSettled); err != nil {
		return 0, fmt.Errorf("read the last event of jobs: %w", err)
	}
	return id, nil
}
