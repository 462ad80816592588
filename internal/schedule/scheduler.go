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

// ErrNoSuchJob is returned for a name that none of retention's jobs has.
var ErrNoSuchJob = errors.New("no such job of retention")

const (
	// scheduleEvery is how often a replica looks, though no tick is near: a clock
	// may have been set.
	scheduleEvery = 10 * time.Second

	// minSchedule is the least time between two looks.
	minSchedule = 50 * time.Millisecond

	// scheduleTime bounds one look.
	scheduleTime = 30 * time.Second

	// onceTime bounds each thing that [Scheduler.Once] does, with a database that
	// restarts meanwhile.
	onceTime = time.Minute

	// awaitEvery is how often a sweep that is waited for is looked at.
	awaitEvery = 500 * time.Millisecond

	// clockSlack is by how much the clocks of a database server and of the one
	// that takes over from it may differ.
	clockSlack = time.Minute

	// clocksApart is how far the database's clock and ours may be apart: more than
	// those of machines that are cared for, and less than does harm to a lifetime.
	clocksApart = 5 * time.Minute

	// enqueueTime bounds the enqueueing of a sweep.
	enqueueTime = 10 * time.Second
)

// Options are the options of a [Scheduler].
type Options struct {
	// Rules are retention's. Only whether it is enabled and the jobs count, those of
	// abandoned rooms too. Defaults to retention that is not enabled.
	Rules retention.Config

	// Now tells the time. Defaults to the database's clock, which is the same for
	// all replicas. It is not believed while it and this machine's are more than
	// 5 minutes apart: one of them is wrong, and by a wrong clock events would be
	// purged that are to stay.
	Now func(context.Context) (time.Time, error)

	// Tracer traces the ticks that are decided about, and so what comes of them.
	// Defaults to nil, no traces.
	Tracer *observe.Tracer
}

// A Scheduler enqueues retention's sweeps, each job's at its ticks. Any number of
// replicas may do so at once, and beside [Scheduler.Once]: a tick is decided about
// in one commit, after which all know.
//
//   - A tick gets one sweep, whose id is derived from it.
//   - Of the ticks that nobody was there for, only the latest is run, once. So is
//     a job that was gone from the settings for a year, when it comes back.
//   - A job that is new waits for its next tick. What was configured a moment ago
//     does not purge before its time.
//   - One sweep of a job at a time: a tick whose job's last sweep has not ended is
//     skipped, as cron does that forbids concurrency. It is counted in the row and
//     logged. What it would have purged, the next tick does.
//   - A row that says of a tick in the future that it was decided about is not
//     believed, but for a minute: a clock was wrong, and is right again. The row
//     is set back, and the latest tick is run unless it has a sweep. While a clock
//     that was put back by less than a minute catches up, nothing is due.
//   - Where retention is not enabled nothing is done.
type Scheduler struct {
	// known are all jobs that the settings have, and due those that are enabled.
	known, due []scheduled
	now        func(context.Context) (time.Time, error)
	tracer     *observe.Tracer
	db         *postgres.DB
	journal    *journal.Journal
	schedules  *journal.Schedules
	client     *tasks.Client
	log        *slog.Logger
	metrics    *observe.Metrics
}

// A scheduled job has sweeps of the kind.
type scheduled struct {
	retention.Job
	kind journal.Kind
}

