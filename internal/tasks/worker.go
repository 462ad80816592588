package tasks

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"sync"
	"time"

	"github.com/hibiken/asynq"
	"github.com/redis/go-redis/v9"

	"lethe/internal/brake"
	"lethe/internal/dispatch"
	"lethe/internal/fleet"
	"lethe/internal/jobs"
	"lethe/internal/lock"
	"lethe/internal/observe"
	"lethe/internal/pace"
	"lethe/internal/retention"
	"lethe/internal/schema"
	"lethe/internal/selfcheck"
	"lethe/internal/shutdown"
	"lethe/internal/store/beside"
	"lethe/internal/store/expiry"
	"lethe/internal/store/journal"
	"lethe/internal/store/postgres"
	"lethe/internal/store/purge"
	"lethe/internal/sweep"
	"lethe/internal/synapse"
	"lethe/internal/wait"
)

// WorkerOptions are the options of a [Worker].
type WorkerOptions struct {
	// BatchEvents is the maximum number of events in a batch, unless one depth level
	// has more. Defaults to 20,000.
	BatchEvents int

	// BatchTime is the time that a batch aims at. Defaults to 250 ms.
	BatchTime time.Duration

	// Brake slows jobs down for the sake of others. Defaults to nil: none.
	Brake *brake.Brake

	// CheckPlan, unless nil, compares a job that was accepted with a plan with what the
	// database has by now, before the job's first batch. Its error fails the job, unless it
	// is transient. Defaults to nil.
	CheckPlan func(ctx context.Context, job journal.Job) error

	// Concurrency is the number of jobs that run at a time, not counting the jobs of
	// sweeps. It also bounds the number of those. Defaults to 4.
	Concurrency int

	// DrainTimeout is how long Run waits for batches in progress after its context has
	// ended. Defaults to 25 s.
	DrainTimeout time.Duration

	// Homeserver does the steps of shutdowns that need events. Defaults to nil, which
	// means an embedded one for ServerName without a signing key.
	Homeserver shutdown.Homeserver

	// HomeserverRuns says that Homeserver asks a running homeserver for its steps, so
	// that Lethe writes no events itself. Defaults to false.
	HomeserverRuns bool

	// MappingDelay is how long a purge beside Synapse leaves the states of purged events,
	// after the batch that has purged them. Defaults to 10 s.
	MappingDelay time.Duration

	// MaxLockWait is how long a job waits for a lock of another session before it fails.
	// Defaults to 24 h.
	MaxLockWait time.Duration

	// MaxQueued is the maximum number of open jobs that sweeps have made. A sweep waits
	// until there are fewer. Defaults to 1000.
	MaxQueued int

	// MaxRunning is the maximum number of these that run at a time in the whole fleet.
	// Defaults to 2.
	MaxRunning int

	// Name is the name of the process in the rows of its jobs. Defaults to its host and
	// process id.
	Name string

	// Retention configures what sweeps purge. Defaults to nothing, with which sweeps
	// fail.
	Retention retention.Config

	// RowsPerSecond limits how many rows the jobs of sweeps delete per second in the
	// whole fleet. An event with everything that belongs to it counts as one row, and
	// so does a state group. Defaults to 0, no limit.
	RowsPerSecond int

	// SchemaCompat is the highest compat_version of Synapse's schema that jobs accept.
	// Defaults to [schema.NewestCompat].
	SchemaCompat int

	// ServerName is the homeserver's name. It has no default.
	ServerName string

	// SweepRooms is the number of rooms that a sweep decides at a time, up to
	// [expiry.MaxRooms]. Defaults to 500.
	SweepRooms int

	// Synapse is the Synapse that may run on the database. Defaults to nil, none: the
	// database is Lethe's own.
	Synapse *synapse.Synapse

	// Tables are the rules for tables that Lethe does not know. Defaults to none: then
	// such a table fails every purge and delete.
	Tables schema.Rules

	// TimeSlice is how long a job runs before it yields to others. Defaults to 30 s.
	TimeSlice time.Duration

	// Tracer traces the runs of jobs. Defaults to nil, which traces nothing.
	Tracer *observe.Tracer
}

