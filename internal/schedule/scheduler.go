package schedule

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	"lethe/internal/jobs"
	"lethe/internal/observe"
	"lethe/internal/retention"
	"lethe/internal/store/journal"
	"lethe/internal/store/migrate"
	"lethe/internal/store/postgres"
	"lethe/internal/tasks"
	"lethe/internal/wait"
)

// ErrNoSuchJob is returned for a name that is not the name of a retention job.
var ErrNoSuchJob = errors.New("no such job of retention")

const (
	// scheduleEvery is how often a replica looks even if no tick is near. A clock
	// may have been set meanwhile.
	scheduleEvery = 10 * time.Second

	// minSchedule is the least time between two looks.
	minSchedule = 50 * time.Millisecond

	// scheduleTime bounds one look.
	scheduleTime = 30 * time.Second

	// onceTime bounds each statement of [Scheduler.Once]. It is long enough for a
	// database that restarts.
	onceTime = time.Minute

	// awaitEvery is how often [Scheduler.Await] reads a sweep's row.
	awaitEvery = 500 * time.Millisecond

	// clockSlack is how far the clock of a standby may be from that of the server
	// it takes over from.
	clockSlack = time.Minute

	// clocksApart is how far the database's clock and this machine's may be apart.
	// Synchronized machines stay well below it, and a lifetime that is wrong by so
	// little does no harm.
	clocksApart = 5 * time.Minute

	// enqueueTime bounds the enqueueing of a sweep.
	enqueueTime = 10 * time.Second
)

// Options are the options of a [Scheduler].
type Options struct {
	// Grace is how long a sweep waits after its tick, in which it can be cancelled.
	// Defaults to 0, no wait.
	Grace time.Duration

	// Ready is called before the first sweep of [Scheduler.Once], which fails with its
	// error. Defaults to nil, no call.
	Ready func(context.Context) error

	// Rules are the rules of retention. The scheduler reads whether retention is
	// enabled, its jobs, and the job for abandoned rooms. Defaults to retention that
	// is not enabled.
	Rules retention.Config

	// Now tells the time. Defaults to the database's clock, which is the same for
	// all replicas. While that clock and this machine's are more than 5 minutes
	// apart, one of them is wrong, and no tick is taken: a wrong clock would purge
	// events that should stay.
	Now func(context.Context) (time.Time, error)

	// Tracer traces each tick and the sweep that it starts. Defaults to nil, no
	// traces.
	Tracer *observe.Tracer
}

// A Scheduler enqueues the sweeps of each retention job at the job's ticks. Any
// number of replicas may run at once, also beside [Scheduler.Once]: each tick is
// taken in one transaction, and the other replicas see that it was taken.
//
//   - A tick gets one sweep. The sweep's id is derived from the tick.
//   - Of several missed ticks only the latest is run, once. The same holds for a
//     job that returns to the settings after a year.
//   - A new job waits for its next tick, so that it does not purge as soon as it
//     is configured.
//   - A job has one sweep at a time. A tick is skipped while the job's last sweep
//     has not ended, like a CronJob with concurrencyPolicy Forbid. The row counts
//     it, and the log names it. The next tick purges what it would have purged.
//   - A row whose last tick is more than a minute in the future comes from a clock
//     that was wrong. The row is set back, and the latest tick is run unless it
//     has a sweep. After a clock was set back by less than a minute, no tick is
//     due until the clock has caught up.
//   - Without retention, nothing is scheduled.
type Scheduler struct {
	// known are all jobs in the settings, and due those that are enabled.
	known, due []scheduled
	now        func(context.Context) (time.Time, error)
	wall       func() time.Time // this machine's clock
	grace      time.Duration
	ready      func(context.Context) error // nil for nothing to call
	tracer     *observe.Tracer
	db         *postgres.DB
	schedules  *journal.Schedules
	enqueuer
	log     *slog.Logger
	metrics *observe.Metrics
}

// A scheduled job is a retention job with the kind of its sweeps.
type scheduled struct {
	retention.Job
	kind journal.Kind
}

