package vacuum

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"lethe/internal/observe"
	"lethe/internal/store/postgres"
	"lethe/internal/store/vacuum"
	"lethe/internal/wait"
)

// Options are the options of a [Vacuumer].
type Options struct {
	// ApplicationName is the name of the session in pg_stat_activity. Defaults to "lethe
	// vacuum".
	ApplicationName string

	// CostDelay and CostLimit are the session's vacuum_cost_delay and vacuum_cost_limit.
	// Without a limit they default to 2 ms and 1,000.
	CostDelay time.Duration
	CostLimit int

	// DeadShare is the share of dead rows from which on a table is vacuumed. Defaults to 0,
	// any share.
	DeadShare float64

	// Interval is how often a Vacuumer looks for jobs that have ended. Defaults to 1 s.
	Interval time.Duration

	// MinRows is the number of dead rows from which on a table is vacuumed. Defaults to 0, any
	// number.
	MinRows int64

	// SkipWalk leaves out the walks through index entries. Defaults to false.
	SkipWalk bool

	// SnapshotWait is how long after a job's end its tables wait for the end of older
	// snapshots. Defaults to 0, not at all.
	SnapshotWait time.Duration

	// Timeout bounds the VACUUM of one table. Defaults to 1 h.
	Timeout time.Duration

	// URL is the URL of the database, for the role that vacuums. It has no default.
	URL string

	// WorkerURL is the URL of the database for the role of the worker. It is used when URL
	// cannot be. Defaults to URL.
	WorkerURL string
}

func (o Options) withDefaults() Options {
	o.ApplicationName = cmp.Or(o.ApplicationName, "lethe vacuum")
	if o.CostLimit == 0 {
		o.CostDelay, o.CostLimit = 2*time.Millisecond, 1000
	}
	o.Interval = cmp.Or(o.Interval, time.Second)
	o.Timeout = cmp.Or(o.Timeout, time.Hour)
	o.WorkerURL = cmp.Or(o.WorkerURL, o.URL)
	return o
}

const (
	// lookTime bounds the statements of a round that read and write rows of Lethe's.
	lookTime = 30 * time.Second

	// walkTime bounds the walks of a round, whatever the number of its jobs: the tables wait
	// for them.
	walkTime = time.Minute

	// leaveTime bounds what is written when the worker stops.
	leaveTime = 3 * time.Second

	// statisticsWait is how long the statistics of a VACUUM are waited for, and
	// statisticsLook how often. Before PostgreSQL 15 they are up to a second late.
	statisticsWait = 3 * time.Second
	statisticsLook = 50 * time.Millisecond

	// maxPause is the longest pause after rounds that have failed.
	maxPause = time.Minute

	// maxBegun is how often the VACUUM of a table is begun for a job, if it never comes to
	// an end.
	maxBegun = 3
)

// The outcomes in the metrics.
const (
	outcomeDone    = "done"
	outcomeSkipped = "skipped"
	outcomeFailed  = "failed"
	outcomeStopped = "stopped"
)

// A Vacuumer vacuums the tables that ended jobs have emptied. Each worker has one, and one
// of them works at a time.
type Vacuumer struct {
	options Options
	queries *vacuum.Queries
	log     *slog.Logger
	metrics *observe.Metrics

	// session is nil while there is nothing to do. refused says why it does not have the
	// role that vacuums.
	session *vacuum.Session
	refused string
}

// New returns a Vacuumer on the database, which the caller closes. It does nothing before
// [Vacuumer.Run].
func New(db *postgres.DB, log *slog.Logger, metrics *observe.Metrics, options Options) *Vacuumer {
	for _, outcome := range []string{outcomeDone, outcomeSkipped, outcomeFailed, outcomeStopped} {
		metrics.Vacuums.WithLabelValues(outcome)
	}
	for _, outcome := range []string{outcomeDone, outcomeSkipped} {
		metrics.IndexWalks.WithLabelValues(outcome)
	}
	return &Vacuumer{options: options.withDefaults(), queries: vacuum.New(db), log: log, metrics: metrics}
}

// Run looks for jobs that have ended until the context ends. Then a VACUUM is cancelled,
// and another worker begins it again. It must be called only once.
func (v *Vacuumer) Run(ctx context.Context) {
	defer v.close()
	pause := wait.Backoff{Min: v.options.Interval, Max: max(maxPause, v.options.Interval)}
	wait.Every(ctx, v.options.Interval, func(ctx context.Context) {
		err := v.round(ctx)
		if err == nil || ctx.Err() != nil {
			pause.Reset()
			return
		}
		v.close() // a session that has failed may not have the lock any more
		v.log.WarnContext(ctx, "vacuum after jobs failed: it will be tried again", "error", err)
		_ = pause.Wait(ctx) // the loop sees why it ended early
	})
}

func (v *Vacuumer) close() {
	if v.session != nil {
		v.session.Close()
		v.session = nil
	}
}