func (o WorkerOptions) withDefaults() WorkerOptions {
	if o.BatchEvents == 0 {
		o.BatchEvents = 20_000
	}
	if o.BatchTime == 0 {
		o.BatchTime = 250 * time.Millisecond
	}
	if o.Concurrency == 0 {
		o.Concurrency = 4
	}
	if o.DrainTimeout == 0 {
		o.DrainTimeout = 25 * time.Second
	}
	if o.MappingDelay == 0 {
		o.MappingDelay = 10 * time.Second
	}
	if o.MaxLockWait == 0 {
		o.MaxLockWait = 24 * time.Hour
	}
	if o.MaxRunning == 0 {
		o.MaxRunning = 2
	}
	if o.Name == "" {
		o.Name = fleet.ProcessName()
	}
	if o.TimeSlice == 0 {
		o.TimeSlice = 30 * time.Second
	}
	return o
}

const (
	// lockLease is the lease of a room's lock, and keepAlive the interval at which it
	// is extended. The room of a killed worker is free after the lease.
	lockLease = 10 * time.Second
	keepAlive = 3 * time.Second

	// lockWait bounds the wait for a room's lock. A reader keeps its lease at most this
	// long.
	lockWait = 30 * time.Second

	// maxReferenced is the number of failures in a row after which a job fails, for a foreign key that keeps a batch from deleting
	// rows. Another transaction may have added the reference meanwhile, but the next
	// attempt sees that one.
	maxReferenced = 2

	// minBackoff is the wait after the first failed batch. The wait doubles with each
	// further failure, up to maxBackoff.
	minBackoff = 50 * time.Millisecond
	maxBackoff = 5 * time.Second

	// bookkeepingBackoff is the wait between attempts to store a job's end or yield.
	bookkeepingBackoff = 200 * time.Millisecond

	// busyWait is about how long a job waits in the queue for its room.
	busyWait = 2 * time.Second

	// bookkeepingTime bounds all attempts to store a job's end or yield.
	bookkeepingTime = 10 * time.Second
)

// Services are the servers and tools that a [Worker] uses. The caller closes them.
type Services struct {
	DB *postgres.DB

	// Redis is the server of the tasks, and Locks those of the rooms' locks: the same
	// client, or one for each of several independent masters, from
	// [redisdb.OpenForLocks].
	Redis redis.UniversalClient
	Locks []redis.UniversalClient

	// Board shows the jobs. Its names are those of the deployment.
	Board   *jobs.Board
	Log     *slog.Logger
	Metrics *observe.Metrics
}

// A Worker runs jobs.
type Worker struct {
	options     WorkerOptions
	db          *postgres.DB
	journal     *journal.Journal
	holds       *journal.Holds
	absorptions *journal.Absorptions
	pauses      *journal.Pauses
	limits      *fleet.Limits
	expiry      *expiry.Queries
	purger      *purge.Purger
	check       *selfcheck.Checker
	redis       redis.UniversalClient
	dispatcher  *dispatch.Dispatcher
	board       *jobs.Board
	rooms       *lock.Locker
	heartbeats  *jobs.Heartbeater
	shutdown    *shutdown.Shutdown
	sweeper     *sweep.Sweeper
	pace        *pace.Pace
	log         *slog.Logger
	metrics     *observe.Metrics

	// drain ends when the worker stops. It is not the parent of the handlers' contexts:
	// when such a context ends, asynq requeues the task at once, while its handler
	// still works.
	drain    context.Context
	endDrain context.CancelFunc
}

