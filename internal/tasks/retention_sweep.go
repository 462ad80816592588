package tasks

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"lethe/internal/jobs"
	"lethe/internal/observe"
	"lethe/internal/retention"
	"lethe/internal/store/expiry"
	"lethe/internal/store/journal"
	"lethe/internal/store/leftover"
	"lethe/internal/store/postgres"
	"lethe/internal/store/purge"
	"lethe/internal/wait"
)

var (
	errRetentionOff = errors.New("retention is not enabled: the sweep was left")
	errAbandonedOff = errors.New("retention.abandoned is not enabled: the sweep was left")
	errNoSuchJob    = errors.New("no job of that name is configured: the sweep was left")
)

// RetentionSweep is a request to sweep all rooms.
type RetentionSweep struct {
	// Job is the name of the retention job whose rooms are purged.
	Job string

	// Tick is the time at which the sweep was due.
	Tick time.Time
}

// SubmitRetentionSweep accepts a sweep and returns its job's id. After an error it
// is not accepted. A second call makes a second sweep, which handles what the first
// one has left.
func (c *Client) SubmitRetentionSweep(ctx context.Context, sweep RetentionSweep) (id string, err error) {
	id, err = c.submit(ctx, jobs.RetentionSweep, "", retention.Requester,
		retention.SweepParameters{Job: sweep.Job, Tick: sweep.Tick.UTC()}, false)
	if err != nil {
		return "", fmt.Errorf("submit a retention sweep: %w", err)
	}
	return id, nil
}

// retentionSweepCheckpoint is the checkpoint of a sweep.
type retentionSweepCheckpoint struct {
	// After is the id of the last room that the sweep has decided.
	After string `json:"after"`

	Sweep sweepResult `json:"sweep"`
}

// A sweepResult counts the rooms of a sweep by outcome. Rooms counts all of them.
type sweepResult struct {
	Rooms    int64 `json:"rooms"`
	Enqueued int64 `json:"enqueued"`
	Skipped  struct {
		// Deleting and Purging count rooms with an open job of that kind.
		Deleting int64 `json:"deleting"`
		Purging  int64 `json:"purging"`

		// Held counts held rooms.
		Held int64 `json:"held"`

		// NothingExpired counts rooms with nothing to purge, NoLimit rooms that keep
		// everything, and OtherJob rooms that belong to another retention job, or to
		// none.
		NothingExpired int64 `json:"nothing_expired"`
		NoLimit        int64 `json:"no_limit"`
		OtherJob       int64 `json:"other_job"`

		abandonedSkips

		// Failed counts rooms that could not be decided, or whose purge was refused.
		Failed int64 `json:"failed"`
	} `json:"skipped"`

	// Failures are the first failed rooms.
	Failures []sweepFailure `json:"failures,omitempty"`

	// RoomsChecked is the number of deleted rooms that were checked at the sweep's end,
	// and Report what the check has found, nil before.
	RoomsChecked int `json:"rooms_checked,omitempty"`
	*leftover.Report
}

type sweepFailure struct {
	Room  string `json:"room_id"`
	Error string `json:"error"`
}

const (
	// maxNamedFailures bounds how many failed rooms a sweep names.
	maxNamedFailures = 10

	// sweepWait is about how long a sweep waits in the queue for purges to end.
	sweepWait = time.Second

	// maxEnqueuers bounds how many tasks are enqueued at a time.
	maxEnqueuers = 16

	// enqueueAllTime bounds the enqueueing of a page's tasks.
	enqueueAllTime = 10 * time.Second
)

func (r *sweepResult) fail(room string, err error) {
	r.Skipped.Failed++
	if len(r.Failures) < maxNamedFailures {
		r.Failures = append(slices.Clone(r.Failures), sweepFailure{room, err.Error()})
	}
}

// outcomes returns the counts of a retention sweep by name.
func (r *sweepResult) outcomes() map[string]int64 {
	return map[string]int64{
		"enqueued": r.Enqueued, "deleting": r.Skipped.Deleting, "purging": r.Skipped.Purging, "held": r.Skipped.Held,
		"nothing_expired": r.Skipped.NothingExpired, "no_limit": r.Skipped.NoLimit, "other_job": r.Skipped.OtherJob,
		"failed": r.Skipped.Failed,
	}
}

