package control

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"lethe/internal/store/journal"
	"lethe/internal/store/postgres"
)

// MaxPage is the most jobs or events of one answer.
const MaxPage = 1000

// defaultPage is the number of jobs of a page without a limit.
const defaultPage = 100

// ErrPosition is returned for the position of a page that no page has given.
var ErrPosition = errors.New("the position of the page is not one that was given out")

// A Filter selects jobs. An empty field selects all jobs.
type Filter struct {
	IDs    []string
	States []journal.State
	Kinds  []journal.Kind

	// Room and Requester are the ids of the room and of the user who has requested the job.
	Room, Requester string

	// Since and Before bound the time at which the job was accepted: from Since on, and
	// before Before.
	Since, Before time.Time

	// EndedSince selects jobs that have ended at this time or later.
	EndedSince time.Time
}

// A Page is a part of a list.
type Page struct {
	// Limit is the most jobs, up to [MaxPage]. Defaults to 100.
	Limit int

	// After is the position after the last job of the page before, from [Control.Jobs].
	// Defaults to "", the beginning of the list.
	After string
}

// A Job is a job with what operators want to know of it.
type Job struct {
	journal.Job

	// Worker names the process that runs the job, "" unless one does.
	Worker string

	// Deleted are the numbers of deleted rows by table, never nil.
	Deleted map[string]int64

	// Progress is read from the job's checkpoint.
	Progress

	// Due is the end of the job's grace, zero if it had none. Started and Ended are zero
	// before the job has. Updated is the time of the last change.
	Due, Created, Started, Updated, Ended time.Time

	// LastFailure is the last error that a batch met since the last batch without one, ""
	// if there was none.
	LastFailure string

	// Vacuum is what was done about the space that the job has left, in JSON, nil if nothing
	// was. It is for package store/vacuum.
	Vacuum json.RawMessage

	// Turn is the place of a queued job among the room's queued jobs, 1 for the next. It is
	// 0 for other jobs.
	Turn int
}

// Progress is the progress of a job of any kind.
type Progress struct {
	// Phase is the part of the work that the job is in, "" before the first batch.
	Phase string

	// Done is how many events the job has gone through, and Events how many it has deleted.
	// Of a sweep, Done is how many rooms it has decided, and Events is 0.
	Done, Events int64

	// Batches is how many batches the job has committed, 0 for a sweep.
	Batches int64

	// CompleteBelow is the depth below which a purge has deleted all that it should, nil
	// before the first batch and for other kinds.
	CompleteBelow *int64

	// AbsorbedBy is the id of the purge that does the work of this one, "" if it does so
	// itself.
	AbsorbedBy string
}

// progressOf reads a checkpoint. One that it cannot read is no progress.
func progressOf(checkpoint json.RawMessage) Progress {
	var at struct {
		Phase         string `json:"phase"`
		Deleted       int64  `json:"events_deleted"`
		Kept          int64  `json:"events_kept"`
		Batches       int64  `json:"batches"`
		CompleteBelow *int64 `json:"complete_below"`
		AbsorbedBy    string `json:"absorbed_by"`
		Sweep         struct {
			Rooms int64 `json:"rooms"`
		} `json:"sweep"`
	}
	if len(checkpoint) == 0 || json.Unmarshal(checkpoint, &at) != nil {
		return Progress{}
	}
	return Progress{
		Phase: at.Phase, Done: at.Deleted + at.Kept + at.Sweep.Rooms, Events: at.Deleted, Batches: at.Batches,
		CompleteBelow: at.CompleteBelow, AbsorbedBy: at.AbsorbedBy,
	}
}