// NewWorker returns a Worker. It takes no task before [Worker.Run].
func NewWorker(services Services, options WorkerOptions) *Worker {
	options = options.withDefaults()
	if options.Homeserver == nil {
		options.Homeserver = shutdown.NewEmbedded(shutdown.EmbeddedOptions{Log: services.Log, ServerName: options.ServerName})
	}
	drain, endDrain := context.WithCancel(context.Background())
	jobs.ShowWorker(services.Metrics)
	fences := journal.New(services.DB).RunBy(options.Name)
	purger := purge.New(services.DB, purge.Options{Compat: options.SchemaCompat, Tables: options.Tables})
	check := selfcheck.New(services.DB, options.Tables, services.Log, services.Metrics)
	dispatcher := dispatch.New(services.Redis, services.Board.Names()).Keeping(services.Board.TTL())
	sweeper := sweep.New(sweep.Services{
		DB: services.DB, Dispatcher: dispatcher, Purger: purger, Check: check, Log: services.Log, Metrics: services.Metrics,
	}, sweep.Options{
		MaxQueued: options.MaxQueued, PageRooms: options.SweepRooms, Retention: options.Retention, ServerName: options.ServerName,
		PurgeParameters: sweptPurge, DeleteParameters: sweptDelete,
	})
	return &Worker{
		options:     options,
		db:          services.DB,
		journal:     fences,
		holds:       journal.NewHolds(services.DB),
		absorptions: journal.NewAbsorptions(services.DB),
		pauses:      journal.NewPauses(services.DB),
		limits:      fleet.New(services.DB, services.Redis, services.Log, options.RowsPerSecond).In(services.Board.Names()),
		expiry:      expiry.New(services.DB),
		purger:      purger,
		check:       check,
		redis:       services.Redis,
		dispatcher:  dispatcher,
		board:       services.Board,
		rooms: lock.NewQuorum(services.Locks, fences, lock.Options{
			Lease: lockLease, KeepAlive: keepAlive, Names: services.Board.Names(), Wait: lockWait,
		}),
		heartbeats: jobs.NewHeartbeater(services.DB, services.Log),
		shutdown:   shutdown.New(services.DB, options.Homeserver),
		sweeper:    sweeper,
		pace:       pace.New(pace.Options{Time: func() time.Duration { return options.Brake.BatchTime(options.BatchTime) }, Most: options.BatchEvents}),
		log:        services.Log,
		metrics:    services.Metrics,
		drain:      drain,
		endDrain:   endDrain,
	}
}

// Run takes and runs jobs until the context ends. Then each running job yields after
// its batch. It must be called only once.
func (w *Worker) Run(ctx context.Context) error {
	// Heartbeats go on until the last run has ended, so they need a context of their
	// own.
	beating, stop := context.WithCancel(context.WithoutCancel(ctx))
	var group sync.WaitGroup
	group.Go(func() { w.heartbeats.Run(beating) })
	group.Go(func() { w.limits.Watch(beating) })
	defer group.Wait()
	defer stop()

	// Jobs of sweeps have slots of their own. They must not occupy the slots of other
	// jobs while they wait or pause, nor wait for these without end.
	servers := []*asynq.Server{
		w.server(queues, w.options.Concurrency),
		w.server(lowQueues, min(w.options.MaxRunning, w.options.Concurrency)),
	}
	defer func() {
		w.endDrain()
		var group sync.WaitGroup
		for _, server := range servers {
			group.Go(server.Shutdown)
		}
		group.Wait()
	}()
	for _, server := range servers {
		if err := server.Start(asynq.HandlerFunc(w.handle)); err != nil {
			return fmt.Errorf("start the asynq server: %w", err)
		}
	}
	<-ctx.Done()
	return nil
}

// Each worker takes tasks from the queues of the jobs that operators wait for, and
// separately from the queue of sweeps. A queue's weight says how often it is checked
// while all have tasks.
var (
	queues    = map[journal.Queue]int{jobs.Critical: 6, jobs.Default: 3}
	lowQueues = map[journal.Queue]int{jobs.Low: 1}
)

// server returns a server that takes tasks from the queues.
func (w *Worker) server(queues map[journal.Queue]int, concurrency int) *asynq.Server {
	return dispatch.NewServer(w.redis, w.log, dispatch.ServerOptions{
		Concurrency: concurrency, DrainTimeout: w.options.DrainTimeout, Names: w.board.Names(), Queues: queues,
	})
}

