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

	"lethe/internal/jobs"
	"lethe/internal/lock"
	"lethe/internal/observe"
	"lethe/internal/retention"
	"lethe/internal/shutdown"
	"lethe/internal/store/expiry"
	"lethe/internal/store/journal"
	"lethe/internal/store/postgres"
	"lethe/internal/store/purge"
	"lethe/internal/wait"
)

// WorkerOptions are what a [Worker] is made of.
type WorkerOptions struct {
	// BatchEvents is the most events that a batch selects, unless one depth
	// level has more. Defaults to 20,000.
	BatchEvents int

	// BatchTime is how long a batch should take. Defaults to 250 ms.
	BatchTime time.Duration

	// Beside says that a homeserver runs on the database. Then no job that purges
	// is begun: that is not safe yet. Defaults to false.
	Beside bool

	// Concurrency is how many jobs run at a time; beside them run the purges of
	// sweeps, of which there are as many at most. Defaults to 4.
	Concurrency int

	// DrainTimeout is how long Run waits for batches in progress when its
	// context has ended. Defaults to 25 s.
	DrainTimeout time.Duration

	// Homeserver writes the events of shutdowns. Defaults to nil, an embedded one
	// of ServerName that signs nothing.
	Homeserver shutdown.Homeserver

	// MaxQueued is how many purges of sweeps may be open at a time: a sweep waits
	// until there are fewer. Defaults to 1000.
	MaxQueued int

	// MaxRunning is how many of them may run at a time, in the whole fleet.
	// Defaults to 2.
	MaxRunning int

	// Retention says which rooms sweeps purge, and by what. Defaults to nothing:
	// sweeps fail.
	Retention retention.Config

	// RowsPerSecond is how many rows the purges of sweeps may delete, in the whole
	// fleet: an event with all that belongs to it is one, and so is a state group.
	// Defaults to 0, no limit.
	RowsPerSecond int

	// ServerName is the homeserver's name. It has no default.
	ServerName string

	// SweepRooms is how many rooms a sweep decides about at a time, up to
	// [expiry.MaxRooms]. Defaults to 500.
	SweepRooms int

	// TimeSlice is how long a job runs before it makes room for others.
	// Defaults to 30 s.
	TimeSlice time.Duration

	// Tracer traces the runs of jobs. Defaults to nil, no traces.
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
	if o.MaxQueued == 0 {
		o.MaxQueued = 1000
	}
	if o.MaxRunning == 0 {
		o.MaxRunning = 2
	}
	if o.SweepRooms == 0 {
		o.SweepRooms = 500
	}
	if o.TimeSlice == 0 {
		o.TimeSlice = 30 * time.Second
	}
	return o
}

const (
	// lockLease is the lease of a room's lock, keepAlive how often it is
	// extended: a killed worker's room is free after the lease.
	lockLease = 10 * time.Second
	keepAlive = 3 * time.Second

	// lockWait bounds the wait for a room's lock. It is as long as a reader may
	// keep its lease.
	lockWait = 30 * time.Second

	// maxFailures is how many failures in a row end a job.
	maxFailures = 20

	// The wait after a failed batch doubles from the first to the second.
	minBackoff = 50 * time.Millisecond
	maxBackoff = 5 * time.Second

	// bookkeepingBackoff is the wait between the tries to write a job's end or yield.
	bookkeepingBackoff = 200 * time.Millisecond

	// busyWait is about how long a job waits in the queue for its room.
	busyWait = 2 * time.Second

	// bookkeepingTime bounds the writing of a job's end or yield.
	bookkeepingTime = 10 * time.Second
)

// errYield says that a run gave its job back to the queue; after is how long it
// should stay there.
type errYield struct {
	reason jobs.Yield
	after  time.Duration
}

func (e errYield) Error() string { return "yield: " + string(e.reason) }

// Services are what a [Worker] works with. All of them stay the caller's to close.
type Services struct {
	DB *postgres.DB

	// Redis is where tasks come from, and Locks where rooms are locked: the same
	// client, or one for each of several independent masters, from
	// [redisdb.OpenForLocks].
	Redis redis.UniversalClient
	Locks []redis.UniversalClient

	Board   *jobs.Board
	Log     *slog.Logger
	Metrics *observe.Metrics
}

