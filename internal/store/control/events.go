package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"lethe/internal/store/postgres"
	"lethe/internal/wait"
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

// Events returns up to limit events with a higher id than after, in the order of their
// ids, of one job, or of all jobs if job is "". A caller that asks again with the last
// id gets each event once, and misses none. While a transaction with an earlier event does
// not end, for which it waits up to 2 s, it returns none. Events of jobs that are pruned
// are gone.
func (c *Control) Events(ctx context.Context, after int64, job string, limit int) ([]Event, error) {
	const operation = "read events of jobs"
	if !postgres.Storable(job) {
		return nil, nil
	}
	last, err := c.lastSettled(ctx, after)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", operation, err)
	}
	if last <= after {
		return nil, nil
	}
	events, err := postgres.ReadAll(ctx, c.db, scanEvent, `
		SELECT `+eventColumns+` FROM lethe.job_events
		WHERE id > $1 AND id <= $2 AND ($3 = '' OR job_id = $3) ORDER BY id LIMIT $4`, after, last, job, min(max(limit, 1), MaxPage))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", operation, err)
	}
	return events, nil
}

// ErrUnsettled is returned while a transaction with an event does not end.
var ErrUnsettled = errors.New("an event of a job is being written")

// LastEvent returns the id of the last event that [Control.Events] would return now, 0
// before the first. It fails with [ErrUnsettled] if a transaction with an event does not end
// within 2 s.
func (c *Control) LastEvent(ctx context.Context) (int64, error) {
	last, err := c.lastSettled(ctx, -1)
	if err == nil && last < 0 {
		err = ErrUnsettled
	}
	if err != nil {
		return 0, fmt.Errorf("read the last event of jobs: %w", err)
	}
	return last, nil
}

const (
	// settleTime bounds the wait for transactions with events, which commit at once. In
	// between it looks each settleLook, and then less often.
	settleTime = 2 * time.Second
	settleLook = 2 * time.Millisecond
)

// writers selects the transactions that may have taken the id of an event. Each has this
// lock from before it takes the id until it has ended, and then its events are visible.
const writers = `
	SELECT l.virtualtransaction FROM pg_locks l
	WHERE l.relation = 'lethe.job_events'::regclass::oid AND l.mode = 'RowExclusiveLock' AND l.granted
	  AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())`

// lastSettled returns an id up to which no event can appear any more, or after if it finds
// none above that.
//
// Ids are taken before their transactions commit, so an event may appear after one with a
// higher id. If ids are missing, their transactions have been rolled back, or have not
// ended, or the events were pruned. So it waits for the end of those that write at this
// moment. It need not wait for those that begin later, which take higher ids.
func (c *Control) lastSettled(ctx context.Context, after int64) (last int64, err error) {
	var complete bool
	if err := c.db.ReadRow(ctx, []any{&last, &complete}, `
		WITH newest AS (SELECT coalesce(max(id), 0) AS id FROM lethe.job_events)
		SELECT n.id, n.id <= $1 OR n.id - $1 <= $2 AND n.id - $1 = (
			SELECT count(*) FROM lethe.job_events e WHERE e.id > $1 AND e.id <= n.id)
		FROM newest n`, after, MaxPage); err != nil || complete {
		return last, err
	}
	open, err := postgres.ReadAll(ctx, c.db, pgx.RowTo[string], writers)
	if err != nil || len(open) == 0 {
		return last, err
	}
	waiting, cancel := context.WithTimeout(ctx, settleTime)
	defer cancel()
	backoff := wait.Backoff{Min: settleLook, Max: 50 * settleLook}
	for {
		var still bool
		if err := c.db.ReadRow(ctx, []any{&still}, `
			SELECT EXISTS (`+writers+` AND l.virtualtransaction = ANY ($1))`, open); err != nil {
			return after, err
		}
		if !still {
			return last, nil
		}
		if backoff.Wait(waiting) != nil {
			return after, context.Cause(ctx)
		}
	}
}