// handle runs a slice of a job. asynq calls it, perhaps twice for the same task.
func (w *Worker) handle(ctx context.Context, task *asynq.Task) error {
	body, err := dispatch.Decode(task)
	if err != nil {
		w.metrics.UnknownTasks.Inc()
		return fmt.Errorf("%w: %w", err, asynq.SkipRetry)
	}
	origin := dispatch.OriginOf(task)
	ctx = observe.About(ctx, slog.String("job", body.JobID), slog.String("kind", task.Type()))
	if origin.RequestID != "" {
		ctx = observe.About(ctx, slog.String("request_id", origin.RequestID))
	}
	log := w.log.With("job", body.JobID, "kind", task.Type())
	kind := journal.Kind(task.Type())
	job, err := w.claim(ctx, body)
	switch {
	case errors.Is(err, journal.ErrUnknown):
		w.metrics.UnknownTasks.Inc()
		log.WarnContext(ctx, "task dropped: this database has no such job; does another deployment use the same id and Redis?")
		return nil
	case errors.Is(err, journal.ErrSuperseded):
		log.DebugContext(ctx, "task dropped: the job has ended or belongs to another run", "generation", body.Generation)
		return nil
	case errors.Is(err, journal.ErrRoomBusy):
		return w.yield(kind, jobs.YieldError{Reason: jobs.YieldRoomBusy, After: wait.Jitter(busyWait)})
	case errors.Is(err, journal.ErrKindFull):
		return w.yield(kind, jobs.YieldError{Reason: jobs.YieldFleet, After: wait.Jitter(busyWait)})
	case errors.Is(err, journal.ErrPaused):
		return w.pause(ctx, kind, body, log)
	case errors.Is(err, journal.ErrLowQueue):
		return w.yield(kind, jobs.YieldError{Reason: jobs.YieldLowQueue, After: wait.Jitter(busyWait)})
	case err != nil:
		log.WarnContext(ctx, "job not claimed", "error", err)
		return w.yield(kind, jobs.YieldError{Reason: jobs.YieldUnreachable, After: wait.Jitter(busyWait)})
	}
	ctx = observe.About(ctx, about(job)...)
	log = log.With("room", job.Room)
	run := journal.Run{JobID: job.ID, Generation: job.Generation, Attempt: job.Attempt}
	running := w.metrics.JobsRunning.WithLabelValues(string(job.Kind))
	running.Inc()
	defer running.Dec()
	// A sweep may make a thousand purges, so each has a trace of its own.
	ctx, span := w.options.Tracer.Run(ctx, origin, job.Queue == jobs.Low, string(job.Kind), append(about(job),
		slog.Int("generation", run.Generation), slog.Int("attempt", run.Attempt), slog.String("request_id", origin.RequestID))...)
	defer span.End(nil) // in case of a panic
	last, err := w.runSlice(ctx, job, run, log)
	outcome, failure := outcomeOf(err)
	span.Set(slog.String("outcome", outcome))
	span.End(failure)
	return w.settle(ctx, job, run, last, err, log)
}

// pause makes a queued job wait for the end of its pause. Its task is done: when the pause
// ends, the reconciler enqueues another.
func (w *Worker) pause(ctx context.Context, kind journal.Kind, task dispatch.Task, log *slog.Logger) error {
	paused, err := w.pauses.PauseQueuedJob(ctx, task.JobID, task.Generation)
	if err != nil || !paused { // or the pause has just ended
		return w.yield(kind, jobs.YieldError{Reason: jobs.YieldPaused, After: wait.Jitter(busyWait)})
	}
	w.metrics.JobYields.WithLabelValues(string(kind), string(jobs.YieldPaused)).Inc()
	log.InfoContext(ctx, "job waits for the end of a pause")
	w.post(ctx, task.JobID)
	return nil
}

// outcomeOf names the outcome of a slice. failure is its error if the job has
// failed.
func outcomeOf(err error) (outcome string, failure error) {
	var yield jobs.YieldError
	var absorbed errAbsorbed
	switch {
	case err == nil:
		return string(journal.Complete), nil
	case errors.Is(err, journal.ErrSuperseded):
		return "superseded", nil
	case errors.As(err, &absorbed):
		return "absorbed", nil
	case errors.Is(err, journal.ErrPaused):
		return "paused", nil
	case errors.As(err, &yield):
		return yield.Error(), nil
	}
	return string(journal.Failed), err
}

// A work does the batches of one kind of job during a run.
type work interface {
	// next does one batch, and reports whether the work is done. It may be called on a
	// job at any point of its progress.
	next(ctx context.Context) (done bool, err error)

	// progress returns the job's checkpoint.
	progress() any

	// leave gives up what the work holds beyond its batches. If resumes is set, another
	// run of the job follows soon and may take it over. It is called once, after the
	// last next.
	leave(ctx context.Context, resumes bool)
}