// A Worker runs jobs.
type Worker struct {
	options  WorkerOptions
	db       *postgres.DB
	journal  *journal.Journal
	expiry   *expiry.Queries
	purger   *purge.Purger
	redis    redis.UniversalClient
	dispatch dispatcher
	board    *jobs.Board
	rooms    *lock.Locker
	heart    *jobs.Heart
	shutdown *shutdown.Shutdown
	log      *slog.Logger
	metrics  *observe.Metrics

	// drain ends when the worker is to stop. It is no parent of the handlers'
	// contexts: asynq would put a task back at once, while its handler works.
	drain    context.Context
	endDrain context.CancelFunc
}

// NewWorker returns a Worker that takes nothing before [Worker.Run].
func NewWorker(services Services, options WorkerOptions) *Worker {
	options = options.withDefaults()
	if options.Homeserver == nil {
		options.Homeserver = shutdown.NewEmbedded(shutdown.EmbeddedOptions{Log: services.Log, ServerName: options.ServerName})
	}
	drain, endDrain := context.WithCancel(context.Background())
	showWorker(services.Metrics)
	fences := journal.New(services.DB)
	return &Worker{
		options:  options,
		db:       services.DB,
		journal:  fences,
		expiry:   expiry.New(services.DB),
		purger:   purge.New(services.DB, purge.Options{}),
		redis:    services.Redis,
		dispatch: newDispatcher(services.Redis),
		board:    services.Board,
		rooms:    lock.NewQuorum(services.Locks, fences, lock.Options{Lease: lockLease, KeepAlive: keepAlive, Wait: lockWait}),
		heart:    jobs.NewHeart(services.DB, services.Log),
		shutdown: shutdown.New(services.DB, options.Homeserver),
		log:      services.Log,
		metrics:  services.Metrics,
		drain:    drain,
		endDrain: endDrain,
	}
}