// New returns a Scheduler that enqueues sweeps through the client.
func New(db *postgres.DB, client *tasks.Client, log *slog.Logger, metrics *observe.Metrics,
	options Options,
) *Scheduler {
	s := &Scheduler{
		now: options.Now, wall: time.Now, grace: options.Grace, ready: options.Ready, tracer: options.Tracer, db: db, schedules: journal.NewSchedules(db),
		enqueuer: enqueuer{journal.New(db), client}, log: log, metrics: metrics,
	}
	add := func(enabled bool, job scheduled) {
		s.known = append(s.known, job)
		if enabled {
			s.due = append(s.due, job)
		}
	}
	for _, job := range options.Rules.Jobs {
		add(options.Rules.Enabled, scheduled{job, jobs.RetentionSweep})
	}
	add(options.Rules.Abandoned.Enabled, scheduled{options.Rules.Abandoned.Job(), jobs.AbandonedSweep})
	if s.now == nil {
		s.now = s.databaseTime
	}
	for _, job := range s.due { // each series starts at 0
		for _, outcome := range []string{journal.TickNoted, journal.TickAccepted, journal.TickSkipped} {
			metrics.ScheduleTicks.WithLabelValues(job.Name, outcome)
		}
	}
	return s
}

func (s *Scheduler) databaseTime(ctx context.Context) (time.Time, error) {
	now, err := s.db.Now(ctx)
	if err != nil {
		return time.Time{}, err
	}
	ahead := now.Sub(s.wall()).Round(time.Second)
	if ahead.Abs() > clocksApart {
		return time.Time{}, fmt.Errorf("the database's clock is %s ahead of this machine's: no tick is taken before they agree", ahead)
	}
	return now, nil
}

// Run calls [Scheduler.Look] at each tick, and at least every 10 s, until the
// context ends. It logs a failure and tries again at the next look. It returns at
// once if retention is not enabled.
func (s *Scheduler) Run(ctx context.Context) {
	if !s.enabled(ctx) {
		return
	}
	for {
		next, err := s.Look(ctx)
		if err != nil && ctx.Err() == nil {
			s.log.WarnContext(ctx, "scheduler could not look", "error", err)
		}
		if wait.For(ctx, next) != nil {
			return
		}
	}
}

// enabled reports whether any job is due at all, and logs it if not.
func (s *Scheduler) enabled(ctx context.Context) bool {
	enabled := len(s.due) > 0
	if !enabled {
		s.log.InfoContext(ctx, "retention is not enabled: nothing is scheduled")
	}
	return enabled
}

// Look takes the ticks that are due. It returns the time until the next tick, at
// most 10 s. A failure of one job does not stop the others.
func (s *Scheduler) Look(ctx context.Context) (next time.Duration, err error) {
	if len(s.due) == 0 {
		return scheduleEvery, nil
	}
	ctx, cancel := context.WithTimeout(ctx, scheduleTime)
	defer cancel()
	rows, now, err := s.read(ctx, namesOf(s.due))
	if err != nil {
		return scheduleEvery, err
	}
	next = scheduleEvery
	var errs []error
	for _, job := range s.due {
		due, err := s.decide(ctx, job, rows[job.Name], now)
		if err != nil {
			errs = append(errs, fmt.Errorf("job %q: %w", job.Name, err))
		} else if !due.IsZero() {
			next = min(next, due.Sub(now))
		}
	}
	return max(next, minSchedule), errors.Join(errs...)
}

// read reads the rows of jobs and then the clock. The order matters because a
// process may be suspended in between: compared with an old time, ticks that other
// replicas have taken since would seem to be in the future.
func (s *Scheduler) read(ctx context.Context, names []string) (map[string]journal.Schedule, time.Time, error) {
	rows, err := s.schedules.Read(ctx, names)
	if err != nil {
		return nil, time.Time{}, err
	}
	now, err := s.now(ctx)
	return rows, now, err
}

// decide takes a job's latest tick unless its row says that the tick was taken,
// and returns the next. The row is zero for a job without one.
func (s *Scheduler) decide(ctx context.Context, job scheduled, row journal.Schedule, now time.Time) (next time.Time, err error) {
	tick, err := tickOf(job, row, now)
	if err != nil {
		return time.Time{}, err
	}
	last := row.LastTick
	if last.Before(tick.At) || !tick.FutureTick.IsZero() {
		taken, err := s.take(ctx, tick, now)
		if err != nil {
			s.show(job, last, nextOf(job, last), now)
			return time.Time{}, err
		}
		if last = tick.At; taken.Outcome != journal.TickPast {
			s.metrics.ScheduleTicks.WithLabelValues(job.Name, taken.Outcome).Inc()
		}
		s.show(job, last, tick.Next, now)
		return tick.Next, nil
	}
	next = nextOf(job, last)
	s.show(job, last, next, now)
	if !row.NextTick.Equal(next) { // its schedule has changed
		return next, s.schedules.SetNextTick(ctx, job.Name, last, next)
	}
	return next, nil
}

