package vacuum

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"

	"lethe/internal/store/postgres"
)

// Queries reads and writes, as the role of a worker, what ended jobs have left. It is safe
// for concurrent use.
type Queries struct{ db *postgres.DB }

// New returns Queries on the database.
func New(db *postgres.DB) *Queries { return &Queries{db} }

// maxDue is the most jobs of one look.
const maxDue = 1000

// A Job is an ended job that may have left dead rows.
type Job struct {
	ID   string
	Room string

	// Deleted are the numbers of deleted rows by table.
	Deleted map[string]int64

	// Below is the depth below which a purge has deleted events, nil for other jobs and for
	// a purge that has not come so far.
	Below *int64

	// EndedFor is how long ago the job ended.
	EndedFor time.Duration

	// Phase is what is done about it so far.
	Phase Phase
}

// due selects jobs that have ended in the last day, the first to end first. Those of a
// sweep come together when the sweep has ended, with all its jobs, or ten minutes later if
// it takes longer: so their dead rows are added up, and no table is vacuumed for each.
const due = `
	SELECT j.id, j.room_id, j.deleted, clock_timestamp() - j.ended_at, j.vacuum, j.generation,
	       CASE WHEN j.kind = 'purge_history' AND jsonb_typeof(j.checkpoint -> 'complete_below'::text) = 'number'
	            THEN (j.checkpoint ->> 'complete_below'::text)::numeric::bigint END
	FROM lethe.jobs j
	WHERE j.ended_at > clock_timestamp() - interval '1 day' AND j.vacuumed IS DISTINCT FROM j.generation
	  AND (j.queue IS DISTINCT FROM 'low' OR j.ended_at < clock_timestamp() - interval '10 minutes' OR NOT EXISTS (
		SELECT FROM lethe.jobs o
		WHERE o.state IN ('queued', 'running') AND (o.queue = 'low' OR o.kind IN ('retention_sweep', 'abandoned_sweep'))))
	ORDER BY j.ended_at LIMIT $1`

// Due returns jobs that have ended and whose phase has not, up to 1,000. Jobs that have
// deleted nothing are among them.
func (q *Queries) Due(ctx context.Context) ([]Job, error) {
	jobs, err := postgres.ReadAll(ctx, q.db, scanJob, due, maxDue)
	if err != nil {
		return nil, fmt.Errorf("look for jobs that have left dead rows: %w", err)
	}
	return jobs, nil
}

func scanJob(row pgx.CollectableRow) (j Job, err error) {
	var phase []byte
	var generation int
	if err := row.Scan(&j.ID, &j.Room, &j.Deleted, &j.EndedFor, &phase, &generation, &j.Below); err != nil {
		return Job{}, err
	}
	// One that cannot be read, or is that of an earlier end, begins again.
	if len(phase) == 0 || json.Unmarshal(phase, &j.Phase) != nil || j.Phase.Generation != generation || !isXID(j.Phase.Horizon) {
		j.Phase = Phase{State: Waiting, Generation: generation}
		for name, rows := range j.Deleted {
			if rows > 0 {
				j.Phase.Tables = append(j.Phase.Tables, EmptiedTable{Name: name, State: Waiting})
			}
		}
		slices.SortFunc(j.Phase.Tables, func(a, b EmptiedTable) int { return Compare(a.Name, b.Name) })
	}
	return j, nil
}

// isXID reports whether a horizon can be given to the server, as one can that is not known
// yet.
func isXID(horizon string) bool {
	_, err := strconv.ParseUint(horizon, 10, 64)
	return err == nil || horizon == ""
}

// Compare compares names of tables. It puts events first: its dead rows are what readers of a purged room meet.
func Compare(a, b string) int {
	switch {
	case a == b:
		return 0
	case a == "events" || b != "events" && a < b:
		return -1
	}
	return 1
}

// store writes phases $2 of the jobs $1. A job that was retried meanwhile keeps none.
const store = `
	UPDATE lethe.jobs j
	SET vacuum = CASE WHEN w.phase = '' THEN NULL ELSE w.phase::jsonb END, vacuumed = CASE WHEN w.ended THEN j.generation END
	FROM unnest($1::text[], $2::text[], $3::boolean[], $4::int[]) AS w (id, phase, ended, generation)
	WHERE j.id = w.id AND j.generation = w.generation AND j.ended_at IS NOT NULL`

// Store writes the phases of the jobs. A job that has deleted nothing has none.
func (q *Queries) Store(ctx context.Context, jobs []Job) error {
	ids, phases := make([]string, len(jobs)), make([]string, len(jobs))
	ended, generations := make([]bool, len(jobs)), make([]int, len(jobs))
	for i, job := range jobs {
		ids[i], ended[i], generations[i] = job.ID, job.Phase.Ended(), job.Phase.Generation
		if len(job.Phase.Tables) == 0 {
			continue
		}
		text, err := json.Marshal(job.Phase)
		if err != nil {
			return fmt.Errorf("encode the vacuum of a job: %w", err)
		}
		phases[i] = string(text)
	}
	if _, err := q.db.Exec(ctx, store, ids, phases, ended, generations); err != nil {
		return fmt.Errorf("store what was vacuumed: %w", err)
	}
	return nil
}

// Decode reads the phase in a job's row. It is nil if the job has no phase, and for one that it
// cannot read.
func Decode(phase json.RawMessage) *Phase {
	var p Phase
	if len(phase) == 0 || json.Unmarshal(phase, &p) != nil || p.State == "" {
		return nil
	}
	p.Horizon = ""
	return &p
}