// retentionSweep is the work of a sweep. It decides about all rooms, a page at a
// time, and makes a purge of each room with something to purge. The queue treats
// sweeps as jobs of one room, the empty one, so they take turns.
type retentionSweep struct {
	worker *Worker
	run    journal.Run
	config retention.Config
	job    retention.Job
	at     retentionSweepCheckpoint

	// sweeper is what differs between kinds of sweeps.
	sweeper sweeper
}

// A sweeper is one kind of sweep.
type sweeper struct {
	kind journal.Kind

	// check decides about the next page of rooms, which is empty after the last.
	check func(ctx context.Context) (sweepPage, error)

	// record stores the decisions about the page as part of the batch. It may be nil.
	record func(ctx context.Context, b *journal.Batch, page sweepPage) error

	// finish ends the sweep after its last page. It may be nil.
	finish func(ctx context.Context) error

	// outcomes returns the counts by name.
	outcomes func(*sweepResult) map[string]int64
}

func (w *Worker) newRetentionSweep(ctx context.Context, job journal.Job, run journal.Run) (work, error) {
	var parameters retention.SweepParameters
	if err := json.Unmarshal(job.Parameters, &parameters); err != nil {
		return nil, fmt.Errorf("decode the job's parameters: %w", err)
	}
	s := &retentionSweep{worker: w, run: run, config: w.options.Retention}
	if !s.config.Enabled {
		return nil, errRetentionOff
	}
	named := func(j retention.Job) bool { return j.Name == parameters.Job }
	i := slices.IndexFunc(s.config.Jobs, named)
	if i < 0 {
		return nil, fmt.Errorf("retention job %q: %w", parameters.Job, errNoSuchJob)
	}
	s.job = s.config.Jobs[i]
	// Otherwise the sweep would make purges that all fail.
	if _, err := w.purger.History(ctx, purge.HistoryRequest{}); err != nil {
		return nil, err
	}
	s.sweeper = sweeper{kind: jobs.RetentionSweep, check: s.check, outcomes: (*sweepResult).outcomes}
	return s, decodeCheckpoint(job, &s.at)
}

func (s *retentionSweep) check(ctx context.Context) (sweepPage, error) {
	rooms, err := s.worker.expiry.RetentionRooms(ctx, s.at.After, s.worker.options.SweepRooms)
	if err != nil || len(rooms) == 0 {
		return nil, err
	}
	return s.decide(ctx, rooms)
}

func (s *retentionSweep) progress() any { return s.at }

func (s *retentionSweep) leave(context.Context, bool) {}

// next processes the next page of rooms.
func (s *retentionSweep) next(ctx context.Context) (done bool, err error) {
	options := s.worker.options
	open, err := s.worker.journal.OpenLowJobs(ctx)
	if err != nil {
		return false, err
	}
	// Wait until a quarter of the queue is free: otherwise each purge that ends would
	// cause a check of a whole page for one room.
	free := options.MaxQueued - open
	if free < max(1, options.MaxQueued/4) {
		return false, s.wait()
	}
	started := time.Now()
	ctx, span := observe.StartSpan(ctx, "batch")
	defer func() {
		_, failure := outcomeOf(err)
		span.End(failure)
	}()
	page, err := s.sweeper.check(ctx)
	switch {
	case err != nil:
		return false, err
	case len(page) == 0:
		if s.sweeper.finish != nil {
			if err := s.sweeper.finish(ctx); err != nil {
				return false, err
			}
		}
		s.worker.log.InfoContext(ctx, "sweep has checked every room", "retention_job", s.job.Name,
			"result", encode(s.at.Sweep))
		return true, nil
	}
	page = page.upTo(free)

	accepted, err := s.accept(ctx, page, started)
	if errors.Is(err, journal.ErrLowQueue) {
		return false, s.wait()
	}
	if err != nil {
		return false, err
	}
	s.enqueue(ctx, page.jobs(), accepted)
	return false, nil
}

// accept commits the page's jobs together with the checkpoint after the page, and
// returns the ids of the accepted jobs.
func (s *retentionSweep) accept(ctx context.Context, page sweepPage, started time.Time) (accepted []string, err error) {
	b := s.worker.journal.BeginSweep(s.run, lockLease)
	defer b.Rollback(ctx)
	swept, err := journal.InsertSwept(ctx, b, page.jobs(), s.worker.options.MaxQueued)
	if err != nil {
		return nil, err
	}
	if s.sweeper.record != nil {
		if err := s.sweeper.record(ctx, b, page); err != nil {
			return nil, err
		}
	}
	next := s.at
	next.After = page[len(page)-1].room
	page.count(&next.Sweep, swept)
	if err := b.Commit(ctx, next); err != nil {
		return nil, fmt.Errorf("insert the jobs of a sweep: %w", err)
	}
	s.moved(next, time.Since(started))
	return swept.Accepted, nil
}