// columns are the columns that [scan] reads of a job j.
const columns = journal.JobColumns + `,
	CASE WHEN state = 'running' THEN coalesce(worker, '') ELSE '' END,
	CASE WHEN w.mappings IS NULL THEN deleted ELSE lethe.add_rows(deleted, pg_catalog.jsonb_build_object('event_to_state_groups', w.mappings)) END,
	due_at, created_at, started_at, updated_at, ended_at, coalesce(last_failure, ''),
	CASE WHEN state = 'queued' AND room_id <> '' THEN 1 + (
		SELECT count(*) FROM lethe.jobs o
		WHERE o.room_id = j.room_id AND o.state = 'queued'
		  AND (o.queue IS NOT DISTINCT FROM 'low', o.created_at, o.id) < (j.queue IS NOT DISTINCT FROM 'low', j.created_at, j.id)) ELSE 0 END,
	CASE WHEN state IN ('queued', 'running') AND room_id <> '' THEN (
		SELECT min(o.id) FROM lethe.jobs o WHERE o.room_id = j.room_id AND o.state = 'running' AND o.id <> j.id) END,
	CASE WHEN state = 'scheduled' THEN pg_catalog.concat_ws(', and ', ` + journal.PauseOf + `, (
		SELECT 'hold: ' || h.reason FROM lethe.holds h WHERE h.room_id = j.room_id AND h.released_at IS NULL)) END,
	CASE WHEN state = 'queued' THEN (
		SELECT f.jobs FROM lethe.fleet f WHERE f.kind = j.kind AND f.jobs <= (
			SELECT count(*) FROM lethe.jobs o WHERE o.kind = j.kind AND o.state = 'running')) END,
	clock_timestamp() - coalesce(j.waits_since, CASE WHEN started_at IS NULL THEN created_at ELSE updated_at END),
	CASE WHEN ended_at IS NOT NULL THEN j.vacuum END`

// from are the tables of [columns].
const from = ` FROM lethe.jobs j LEFT JOIN lethe.swept_mappings w ON w.job_id = j.id`

func scan(row pgx.CollectableRow) (j Job, err error) {
	var due, started, ended *time.Time
	var active, stops *string
	var full *int
	var waits time.Duration
	j.Job, err = journal.ScanJob(row, &j.Worker, &j.Deleted, &due, &j.Created, &started, &j.Updated, &ended, &j.LastFailure,
		&j.Turn, &active, &stops, &full, &waits, &j.Vacuum)
	j.Due, j.Started, j.Ended = orZero(due), orZero(started), orZero(ended)
	j.Progress = progressOf(j.Checkpoint)
	if j.Deleted == nil {
		j.Deleted = map[string]int64{}
	}
	if j.Total != nil && *j.Total < j.Done { // events have come since they were counted
		j.Total = &j.Done
	}
	switch {
	case j.State.Ended():
		j.WaitsFor, j.WaitsSince = "", 0
	case j.WaitsFor == journal.RoomLockTaken && active != nil:
		j.WaitsFor = "room's lock, held by the job " + *active
	case j.WaitsFor == journal.RoomLockTaken:
		j.WaitsFor = "room's lock, held by readers"
	case j.WaitsFor == "":
		if j.WaitsFor = j.waitsFor(active, stops, full); j.WaitsFor != "" {
			j.WaitsSince = waits
		}
	}
	return j, err
}

// waitsFor says what a job waits for whose row does not. active is another job of the room
// that runs, stops what will stop the job after its grace, and full the fleet's limit if
// that is reached. Each is nil otherwise.
func (j *Job) waitsFor(active, stops *string, full *int) string {
	switch {
	case j.State == journal.Scheduled && stops != nil && *stops != "":
		return "grace: it ends at " + j.Due.UTC().Format(time.RFC3339) + ", and then comes the " + *stops
	case j.State == journal.Scheduled:
		return "grace: it ends at " + j.Due.UTC().Format(time.RFC3339)
	case j.State == journal.Absorbed:
		return "absorbed: the purge " + j.AbsorbedBy + " does its work"
	case j.State == journal.Queued && active != nil: // which has the first turn
		return "turn: " + ordinal(j.Turn+1) + " of this room, of which the job " + *active + " runs"
	case j.State == journal.Queued && j.Turn > 1:
		return "turn: " + ordinal(j.Turn) + " of this room"
	case full != nil:
		return fmt.Sprintf("limit: at a time the fleet runs %d of the kind %s", *full, j.Kind)
	}
	return ""
}

// ordinal returns 1st, 2nd and so on.
func ordinal(n int) string {
	suffix := "th"
	if tens := n / 10 % 10; tens != 1 {
		switch n % 10 {
		case 1:
			suffix = "st"
		case 2:
			suffix = "nd"
		case 3:
			suffix = "rd"
		}
	}
	return strconv.Itoa(n) + suffix
}

// A condition collects the conditions of a query and their arguments.
type condition struct {
	sql  []string
	args []any
}

// add adds a condition in which each ? is an argument.
func (c *condition) add(sql string, args ...any) {
	for _, arg := range args {
		c.args = append(c.args, arg)
		sql = strings.Replace(sql, "?", "$"+strconv.Itoa(len(c.args)), 1)
	}
	c.sql = append(c.sql, sql)
}