// constructors make the work of each kind of job, beginning at the checkpoint in the
// job's row.
var constructors = map[journal.Kind]func(*Worker, context.Context, journal.Job, journal.Run) (work, error){
	jobs.PurgeHistory:   (*Worker).newPurgeHistory,
	jobs.DeleteRoom:     (*Worker).newDeleteRoom,
	jobs.RetentionSweep: (*Worker).newRetentionSweep,
	jobs.AbandonedSweep: (*Worker).newAbandonedSweep,
}

// newWork returns the work of a run's job.
func (w *Worker) newWork(ctx context.Context, job journal.Job, run journal.Run) (work, error) {
	construct := constructors[job.Kind]
	if construct == nil {
		return nil, fmt.Errorf("%q is not a kind of job", job.Kind)
	}
	return construct(w, ctx, job, run)
}

// newWorkFromRow reads the run's job again, and returns its work.
func (w *Worker) newWorkFromRow(ctx context.Context, run journal.Run) (work, error) {
	job, err := w.journal.Job(ctx, run.JobID)
	if err != nil {
		return nil, err
	}
	return w.newWork(ctx, job, run)
}

// decodeCheckpoint reads a job's checkpoint, if it has one.
func decodeCheckpoint(job journal.Job, checkpoint any) error {
	if len(job.Checkpoint) == 0 {
		return nil
	}
	if err := json.Unmarshal(job.Checkpoint, checkpoint); err != nil {
		return fmt.Errorf("decode the job's checkpoint: %w", err)
	}
	return nil
}

// runSlice does batches until the work is done, the slice is over or the job has
// failed. It returns the last checkpoint if the work is done, a [jobs.YieldError] if there
// is more to do, [journal.ErrSuperseded] if the run no longer owns the job,
// [journal.ErrHeld] or [journal.ErrPaused] if the job must wait for the end of a hold or a
// pause, an errAbsorbed if another job does its work, and otherwise the reason why the job
// failed.
func (w *Worker) runSlice(ctx context.Context, job journal.Job, run journal.Run, log *slog.Logger) (last any, err error) {
	level := slog.LevelInfo
	if job.WaitsFor != "" {
		level = slog.LevelDebug // it looks again, perhaps for the hundredth time
	}
	log.Log(ctx, level, "job runs", "generation", run.Generation, "attempt", run.Attempt)
	posted := jobs.NewLiveStatus(w.board, jobs.StatusOf(job), about(job)...)
	// Heartbeats post the status too. Most jobs of sweeps end before the first
	// heartbeat, and need no post.
	if job.Queue != jobs.Low {
		posted.Post(ctx)
	}
	ctx, stop := w.heartbeats.Watch(ctx, run, posted.Post)
	defer stop()
	running, stopRunning := w.untilDrain(ctx)
	defer stopRunning()

	deadline := time.Now().Add(w.options.TimeSlice)
	backoff := wait.Backoff{Min: minBackoff, Max: maxBackoff}
	var work work
	defer func() {
		if work != nil {
			var yield jobs.YieldError
			work.leave(ctx, errors.As(err, &yield) && yield.Resumes())
		}
	}()
	checked := w.options.CheckPlan == nil || len(job.Plan) == 0 || len(job.Checkpoint) > 0
	claimed := true // job is up to date, because no run has changed the row since the claim
	for {
		if w.drain.Err() != nil {
			return nil, jobs.YieldError{Reason: jobs.YieldDrain}
		}
		if time.Now().After(deadline) {
			return nil, jobs.YieldError{Reason: jobs.YieldSlice}
		}
		var done bool
		var err error
		switch {
		case !checked:
			err = w.options.CheckPlan(ctx, job)
			checked = err == nil
		case work != nil:
			if done, err = step(ctx, work, log); err == nil {
				backoff.Reset() // not after newWork, whose batch may fail again
			}
		case claimed:
			work, err = w.newWork(ctx, job, run)
		default:
			work, err = w.newWorkFromRow(ctx, run)
		}
		if err == nil && work != nil {
			posted.SetProgress(work.progress())
			if done {
				return work.progress(), nil
			}
		}
		if err == nil {
			continue
		}
		if err := w.classify(ctx, run, err, log); err != nil {
			return nil, err
		}
		w.metrics.JobRetries.WithLabelValues(string(job.Kind)).Inc()
		// Read the row again: a commit whose answer was lost has moved the checkpoint.
		if work != nil {
			work.leave(ctx, true)
		}
		work, claimed = nil, false
		_ = backoff.Wait(running) // if the wait ends early, the loop finds out why
	}
}