// show shows a job's ticks in the metrics; last is zero for a job without a row.
func (s *Scheduler) show(job scheduled, last, next, now time.Time) {
	if last.IsZero() {
		return
	}
	lag := time.Duration(0)
	s.metrics.ScheduleLastTick.WithLabelValues(job.Name).Set(float64(last.UnixMilli()) / 1000)
	if !next.IsZero() {
		s.metrics.ScheduleNextTick.WithLabelValues(job.Name).Set(float64(next.UnixMilli()) / 1000)
		lag = max(lag, now.Sub(next))
	}
	s.metrics.ScheduleLagSeconds.WithLabelValues(job.Name).Set(lag.Seconds())
}

// take takes a tick and enqueues its sweep.
func (s *Scheduler) take(ctx context.Context, tick journal.Tick, now time.Time) (taken journal.TakenTick, err error) {
	ctx, span := s.tracer.Begin(ctx, "tick", slog.String("schedule", tick.Job), slog.Time("tick", tick.At))
	defer func() { span.End(err) }()
	tick.Sweep.TraceParent, tick.Sweep.Grace = observe.OriginOf(ctx).TraceParent, s.grace
	taken, err = s.schedules.TakeTick(ctx, tick)
	if err != nil {
		return taken, err
	}
	span.Set(slog.String("outcome", taken.Outcome), slog.String("job", taken.Sweep.ID))
	log := s.log.With("schedule", tick.Job, "tick", tick.At)
	if taken.SetBack {
		log.WarnContext(ctx, "the schedule's last tick was in the future, and is set back", "was", tick.FutureTick)
	}
	switch taken.Outcome {
	case journal.TickNoted:
		log.InfoContext(ctx, "the schedule is new: its first tick is the next", "next", tick.Next)
	case journal.TickSkipped:
		log.WarnContext(ctx, "tick skipped: the sweep before has not ended", "job", taken.Sweep.ID, "state", taken.Sweep.State)
	case journal.TickAccepted:
		log.InfoContext(ctx, "job accepted", "job", taken.Sweep.ID, "kind", taken.Sweep.Kind, "requester", taken.Sweep.Requester,
			"late", now.Sub(tick.At).Round(time.Millisecond).String())
		if tick.Sweep.Grace == 0 { // or the reconciler does, at the end of the grace
			s.enqueue(ctx, taken.Sweep, log)
		}
	}
	return taken, nil
}

// Once takes the latest tick of the named job, or of every job if name is "". It
// returns the ids of the sweeps for these ticks: accepted now, accepted before, or
// still running if the tick was skipped. It serves operators with a cron of their
// own and runs more than [Scheduler.Run] does: also the tick of a new job, and a
// tick that was noted or skipped before, unless the job's last sweep has still not
// ended. It waits up to a minute for a database that restarts.
//
// Once returns [ErrNoSuchJob] for an unknown name. If retention is not enabled, it
// logs that, does nothing and returns no error: the CronJobs share the settings,
// and an operator who disables retention does not want all of them to fail.
func (s *Scheduler) Once(ctx context.Context, name string) (sweeps []string, err error) {
	if names := namesOf(s.known); name != "" && !slices.Contains(names, name) {
		return nil, fmt.Errorf("%w: %q; there are: %s", ErrNoSuchJob, name, strings.Join(names, ", "))
	}
	if !s.enabled(ctx) {
		return nil, nil
	}
	if err := s.retry(ctx, func(ctx context.Context) error { return migrate.CheckSchema(ctx, s.db) }); err != nil {
		return nil, err
	}
	if s.ready != nil {
		if err := s.retry(ctx, s.ready); err != nil {
			return nil, err
		}
	}
	var errs []error
	for _, job := range s.due {
		if name != "" && name != job.Name {
			continue
		}
		var taken journal.TakenTick
		err := s.retry(ctx, func(ctx context.Context) (err error) {
			taken, err = s.runLatest(ctx, job)
			return err
		})
		switch {
		case err != nil:
			errs = append(errs, fmt.Errorf("job %q: %w", job.Name, err))
		case taken.Sweep.ID != "":
			sweeps = append(sweeps, taken.Sweep.ID)
		}
	}
	return sweeps, errors.Join(errs...)
}