// New returns a Scheduler that enqueues sweeps through the client.
func New(db *postgres.DB, client *tasks.Client, log *slog.Logger, metrics *observe.Metrics,
	options Options,
) *Scheduler {
	s := &Scheduler{
		now: options.Now, tracer: options.Tracer, db: db, journal: journal.New(db), schedules: journal.NewSchedules(db),
		client: client, log: log, metrics: metrics,
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
	for _, job := range s.due { // the zeros of what is counted
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
	ahead := time.Until(now).Round(time.Second)
	if ahead.Abs() > clocksApart {
		return time.Time{}, fmt.Errorf("the database's clock is %s ahead of this machine's: no tick is taken before they agree", ahead)
	}
	return now, nil
}

// Run looks at each tick, and every 10 s, until the context ends. A look that
// fails is logged, and the next one tries again. Where retention is not enabled it
// returns at once.
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

// enabled reports whether there is anything to schedule, and logs it if not.
func (s *Scheduler) enabled(ctx context.Context) bool {
	enabled := len(s.due) > 0
	if !enabled {
		s.log.InfoContext(ctx, "retention is not enabled: nothing is scheduled")
	}
	return enabled
}

// Look decides about the ticks that are due, and tells after which time to look
// again: at the next one, but within 10 s. What fails for one job does not keep
// the others from it.
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

// read reads the rows of jobs and then the clock. In this order, since a process
// may be stopped in between: against a time that is over, all that others have done
// since would be of the future.
func (s *Scheduler) read(ctx context.Context, names []string) (map[string]journal.Schedule, time.Time, error) {
	rows, err := s.schedules.Read(ctx, names)
	if err != nil {
		return nil, time.Time{}, err
	}
	now, err := s.now(ctx)
	return rows, now, err
}

// decide decides about a job's latest tick, unless its row says that this was
// done, and returns the next. The row is zero if there is none.
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

// take decides about a tick, and enqueues the sweep that it gets.
func (s *Scheduler) take(ctx context.Context, tick journal.Tick, now time.Time) (taken journal.TakenTick, err error) {
	ctx, span := s.tracer.Begin(ctx, "tick", slog.String("schedule", tick.Job), slog.Time("tick", tick.At))
	defer func() { span.End(err) }()
	tick.Sweep.TraceParent = observe.OriginOf(ctx).TraceParent
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
		s.enqueue(ctx, taken.Sweep, log)
	}
	return taken, nil
}

// enqueue enqueues a sweep that was accepted. Its row counts as never enqueued
// until it says otherwise: so whatever goes wrong here, the reconciler sees it.
func (s *Scheduler) enqueue(ctx context.Context, sweep journal.Job, log *slog.Logger) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), enqueueTime)
	defer cancel()
	if err := s.client.Enqueue(ctx, sweep); err != nil {
		log.WarnContext(ctx, "job not enqueued: left to the reconciler", "job", sweep.ID, "error", err)
		return
	}
	if err := s.journal.MarkTaskEnqueued(ctx, sweep.ID, sweep.Generation); err != nil {
		log.WarnContext(ctx, "job not marked as enqueued", "job", sweep.ID, "error", err)
	}
}

// Once decides about the latest tick of the named job, or, for "", of every job,
// and returns the ids of the sweeps that stand for these ticks: accepted now,
// accepted before, or, where a tick was skipped, the one that has not ended. It
// is for those who have a cron of their own, and insists more than
// [Scheduler.Run]: the tick of a job that is new is run, and so is one that was
// noted or skipped before, unless there is a reason to skip it still. A database
// that restarts is waited for.
//
// An unknown name is [ErrNoSuchJob]. Where retention is not enabled nothing is
// done, and that is no error: whoever turns it off in the settings, which the
// CronJobs share, wants nothing to run and not all of them to fail. It is logged.
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

// retry repeats what may be repeated while it fails for a passing reason, for a
// minute at most.
func (s *Scheduler) retry(ctx context.Context, do func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, onceTime)
	defer cancel()
	return wait.Retry(ctx, wait.Backoff{Min: awaitEvery}, func(err error) bool {
		passing := ctx.Err() == nil && postgres.Transient(err)
		if passing {
			s.log.WarnContext(ctx, "the database is not ready: it will be tried again", "error", err)
		}
		return passing
	}, func() error { return do(ctx) })
}

// runLatest decides about a job's latest tick, and runs it if it may be.
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

// Await waits until the sweeps have ended, or the context has. It fails if one of
// them is not complete then; a sweep that has not ended goes on. A database that
// cannot be reached is waited for.
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
			s.log.WarnContext(ctx, "sweep not looked at: it will be tried again", "job", id, "error", err)
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

// lastYear is the last that a tick can be in: there is no text of a later one.
const lastYear = 9999

// tickOf is a job's latest tick, with the sweep that it makes.
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

// nextOf is a job's next tick, zero if there is none.
func nextOf(job scheduled, after time.Time) time.Time {
	next := job.Next(after)
	if next.Year() > lastYear {
		return time.Time{}
	}
	return next
}