// untilDrain returns a context that ends with the given one, or when the worker
// drains.
func (w *Worker) untilDrain(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	stop := context.AfterFunc(w.drain, cancel)
	return ctx, func() {
		stop()
		cancel()
	}
}

// step does a work's next batch. It turns a panic into an error. If asynq handled
// the panic, it would end the run but not the job, which would look as if its worker
// had vanished.
func step(ctx context.Context, work work, log *slog.Logger) (done bool, err error) {
	defer func() {
		if panicked := recover(); panicked != nil {
			log.ErrorContext(ctx, "batch panicked", "panic", panicked, "stack", string(debug.Stack()))
			err = fmt.Errorf("the batch panicked: %v", panicked)
		}
	}()
	return work.next(ctx)
}

// classify decides how to continue after a failed batch. It returns nil if the batch
// must be tried again, and otherwise the result of [Worker.runSlice].
func (w *Worker) classify(ctx context.Context, run journal.Run, err error, log *slog.Logger) error {
	var yield jobs.YieldError
	var absorbed errAbsorbed
	var waiting *synapse.Waiting
	switch {
	case errors.Is(err, journal.ErrSuperseded), errors.Is(context.Cause(ctx), journal.ErrSuperseded):
		return journal.ErrSuperseded
	case errors.As(err, &waiting):
		return jobs.YieldError{Reason: jobs.YieldSynapse, After: wait.Jitter(busyWait), WaitsFor: waiting.Error()}
	case errors.As(err, &yield), errors.As(err, &absorbed), errors.Is(err, journal.ErrHeld), errors.Is(err, journal.ErrPaused):
		return err
	case errors.Is(err, errDraining):
		return nil // the loop checks for it
	case ctx.Err() != nil: // asynq gave the task up
		return jobs.YieldError{Reason: jobs.YieldTimeout}
	case errors.Is(err, lock.ErrTaken):
		return jobs.YieldError{Reason: jobs.YieldRoomLocked, After: wait.Jitter(busyWait), WaitsFor: journal.RoomLockTaken}
	case errors.Is(err, journal.ErrFenced), errors.Is(err, lock.ErrLockLost), errors.Is(err, beside.ErrLockLost):
		if errors.Is(err, journal.ErrFenced) {
			w.metrics.FenceRejections.Inc()
		} else {
			w.metrics.LockLosses.Inc()
		}
		log.WarnContext(ctx, "lock lost: the batch was rolled back", "error", err)
		return nil
	case errors.Is(err, lock.ErrRefused):
		log.WarnContext(ctx, "Redis refuses a command: the job waits", "error", err)
		return jobs.YieldError{Reason: jobs.YieldRedisRefuses, After: wait.Jitter(busyWait), WaitsFor: "waiting: Redis refuses a command for the lock of the room: " + err.Error()}
	case errors.Is(err, lock.ErrUnavailable), errors.Is(err, shutdown.ErrHomeserver), postgres.Unreachable(err):
		// The job is not to blame, so this does not count as a failure, however long it
		// lasts.
		log.WarnContext(ctx, "server unreachable: the batch will be tried again", "error", err)
		return nil
	case postgres.IsLocked(err), postgres.IsFull(err):
		return jobs.AwaitServer(ctx, w.journal, run, err, w.options.MaxLockWait)
	case postgres.Transient(err):
		failures, countErr := w.journal.FailBatch(ctx, run, err.Error())
		switch {
		case errors.Is(countErr, journal.ErrSuperseded):
			return journal.ErrSuperseded
		case countErr == nil && failures >= maxReferenced && postgres.HasCode(err, "23503"):
			return fmt.Errorf("rows are referenced that the batch deletes: %w", err)
		case countErr == nil && failures >= dispatch.MaxFailures:
			return fmt.Errorf("gave up after %d failures without progress: %w", failures, err)
		}
		log.WarnContext(ctx, "batch failed: it will be tried again", "failures", failures, "error", err)
		return nil
	}
	return err
}