// where returns the conditions, after WHERE.
func (c *condition) where() string {
	if len(c.sql) == 0 {
		return ""
	}
	return ` WHERE ` + strings.Join(c.sql, ` AND `)
}

// conditions returns the conditions of the filter, each of which may use an index, and
// whether any job can match.
func (f Filter) conditions() (c condition, possible bool) {
	if !postgres.Storable(f.Room) || !postgres.Storable(f.Requester) {
		return c, false
	}
	if f.IDs != nil {
		for _, id := range f.IDs {
			if !postgres.Storable(id) {
				return c, false
			}
		}
		c.add(`j.id = ANY (?)`, f.IDs)
	}
	if len(f.States) > 0 {
		c.add(`j.state = ANY (?)`, f.States)
	}
	if len(f.Kinds) > 0 {
		c.add(`j.kind = ANY (?)`, f.Kinds)
	}
	if f.Room != "" {
		c.add(`j.room_id = ?`, f.Room)
	}
	if f.Requester != "" {
		c.add(`j.requester = ?`, f.Requester)
	}
	if !f.Since.IsZero() {
		c.add(`j.created_at >= ?`, f.Since)
	}
	if !f.Before.IsZero() {
		c.add(`j.created_at < ?`, f.Before)
	}
	if !f.EndedSince.IsZero() {
		c.add(`j.ended_at >= ?`, f.EndedSince)
	}
	return c, true
}

// Jobs returns a page of the jobs that match, the newest first, and the position of the
// next page, "" if this is the last. It fails with [ErrPosition] for a page that does not
// exist.
func (c *Control) Jobs(ctx context.Context, filter Filter, page Page) (jobs []Job, next string, err error) {
	const operation = "list jobs"
	where, possible := filter.conditions()
	if page.After != "" {
		at, id, err := parsePosition(page.After)
		if err != nil {
			return nil, "", fmt.Errorf("%s: %w", operation, err)
		}
		where.add(`(j.created_at, j.id) < (?, ?)`, at, id)
	}
	if !possible {
		return nil, "", nil
	}
	limit := page.Limit
	if limit <= 0 {
		limit = defaultPage
	}
	limit = min(limit, MaxPage)
	jobs, err = postgres.ReadAll(ctx, c.db, scan,
		`SELECT `+columns+from+where.where()+` ORDER BY j.created_at DESC, j.id DESC LIMIT `+strconv.Itoa(limit+1), where.args...)
	if err != nil {
		return nil, "", fmt.Errorf("%s: %w", operation, err)
	}
	if len(jobs) > limit {
		jobs = jobs[:limit]
		next = position(jobs[limit-1])
	}
	return jobs, next, nil
}

// position returns the position after a job.
func position(j Job) string {
	return base64.RawURLEncoding.EncodeToString(fmt.Appendf(nil, "%d %s", j.Created.UnixMicro(), j.ID))
}

func parsePosition(text string) (at time.Time, id string, err error) {
	decoded, err := base64.RawURLEncoding.DecodeString(text)
	if err != nil {
		return at, "", ErrPosition
	}
	micros, id, ok := strings.Cut(string(decoded), " ")
	n, err := strconv.ParseInt(micros, 10, 64)
	// PostgreSQL has no times far before or after these.
	if at = time.UnixMicro(n).UTC(); err != nil || !ok || !postgres.Storable(id) || at.Year() < 1970 || at.Year() > 9999 {
		return at, "", ErrPosition
	}
	return at, id, nil
}

// Job returns a job. An unknown id is [postgres.ErrNotFound].
func (c *Control) Job(ctx context.Context, id string) (Job, error) {
	job, err := c.job(ctx, c.db, id)
	if err != nil {
		return Job{}, fmt.Errorf("read the job: %w", err)
	}
	return job, nil
}

func (c *Control) job(ctx context.Context, q postgres.Querier, id string) (job Job, err error) {
	if !postgres.Storable(id) {
		return Job{}, postgres.ErrNotFound
	}
	err = postgres.RetryRead(ctx, func() error {
		rows, err := q.Query(ctx, `SELECT `+columns+from+` WHERE j.id = $1`, id)
		if err != nil {
			return err
		}
		job, err = pgx.CollectExactlyOneRow(rows, scan)
		return err
	})
	if errors.Is(err, pgx.ErrNoRows) {
		err = postgres.ErrNotFound
	}
	return job, err
}