// retry calls do again while it fails for a reason that passes, for at most a
// minute.
func (s *Scheduler) retry(ctx context.Context, do func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, onceTime)
	defer cancel()
	return wait.Retry(ctx, wait.Backoff{Min: awaitEvery}, func(err error) bool {
		passing := ctx.Err() == nil && postgres.Transient(err)
		if passing {
			s.log.WarnContext(ctx, "the database is not ready: trying again", "error", err)
		}
		return passing
	}, func() error { return do(ctx) })
}

// runLatest takes a job's latest tick and forces its sweep.
func (s *Scheduler) runLatest(ctx context.Context, job scheduled) (taken journal.TakenTick, err error) {
	rows, now, err := s.read(ctx, []string{job.Name})
	if err != nil {
		return taken, err
	}
	tick, err := tickOf(job, rows[job.Name], now)
	if err != nil {
		return taken, err
	}
	tick.Force = true
	taken, err = s.take(ctx, tick, now)
	if err == nil && taken.Outcome == journal.TickPast {
		s.log.InfoContext(ctx, "the tick was taken before", "schedule", job.Name, "tick", tick.At,
			"job", taken.Sweep.ID, "state", taken.Sweep.State)
	}
	return taken, err
}

// Await waits until the sweeps or the context have ended. It returns an error
// unless all sweeps are complete. A sweep that has not ended goes on. While the
// database cannot be reached, Await keeps waiting.
func (s *Scheduler) Await(ctx context.Context, sweeps []string) error {
	var errs []error
	for _, id := range sweeps {
		job, err := s.await(ctx, id)
		if err == nil {
			s.log.InfoContext(ctx, "job ended", "job", id, "state", job.State, "error", job.Error)
			switch job.State {
			case journal.Failed:
				err = fmt.Errorf("sweep %s failed: %s", id, job.Error)
			case journal.Cancelled:
				err = fmt.Errorf("sweep %s was cancelled", id)
			}
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

func (s *Scheduler) await(ctx context.Context, id string) (journal.Job, error) {
	for {
		job, err := s.journal.Job(ctx, id)
		switch {
		case ctx.Err() != nil:
			return job, fmt.Errorf("sweep %s has not ended, and goes on: %w", id, context.Cause(ctx))
		case err == nil && job.State.Ended():
			return job, nil
		case err != nil && !postgres.Transient(err):
			return job, err
		case err != nil:
			s.log.WarnContext(ctx, "sweep not read: trying again", "job", id, "error", err)
		}
		_ = wait.For(ctx, awaitEvery) // the next look sees if it ends early
	}
}

func namesOf(jobs []scheduled) []string {
	names := make([]string, 0, len(jobs))
	for _, job := range jobs {
		names = append(names, job.Name)
	}
	return names
}

// lastYear is the last year of a tick: RFC 3339 cannot write a later one.
const lastYear = 9999

// tickOf returns a job's latest tick, with the sweep for it.
func tickOf(job scheduled, row journal.Schedule, now time.Time) (journal.Tick, error) {
	at := job.Previous(now)
	if at.IsZero() || at.Year() < 1 || at.Year() > lastYear {
		return journal.Tick{}, fmt.Errorf("it has no tick up to %s", now)
	}
	parameters, err := json.Marshal(retention.SweepParameters{Job: job.Name, Tick: at})
	if err != nil {
		return journal.Tick{}, fmt.Errorf("encode the job's parameters: %w", err)
	}
	tick := journal.Tick{
		Job: job.Name, At: at, Next: nextOf(job, at),
		Sweep: journal.Job{
			ID:   jobs.DerivedID(string(job.kind), job.Name, at.Format(time.RFC3339Nano)),
			Kind: job.kind, Parameters: parameters, Requester: retention.Requester,
		},
	}
	if row.LastTick.After(now.Add(clockSlack)) {
		tick.FutureTick = row.LastTick
	}
	return tick, nil
}

// nextOf returns a job's next tick, or zero if it has no other.
func nextOf(job scheduled, after time.Time) time.Time {
	next := job.Next(after)
	if next.Year() > lastYear {
		return time.Time{}
	}
	return next
}