// settle stores the result of a slice, and returns asynq's. last is the checkpoint of a
// work that is done.
func (w *Worker) settle(ctx context.Context, job journal.Job, run journal.Run, last any, err error, log *slog.Logger) error {
	// The result must be stored even if the end of the context has ended the slice.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), bookkeepingTime)
	defer cancel()

	var yield jobs.YieldError
	var absorbed errAbsorbed
	switch {
	case errors.Is(err, journal.ErrSuperseded):
		log.WarnContext(ctx, "job belongs to another run now", "attempt", run.Attempt)
		return nil
	case errors.As(err, &yield):
		if err := w.retry(ctx, func() error {
			return w.journal.YieldJob(ctx, run, journal.Yield{WaitsFor: yield.WaitsFor, Checkpoint: yield.Checkpoint})
		}); err != nil {
			log.WarnContext(ctx, "job not yielded: left to the reconciler", "error", err)
			return nil
		}
		level := slog.LevelInfo
		if yield.WaitsFor != "" && yield.WaitsFor == job.WaitsFor {
			level = slog.LevelDebug
		}
		log.Log(ctx, level, "job yields", "reason", yield.Reason, "waits_for", yield.WaitsFor)
		w.post(ctx, job.ID) // no heartbeat may have posted the last progress
		return w.yield(job.Kind, yield)
	case errors.Is(err, journal.ErrHeld):
		if err := w.retry(ctx, func() error { return w.journal.HoldJob(ctx, run) }); err != nil {
			log.WarnContext(ctx, "job not held: left to the reconciler", "error", err)
			return nil
		}
		// The task is done: when the hold ends, the reconciler enqueues another.
		w.metrics.JobYields.WithLabelValues(string(job.Kind), string(jobs.YieldHeld)).Inc()
		log.InfoContext(ctx, "job waits for the end of a hold", "error", err)
		w.post(ctx, job.ID)
		return nil
	case errors.Is(err, journal.ErrPaused):
		if err := w.retry(ctx, func() error { return w.pauses.PauseRun(ctx, run) }); err != nil {
			log.WarnContext(ctx, "job not paused: left to the reconciler", "error", err)
			return nil
		}
		w.metrics.JobYields.WithLabelValues(string(job.Kind), string(jobs.YieldPaused)).Inc()
		log.InfoContext(ctx, "job waits for the end of a pause", "error", err)
		w.post(ctx, job.ID)
		w.follow(ctx, job.Room, log)
		return nil
	case errors.As(err, &absorbed):
		return w.yieldTo(ctx, job, run, absorbed.by, log)
	}

	state, reason := journal.Complete, ""
	switch {
	case errors.Is(err, expiry.ErrNotAbandoned):
		// Nothing was deleted, and nothing has failed.
		state = journal.Cancelled
		log.InfoContext(ctx, "room not deleted", "reason", err)
	case err != nil:
		state, reason = journal.Failed, cmp.Or(refusal(err), err.Error())
	}
	end := func() error { return w.journal.EndJob(ctx, run, state, reason) }
	if state == journal.Complete {
		end = func() error { return w.journal.CompleteJob(ctx, run, last) }
	}
	if err := w.retry(ctx, end); err != nil {
		// The work is done, or refused for good. The next run of the job comes to the
		// same end.
		log.WarnContext(ctx, "the job's end was not written: left to the reconciler", "error", err)
		return nil
	}
	w.metrics.JobsEnded.WithLabelValues(string(job.Kind), string(state)).Inc()
	log.InfoContext(ctx, "job ended", "state", state, "error", reason)
	w.post(ctx, job.ID)
	w.follow(ctx, job.Room, log)
	return nil
}

// post posts the status of a job from its row. If the row cannot be read, the next
// reader of the status reads it.
func (w *Worker) post(ctx context.Context, id string) {
	if job, err := w.journal.Job(ctx, id); err == nil {
		w.board.Post(ctx, jobs.StatusOf(job))
	}
}

// retry repeats an operation of the bookkeeping while its error is transient, until
// the context ends.
func (w *Worker) retry(ctx context.Context, do func() error) error {
	return wait.Retry(ctx, wait.Backoff{Min: bookkeepingBackoff}, postgres.Transient, do)
}

func (w *Worker) yield(kind journal.Kind, yield jobs.YieldError) error {
	w.metrics.JobYields.WithLabelValues(string(kind), string(yield.Reason)).Inc()
	return yield
}