// round does what is due, if no other worker does.
func (v *Vacuumer) round(ctx context.Context) (err error) {
	due, err := v.due(ctx)
	if err != nil {
		return err
	}
	if len(due) == 0 {
		v.close()
		return nil
	}
	if v.session == nil {
		if err := v.open(ctx); err != nil {
			return err
		}
	}
	bounded, cancel := context.WithTimeout(ctx, lookTime)
	defer cancel()
	if locked, err := v.session.Lock(bounded); err != nil || !locked {
		return err
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), leaveTime)
		defer cancel()
		if failed := v.session.Unlock(ctx); failed != nil {
			v.close()
		}
	}()
	// Another worker may have done it meanwhile.
	if due, err = v.due(ctx); err != nil {
		return err
	}
	ready, err := v.begin(ctx, due)
	if err != nil || len(ready) == 0 {
		return err
	}
	return v.work(ctx, ready)
}

func (v *Vacuumer) due(ctx context.Context) ([]vacuum.Job, error) {
	ctx, cancel := context.WithTimeout(ctx, lookTime)
	defer cancel()
	return v.queries.Due(ctx)
}

// open opens the session, as the worker's role if the role that vacuums cannot connect.
func (v *Vacuumer) open(ctx context.Context) (err error) {
	ctx, cancel := context.WithTimeout(ctx, lookTime)
	defer cancel()
	v.refused = ""
	if v.session, err = v.queries.Open(ctx, v.options.URL, v.options.ApplicationName); err == nil || v.options.URL == v.options.WorkerURL || ctx.Err() != nil {
		return err
	}
	v.refused = "vacuum.database_url cannot be used: " + err.Error()
	v.session, err = v.queries.Open(ctx, v.options.WorkerURL, v.options.ApplicationName)
	return err
}

// begin returns the jobs whose dead rows can be removed by now. The others wait, or have
// waited long enough.
func (v *Vacuumer) begin(ctx context.Context, due []vacuum.Job) (ready []vacuum.Job, err error) {
	ctx, cancel := context.WithTimeout(ctx, lookTime)
	defer cancel()
	now, err := v.queries.Horizon(ctx)
	if err != nil {
		return nil, err
	}
	var changed []vacuum.Job
	holders := map[string]string{} // by horizon
	for _, job := range due {
		phase := &job.Phase
		if len(phase.Tables) == 0 {
			phase.Settle()
			changed = append(changed, job)
			continue
		}
		before := phase.WaitsFor
		if phase.Horizon == "" {
			phase.Horizon, before = now, "?"
		}
		holder, asked := holders[phase.Horizon]
		if !asked {
			if holder, err = v.queries.Holder(ctx, phase.Horizon); err != nil {
				return nil, err
			}
			holders[phase.Horizon] = holder
		}
		switch {
		case holder == "":
			phase.WaitsFor = ""
			ready = append(ready, job)
		case job.EndedFor < v.options.SnapshotWait:
			if phase.WaitsFor = "snapshot: " + holder + " may still see the deleted rows"; phase.WaitsFor != before {
				changed = append(changed, job)
			}
		default:
			v.giveUp(phase, holder+" may still see the deleted rows")
			changed = append(changed, job)
		}
	}
	if len(changed) > 0 {
		err = v.queries.Store(ctx, changed)
	}
	return ready, err
}

// giveUp leaves all of a job's tables to autovacuum.
func (v *Vacuumer) giveUp(phase *vacuum.Phase, reason string) {
	if phase.Walk == nil && !v.options.SkipWalk {
		phase.Walk = &vacuum.Walk{State: vacuum.Skipped, Reason: reason}
		v.metrics.IndexWalks.WithLabelValues(outcomeSkipped).Inc()
	}
	for i := range phase.Tables {
		if t := &phase.Tables[i]; !t.State.Ended() {
			t.State, t.Reason = vacuum.Skipped, reason
			v.metrics.Vacuums.WithLabelValues(outcomeSkipped).Inc()
		}
	}
	phase.Settle()
}

// errWalkTime is the reason of walks that were not finished in time.
var errWalkTime = fmt.Errorf("the walks of all jobs that ended together took longer than %s", walkTime)

// work walks for the jobs, and vacuums their tables, one after the other.
func (v *Vacuumer) work(ctx context.Context, jobs []vacuum.Job) error {
	// The walks take moments, but a VACUUM may take long.
	bounded, cancel := context.WithTimeout(ctx, walkTime)
	defer cancel()
	for i := range jobs {
		if v.walk(bounded, &jobs[i]); ctx.Err() != nil {
			return ctx.Err() // another worker does it
		}
	}
	tables, err := v.decide(ctx, jobs)
	if err != nil {
		return err
	}
	if err := v.store(ctx, jobs); err != nil {
		return err
	}
	for _, facts := range tables {
		if err := v.vacuum(ctx, facts, jobs); err != nil {
			return err
		}
	}
	return nil
}