// Run takes and runs jobs until the context ends; then each running job yields
// after its batch. It is called once.
func (w *Worker) Run(ctx context.Context) error {
	// The heart beats until the last run has ended, so its context is its own.
	beating, stop := context.WithCancel(context.WithoutCancel(ctx))
	var heart sync.WaitGroup
	heart.Go(func() { w.heart.Run(beating) })
	defer heart.Wait()
	defer stop()

	// The jobs of sweeps have places of their own. They must not take those of other
	// jobs while they wait for their turn or pause, nor wait for them for ever.
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

// server takes tasks from the queues.
func (w *Worker) server(queues map[string]int, concurrency int) *asynq.Server {
	return asynq.NewServerFromRedisClient(w.redis, asynq.Config{
		Concurrency:              concurrency,
		Queues:                   queues,
		Logger:                   observe.NewAsynqLogger(w.log),
		ShutdownTimeout:          w.options.DrainTimeout,
		TaskCheckInterval:        200 * time.Millisecond,
		DelayedTaskCheckInterval: time.Second,
		IsFailure: func(err error) bool {
			var yield errYield
			return !errors.As(err, &yield)
		},
		RetryDelayFunc: func(_ int, err error, _ *asynq.Task) time.Duration {
			var yield errYield
			errors.As(err, &yield)
			return yield.after
		},
	})
}

// handle runs a job's slice. It is what asynq calls, perhaps twice for a task.
func (w *Worker) handle(ctx context.Context, task *asynq.Task) error {
	body, err := decode(task)
	if err != nil {
		return fmt.Errorf("%w: %w", err, asynq.SkipRetry)
	}
	origin := originOf(task)
	ctx = observe.About(ctx, slog.String("job", body.JobID), slog.String("kind", task.Type()))
	if origin.RequestID != "" {
		ctx = observe.About(ctx, slog.String("request_id", origin.RequestID))
	}
	log := w.log.With("job", body.JobID, "kind", task.Type())
	kind := journal.Kind(task.Type())
	job, err := w.claim(ctx, body)
	switch {
	case errors.Is(err, journal.ErrSuperseded):
		log.DebugContext(ctx, "task dropped: the job has ended or belongs to another run", "generation", body.Generation)
		return nil
	case errors.Is(err, journal.ErrRoomBusy):
		return w.yield(kind, errYield{jobs.YieldRoomBusy, wait.Jitter(busyWait)})
	case errors.Is(err, journal.ErrLowQueue):
		return w.yield(kind, errYield{jobs.YieldLowQueue, wait.Jitter(busyWait)})
	case err != nil:
		log.WarnContext(ctx, "job not claimed", "error", err)
		return w.yield(kind, errYield{jobs.YieldUnreachable, wait.Jitter(busyWait)})
	}
	ctx = observe.About(ctx, about(job)...)
	log = log.With("room", job.Room)
	run := journal.Run{JobID: job.ID, Generation: job.Generation, Attempt: job.Attempt}
	running := w.metrics.JobsRunning.WithLabelValues(string(job.Kind))
	running.Inc()
	defer running.Dec()
	// Of a sweep's thousand purges each has a trace of its own.
	ctx, span := w.options.Tracer.Run(ctx, origin, job.Queue == jobs.Low, string(job.Kind), append(about(job),
		slog.Int("generation", run.Generation), slog.Int("attempt", run.Attempt), slog.String("request_id", origin.RequestID))...)
	defer span.End(nil) // should it panic
	err = w.runSlice(ctx, job, run, log)
	outcome, failure := outcomeOf(err)
	span.Set(slog.String("outcome", outcome))
	span.End(failure)
	return w.settle(ctx, job, run, err, log)
}

// outcomeOf names how a slice ended, and returns its error if the job has failed.
func outcomeOf(err error) (outcome string, failure error) {
	var yield errYield
	switch {
	case err == nil:
		return string(journal.Complete), nil
	case errors.Is(err, journal.ErrSuperseded):
		return "superseded", nil
	case errors.As(err, &yield):
		return yield.Error(), nil
	}
	return string(journal.Failed), err
}

// errBeside is why a job that purges fails beside a running homeserver.
var errBeside = errors.New("a homeserver runs on the database, and purging beside it is not safe yet: " +
	"stop it and unset homeserver.as_token, or shut the room down without a purge")

// work is a job of one kind, as a run sees it.
type work interface {
	// next does one batch, and reports whether the work is done. It can be
	// called on a job in any state of progress.
	next(ctx context.Context) (done bool, err error)

	// progress is the job's checkpoint.
	progress() any
}

// constructors make the works of all kinds of jobs, from where the job's row says
// that it is.
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

// newWorkFromRow returns the work of a run whose job is read again.
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

// runSlice does batch after batch until the work is done, the slice is over or
// the job has failed. It returns nil when the work is done, an errYield when
// there is more, [journal.ErrSuperseded] when the job is another's, and otherwise
// why the job failed. [journal.ErrHeld] says that it has to wait for a hold's end.
func (w *Worker) runSlice(ctx context.Context, job journal.Job, run journal.Run, log *slog.Logger) error {
	log.InfoContext(ctx, "job runs", "generation", run.Generation, "attempt", run.Attempt)
	posted := &postedStatus{board: w.board, about: about(job), status: jobs.StatusOf(job)}
	// Most jobs of sweeps end before the first heartbeat, which would post them.
	if job.Queue != jobs.Low {
		posted.post(ctx)
	}
	ctx, stop := w.heart.Watch(ctx, run, posted.post)
	defer stop()
	running, stopRunning := w.untilDrain(ctx)
	defer stopRunning()

	deadline := time.Now().Add(w.options.TimeSlice)
	backoff := wait.Backoff{Min: minBackoff, Max: maxBackoff}
	var work work
	claimed := true // the job is as it was claimed: only this run can have moved it
	for {
		if w.drain.Err() != nil {
			return errYield{reason: jobs.YieldDrain}
		}
		if time.Now().After(deadline) {
			return errYield{reason: jobs.YieldSlice}
		}
		var done bool
		var err error
		switch {
		case work != nil:
			if done, err = step(ctx, work, log); err == nil {
				backoff.Reset() // only a batch is progress: work that was made again may fail again
			}
		case claimed:
			work, err = w.newWork(ctx, job, run)
		default:
			work, err = w.newWorkFromRow(ctx, run)
		}
		if err == nil {
			posted.setProgress(work.progress())
			if done {
				return nil
			}
			continue
		}
		if err := w.classify(ctx, run, err, log); err != nil {
			return err
		}
		w.metrics.JobRetries.WithLabelValues(string(job.Kind)).Inc()
		// From the row again: a commit whose answer was lost has moved it.
		work, claimed = nil, false
		_ = backoff.Wait(running) // if it ends early, the loop sees why
	}
}

// A postedStatus is the status of a running job. It is safe for concurrent use.
type postedStatus struct {
	board *jobs.Board
	about []slog.Attr

	mu     sync.Mutex
	status jobs.Status
}

func (p *postedStatus) post(ctx context.Context) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.board.Post(observe.About(ctx, p.about...), p.status) // a heartbeat's context is about no job
}