// wait yields until purges have ended.
func (s *retentionSweep) wait() error {
	return errYield{reason: jobs.YieldQueueFull, after: wait.Jitter(sweepWait)}
}

// moved takes over a committed checkpoint, and counts what it has changed.
func (s *retentionSweep) moved(next retentionSweepCheckpoint, took time.Duration) {
	metrics := s.worker.metrics
	kind := s.sweeper.kind
	metrics.JobBatches.WithLabelValues(string(kind)).Inc()
	metrics.JobBatchSeconds.WithLabelValues(string(kind)).Observe(took.Seconds())
	before := s.sweeper.outcomes(&s.at.Sweep)
	for outcome, n := range s.sweeper.outcomes(&next.Sweep) {
		sweepCounter(metrics, kind).WithLabelValues(outcome).Add(float64(n - before[outcome]))
	}
	s.at = next
}

// A verdict is a sweep's decision about a room.
type verdict struct {
	room string

	// skip counts the room. It is called unless the room has failed or gets a job.
	skip func(*sweepResult)
	job  *journal.Job
	err  error

	// abandoned says that a sweep for abandoned rooms has found the room abandoned.
	abandoned bool
}

// A sweepPage is the verdicts of a page of rooms, in the order of their ids.
type sweepPage []verdict

// expiryClock returns the time that decides what has expired. It is the database's
// time, which read returns, or this machine's, whichever is earlier: a clock that is
// ahead must not delete an event days too soon.
func expiryClock(read func() (time.Time, error)) (time.Time, error) {
	local := time.Now()
	now, err := read()
	if err == nil && local.Before(now) {
		now = local
	}
	return now, err
}

// decide decides about rooms. It uses the present time and not the sweep's tick:
// however late the sweep is, exactly what has expired is purged.
func (s *retentionSweep) decide(ctx context.Context, rooms []expiry.RoomRetention) (sweepPage, error) {
	now, err := expiryClock(func() (time.Time, error) { return s.worker.db.Now(ctx) })
	if err != nil {
		return nil, err
	}
	page := make(sweepPage, len(rooms))
	var cuts []expiry.RoomCut
	var cutOf []int
	for i, room := range rooms {
		page[i].room = room.Room
		policy := &retention.Policy{MinLifetime: room.MinLifetime, MaxLifetime: room.MaxLifetime}
		before, expires := s.config.ExpiredBefore(policy, now)
		switch {
		case !expires:
			page[i].skip = func(r *sweepResult) { r.Skipped.NoLimit++ }
		case !s.job.Covers(policy, s.config.DefaultPolicy):
			page[i].skip = func(r *sweepResult) { r.Skipped.OtherJob++ }
		case room.Held:
			page[i].skip = func(r *sweepResult) { r.Skipped.Held++ }
		case room.Deleting:
			page[i].skip = func(r *sweepResult) { r.Skipped.Deleting++ }
			s.worker.log.InfoContext(ctx, "room not purged: its delete is in progress", "room", room.Room)
		case room.Purging:
			page[i].skip = func(r *sweepResult) { r.Skipped.Purging++ }
			s.worker.log.InfoContext(ctx, "room not purged: there is an ongoing purge of it", "room", room.Room)
		default:
			page[i].skip = func(r *sweepResult) { r.Skipped.NothingExpired++ }
			cuts, cutOf = append(cuts, expiry.RoomCut{Room: room.Room, Before: before}), append(cutOf, i)
		}
	}
	return page, s.cut(ctx, page, cuts, cutOf)
}