// walk walks through the index entries that a purge has left, once. What it has not
// finished when the context ends is left to readers and to VACUUM.
func (v *Vacuumer) walk(ctx context.Context, job *vacuum.Job) {
	if v.options.SkipWalk || job.Phase.Walk != nil || job.Below == nil || job.Phase.Table("events") == nil {
		return
	}
	started := time.Now()
	err := ctx.Err()
	if err == nil {
		err = v.queries.Walk(ctx, job.Room, *job.Below)
	}
	if errors.Is(context.Cause(ctx), context.Canceled) {
		return // the worker stops
	}
	if ctx.Err() != nil {
		err = errWalkTime
	}
	walk := &vacuum.Walk{State: vacuum.Done, Seconds: time.Since(started).Seconds()}
	outcome := outcomeDone
	if err != nil {
		walk.State, walk.Reason, outcome = vacuum.Skipped, err.Error(), outcomeSkipped
		v.log.WarnContext(ctx, "index walk not finished", "job", job.ID, "room", job.Room, "error", err)
	}
	job.Phase.Walk = walk
	v.metrics.IndexWalks.WithLabelValues(outcome).Inc()
}

// vacuum vacuums a table for the jobs.
func (v *Vacuumer) vacuum(ctx context.Context, facts vacuum.Facts, jobs []vacuum.Job) error {
	begins := false
	each := func(do func(*vacuum.EmptiedTable)) {
		for i := range jobs {
			if t := jobs[i].Phase.Table(facts.Name); t != nil && !t.State.Ended() {
				do(t)
			}
			jobs[i].Phase.Settle()
		}
	}
	each(func(t *vacuum.EmptiedTable) {
		if t.Begun >= maxBegun {
			t.State, t.Reason = vacuum.Skipped, fmt.Sprintf("its VACUUM was begun %d times and cut off each time", t.Begun)
			return
		}
		t.State = vacuum.Running
		t.Begun++
		begins = true
	})
	if !begins {
		v.metrics.Vacuums.WithLabelValues(outcomeFailed).Inc()
		return v.store(ctx, jobs)
	}
	for i := range jobs {
		if !jobs[i].Phase.Ended() {
			jobs[i].Phase.State = vacuum.Running
		}
	}
	if err := v.store(ctx, jobs); err != nil {
		return err
	}
	bounded, cancel := context.WithTimeout(ctx, v.options.Timeout)
	defer cancel()
	started := time.Now()
	skipped, err := v.session.Vacuum(bounded, facts, vacuum.Costs{Delay: v.options.CostDelay, Limit: v.options.CostLimit})
	took := time.Since(started)
	outcome := outcomeDone
	switch {
	case ctx.Err() != nil:
		outcome = outcomeStopped
		each(func(t *vacuum.EmptiedTable) { t.State, t.Begun = vacuum.Waiting, t.Begun-1 })
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), leaveTime)
		defer cancel()
		err = errors.Join(context.Canceled, v.store(ctx, jobs))
	case bounded.Err() != nil:
		outcome, skipped, err = outcomeSkipped, fmt.Sprintf("it took longer than %s", v.options.Timeout), nil
	case postgres.Unreachable(err):
		return err // all of it begins again
	case err != nil:
		outcome, skipped, err = outcomeFailed, err.Error(), nil
	case skipped != "":
		outcome = outcomeSkipped
	}
	v.metrics.Vacuums.WithLabelValues(outcome).Inc()
	if outcome == outcomeStopped {
		return err
	}
	v.metrics.VacuumSeconds.Observe(took.Seconds())
	v.log.InfoContext(ctx, "table vacuumed", "table", facts.Name, "outcome", outcome, "reason", skipped, "seconds", took.Seconds())
	space := v.space(ctx, facts.Name, outcome == outcomeDone, started)
	each(func(t *vacuum.EmptiedTable) {
		t.State, t.Reason, t.Begun, t.Seconds, t.Pages, t.Space = vacuum.Done, "", 0, took.Seconds(), facts.Pages, space
		if skipped != "" {
			t.State, t.Reason, t.Pages = vacuum.Skipped, skipped, 0
		}
	})
	return v.store(ctx, jobs)
}

// space returns what can be had of a table's space by now, nil if that is not known. If the
// table was vacuumed, it waits for the statistics of that for a while, because those from
// before say that the deleted rows are still there.
func (v *Vacuumer) space(ctx context.Context, name string, vacuumed bool, since time.Time) *vacuum.Space {
	ctx, cancel := context.WithTimeout(ctx, lookTime)
	defer cancel()
	asked := time.Now()
	var facts []vacuum.Facts
	for {
		var err error
		if facts, err = v.queries.Facts(ctx, []string{name}, time.Since(since).Milliseconds()+1); err != nil || len(facts) == 0 {
			return nil
		}
		if !vacuumed || facts[0].Vacuumed || time.Since(asked) > statisticsWait {
			break
		}
		if wait.For(ctx, statisticsLook) != nil {
			return nil
		}
	}
	space, err := v.queries.Space(ctx, facts[0])
	if err != nil {
		return nil // it is for the reader only
	}
	return space
}

func (v *Vacuumer) store(ctx context.Context, jobs []vacuum.Job) error {
	ctx, cancel := context.WithTimeout(ctx, lookTime)
	defer cancel()
	return v.queries.Store(ctx, jobs)
}