func (p *postedStatus) setProgress(progress any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.status.Progress = encode(progress)
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

// step does a work's next batch. A panic in it is an error: left to asynq it
// would end the run, but not the job, which would then only seem to have lost
// its worker.
func step(ctx context.Context, work work, log *slog.Logger) (done bool, err error) {
	defer func() {
		if panicked := recover(); panicked != nil {
			log.ErrorContext(ctx, "batch panicked", "panic", panicked, "stack", string(debug.Stack()))
			err = fmt.Errorf("the batch panicked: %v", panicked)
		}
	}()
	return work.next(ctx)
}

// classify decides what a failed batch means: nil if it is to be tried again,
// otherwise what [Worker.runSlice] returns.
func (w *Worker) classify(ctx context.Context, run journal.Run, err error, log *slog.Logger) error {
	var yield errYield
	switch {
	case errors.Is(err, journal.ErrSuperseded), errors.Is(context.Cause(ctx), journal.ErrSuperseded):
		return journal.ErrSuperseded
	case errors.As(err, &yield), errors.Is(err, journal.ErrHeld):
		return err
	case errors.Is(err, errDraining):
		return nil // the loop sees it
	case ctx.Err() != nil: // asynq gave the task up
		return errYield{reason: jobs.YieldTimeout}
	case errors.Is(err, lock.ErrTaken):
		return errYield{reason: jobs.YieldRoomLocked, after: wait.Jitter(busyWait)}
	case errors.Is(err, journal.ErrFenced), errors.Is(err, lock.ErrLockLost):
		if errors.Is(err, journal.ErrFenced) {
			w.metrics.FenceRejections.Inc()
		} else {
			w.metrics.LockLosses.Inc()
		}
		log.WarnContext(ctx, "lock lost: the batch was rolled back", "error", err)
		return nil
	case errors.Is(err, lock.ErrUnavailable), errors.Is(err, shutdown.ErrHomeserver), postgres.Unreachable(err):
		// No fault of the job's, so it does not count, however long it lasts.
		log.WarnContext(ctx, "server unreachable: the batch will be tried again", "error", err)
		return nil
	case postgres.Transient(err):
		failures, countErr := w.journal.FailBatch(ctx, run, err.Error())
		switch {
		case errors.Is(countErr, journal.ErrSuperseded):
			return journal.ErrSuperseded
		case countErr == nil && failures >= maxFailures:
			return fmt.Errorf("gave up after %d failures without progress: %w", failures, err)
		}
		log.WarnContext(ctx, "batch failed: it will be tried again", "failures", failures, "error", err)
		return nil
	}
	return err
}

// settle writes how a slice ended, and tells asynq.
func (w *Worker) settle(ctx context.Context, job journal.Job, run journal.Run, err error, log *slog.Logger) error {
	// Whatever ended the slice must not keep its end from being written.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), bookkeepingTime)
	defer cancel()

	var yield errYield
	switch {
	case errors.Is(err, journal.ErrSuperseded):
		log.WarnContext(ctx, "job is another run's now", "attempt", run.Attempt)
		return nil
	case errors.As(err, &yield):
		if err := w.retry(ctx, func() error { return w.journal.YieldJob(ctx, run) }); err != nil {
			log.WarnContext(ctx, "job not yielded: left to the reconciler", "error", err)
			return nil
		}
		log.InfoContext(ctx, "job yields", "reason", yield.reason)
		w.post(ctx, job.ID) // what the slice has done, which no heartbeat may have told
		return w.yield(job.Kind, yield)
	case errors.Is(err, journal.ErrHeld):
		if err := w.retry(ctx, func() error { return w.journal.HoldJob(ctx, run) }); err != nil {
			log.WarnContext(ctx, "job not held: left to the reconciler", "error", err)
			return nil
		}
		// Its task is done: when the hold ends, the reconciler makes another.
		w.metrics.JobYields.WithLabelValues(string(job.Kind), string(jobs.YieldHeld)).Inc()
		log.InfoContext(ctx, "job waits for the end of a hold", "error", err)
		w.post(ctx, job.ID)
		return nil
	}

	state, reason := journal.Complete, ""
	switch {
	case errors.Is(err, expiry.ErrNotAbandoned):
		// Nothing was done, and nothing is wrong.
		state = journal.Cancelled
		log.InfoContext(ctx, "room not deleted", "reason", err)
	case err != nil:
		state, reason = journal.Failed, reasonFor(err)
	}
	if err := w.retry(ctx, func() error { return w.journal.EndJob(ctx, run, state, reason) }); err != nil {
		// The work is done or refused for good; whoever takes the job over comes
		// to the same end.
		log.WarnContext(ctx, "the job's end was not written: left to the reconciler", "error", err)
		return nil
	}
	w.metrics.JobsEnded.WithLabelValues(string(job.Kind), string(state)).Inc()
	log.InfoContext(ctx, "job ended", "state", state, "error", reason)
	w.post(ctx, job.ID)
	return nil
}

// post posts the status of a job as its row has it. If that cannot be read, those
// who ask will look at the row.
func (w *Worker) post(ctx context.Context, id string) {
	if job, err := w.journal.Job(ctx, id); err == nil {
		w.board.Post(ctx, jobs.StatusOf(job))
	}
}

// reasonFor is the text that a failed job's status gives for the error. What an
// API would have refused begins with the status that it would have answered.
func reasonFor(err error) string {
	return cmp.Or(refusal(err), err.Error())
}

// retry repeats an operation of the bookkeeping while it fails for a passing reason,
// until the context ends.
func (w *Worker) retry(ctx context.Context, do func() error) error {
	return wait.Retry(ctx, wait.Backoff{Min: bookkeepingBackoff}, postgres.Transient, do)
}

func (w *Worker) yield(kind journal.Kind, yield errYield) error {
	w.metrics.JobYields.WithLabelValues(string(kind), string(yield.reason)).Inc()
	return yield
}

// firstBatch is the size of a job's first batch, from which it finds the size
// that takes the time that a batch should.
func (w *Worker) firstBatch() int { return min(200, w.options.BatchEvents) }

// firstRows is the size of a delete's first batch of rows.
func (w *Worker) firstRows() int { return min(firstRows, w.options.BatchEvents) }

// nextBatch is the size of the batch after one of the given size that took so
// long. It at most doubles, since a quick batch may have met little, and does not
// fall below minSize: a batch of that size is slow for another reason.
func (w *Worker) nextBatch(size, minSize int, took time.Duration) int {
	factor := min(max(w.options.BatchTime.Seconds()/max(took.Seconds(), 1e-6), 0.25), 2)
	return min(max(int(float64(size)*factor), minSize), w.options.BatchEvents)
}

// encode writes a checkpoint as JSON; one that cannot be written is empty.
func encode(v any) string {
	encoded, err := json.Marshal(v)
	if err != nil {
		return ""
	}
	return string(encoded)
}