// cut finds the depths at which to cut those rooms of the page that may have
// something to purge. If that fails for all together, it tries each room alone.
func (s *retentionSweep) cut(ctx context.Context, page sweepPage, cuts []expiry.RoomCut, cutOf []int) error {
	if len(cuts) == 0 {
		return nil
	}
	found, err := s.worker.expiry.RetentionCuts(ctx, cuts)
	if postgres.IsRowError(err) && len(cuts) > 1 {
		for i := range cuts {
			if err := s.cut(ctx, page, cuts[i:i+1], cutOf[i:i+1]); err != nil {
				return err
			}
		}
		return nil
	}
	if postgres.IsRowError(err) {
		page[cutOf[0]].err = err
		return nil
	}
	if err != nil {
		return err
	}
	for i, cut := range found {
		if cut.Before == nil {
			s.worker.log.InfoContext(ctx, fmt.Sprintf("room not purged: No event found (ts %d => stream_ordering %d)", cuts[i].Before, cut.Stream),
				"room", cuts[i].Room)
		}
		if cut.Token == nil {
			continue
		}
		parameters, err := json.Marshal(purgeHistoryParameters{
			Token: *cut.Token, DeleteLocalEvents: true, RetentionJob: s.job.Name, ExpiredBefore: &cuts[i].Before,
		})
		if err != nil {
			return fmt.Errorf("encode the purge's parameters: %w", err)
		}
		page[cutOf[i]].job = &journal.Job{
			ID: jobs.NewID(), Kind: jobs.PurgeHistory, Room: cuts[i].Room, Parameters: parameters,
			Requester: retention.Requester, State: journal.Queued, Generation: 1, Queue: jobs.Low,
			TraceParent: observe.OriginOf(ctx).TraceParent,
			TaskMissing: true, // so that the reconciler enqueues it at once if this process dies before
		}
	}
	return nil
}

// upTo returns the beginning of the page that has at most maxJobs jobs. maxJobs is
// at least 1.
func (p sweepPage) upTo(maxJobs int) sweepPage {
	for i, v := range p {
		if v.job == nil {
			continue
		}
		if maxJobs == 0 {
			return p[:i]
		}
		maxJobs--
	}
	return p
}

func (p sweepPage) jobs() []journal.Job {
	var all []journal.Job
	for _, v := range p {
		if v.job != nil {
			all = append(all, *v.job)
		}
	}
	return all
}

// count adds the rooms of the page to the result. swept says what has become of
// their jobs.
func (p sweepPage) count(result *sweepResult, swept journal.SweptJobs) {
	accepted := make(map[string]bool, len(swept.Accepted))
	for _, id := range swept.Accepted {
		accepted[id] = true
	}
	for _, v := range p {
		result.Rooms++
		switch {
		case v.err != nil:
			result.fail(v.room, v.err)
		case v.job == nil:
			v.skip(result)
		case accepted[v.job.ID]:
			result.Enqueued++
		case swept.Refused[v.job.ID] != nil:
			result.fail(v.room, swept.Refused[v.job.ID])
		case v.job.Kind == jobs.DeleteRoom: // the room has got another delete meanwhile
			result.Skipped.Deleting++
		default: // another sweep has made a purge meanwhile
			result.Skipped.Purging++
		}
	}
}

// enqueue enqueues the tasks of the accepted jobs. After the first failure it leaves
// the others to the reconciler.
func (s *retentionSweep) enqueue(ctx context.Context, made []journal.Job, accepted []string) {
	if len(accepted) == 0 {
		return
	}
	// The jobs are accepted, even if the sweep is ended now.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), enqueueAllTime)
	defer cancel()
	wanted := make(map[string]bool, len(accepted))
	for _, id := range accepted {
		wanted[id] = true
	}
	var (
		group    errgroup.Group
		stop     atomic.Bool
		mu       sync.Mutex
		enqueued []journal.Job
		failed   error
	)
	group.SetLimit(maxEnqueuers)
	for _, job := range made {
		if !wanted[job.ID] || stop.Load() {
			continue
		}
		group.Go(func() error {
			err := s.worker.dispatcher.Enqueue(ctx, job)
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				failed = err
				stop.Store(true)
				return nil
			}
			enqueued = append(enqueued, job)
			return nil
		})
	}
	_ = group.Wait() // no function returns an error
	log := s.worker.log
	if failed != nil {
		log.WarnContext(ctx, "jobs not enqueued: left to the reconciler", "jobs", len(accepted)-len(enqueued), "error", failed)
	}
	if len(enqueued) == 0 {
		return
	}
	if err := s.worker.journal.MarkTasksEnqueued(ctx, enqueued); err != nil {
		// The reconciler enqueues them again, which changes nothing.
		log.WarnContext(ctx, "jobs not marked as enqueued", "error", err)
	}
}
