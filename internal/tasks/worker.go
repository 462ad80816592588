package tasks

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
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
	"lethe/internal/store"
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
	// [store.MostRetentionRooms]. Defaults to 500.
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

	// mostFailures is how many failures in a row end a job.
	mostFailures = 20

	// The wait after a failed batch doubles from the first to the second.
	leastBackoff = 50 * time.Millisecond
	mostBackoff  = 5 * time.Second

	// busyWait is about how long a job waits in the queue for its room.
	busyWait = 2 * time.Second

	// bookkeepingTime bounds the writing of a job's end or yield.
	bookkeepingTime = 10 * time.Second
)

// errYield says that a run gave its job back to the queue; after is how long it
// should stay there.
type errYield struct {
	reason string
	after  time.Duration
}

func (e errYield) Error() string { return "yield: " + e.reason }

// A Worker runs jobs.
type Worker struct {
	options  WorkerOptions
	store    *store.Store
	redis    redis.UniversalClient
	dispatch dispatcher
	board    *jobs.Board
	rooms    *lock.Locker
	heart    *jobs.Heart
	shutdown *shutdown.Shutdown
	history  cachedCatalog
	room     cachedCatalog
	log      *slog.Logger
	metrics  *observe.Metrics

	// drain ends when the worker is to stop. It is no parent of the handlers'
	// contexts: asynq would put a task back at once, while its handler works.
	drain    context.Context
	endDrain context.CancelFunc
}

// NewWorker returns a Worker that takes nothing before [Worker.Run]. It gets its
// tasks through client, and locks rooms through locks: one client, or one for
// each of several independent masters, from [redisdb.OpenForLocks]. All stay the
// caller's to close.
func NewWorker(db *store.Store, client redis.UniversalClient, locks []redis.UniversalClient, board *jobs.Board,
	log *slog.Logger, metrics *observe.Metrics, options WorkerOptions,
) *Worker {
	drain, endDrain := context.WithCancel(context.Background())
	options = options.withDefaults()
	if options.Homeserver == nil {
		options.Homeserver = shutdown.NewEmbedded(db, shutdown.EmbeddedOptions{Log: log, ServerName: options.ServerName})
	}
	showWorker(metrics)
	return &Worker{
		options: options, shutdown: shutdown.New(db, options.Homeserver), store: db,
		history: cachedCatalog{version: db.CatalogVersion, read: db.Catalog},
		room:    cachedCatalog{version: db.CatalogVersion, read: db.RoomCatalog}, redis: client, dispatch: newDispatcher(client), board: board, log: log, metrics: metrics,
		rooms: lock.NewQuorum(locks, db, lock.Options{Lease: lockLease, KeepAlive: keepAlive, Wait: lockWait}),
		heart: jobs.NewHeart(db, log), drain: drain, endDrain: endDrain,
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

	// What nobody waits for has places of its own: it must not have those of others
	// while it waits for its turn or pauses, nor wait for them for ever.
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
	job, err := w.claim(ctx, body)
	switch {
	case errors.Is(err, store.ErrSuperseded):
		log.DebugContext(ctx, "task dropped: the job has ended or belongs to another run", "generation", body.Generation)
		return nil
	case errors.Is(err, store.ErrRoomBusy):
		return w.yield(task.Type(), errYield{yieldRoomBusy, jitter(busyWait)})
	case errors.Is(err, store.ErrLowQueue):
		return w.yield(task.Type(), errYield{yieldLowQueue, jitter(busyWait)})
	case err != nil:
		log.WarnContext(ctx, "job not claimed", "error", err)
		return w.yield(task.Type(), errYield{yieldUnreachable, jitter(busyWait)})
	}
	ctx = observe.About(ctx, about(job)...)
	log = log.With("room", job.Room)
	run := store.Run{JobID: job.ID, Generation: job.Generation, Attempt: job.Attempt}
	running := w.metrics.JobsRunning.WithLabelValues(job.Kind)
	running.Inc()
	defer running.Dec()
	// Of a sweep's thousand purges each has a trace of its own.
	ctx, span := w.options.Tracer.Run(ctx, origin, job.Queue == queueLow, job.Kind, append(about(job),
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
		return string(jobs.Complete), nil
	case errors.Is(err, store.ErrSuperseded):
		return "superseded", nil
	case errors.As(err, &yield):
		return yield.Error(), nil
	}
	return string(jobs.Failed), err
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

// newWork returns the work of a run's job, from where the job's row says it is.
func (w *Worker) newWork(ctx context.Context, run store.Run) (work, error) {
	job, err := w.store.Job(ctx, run.JobID)
	if err != nil {
		return nil, err
	}
	return w.workOf(ctx, job, run)
}

// workOf is newWork for a job whose row was read since the run has it.
func (w *Worker) workOf(ctx context.Context, job store.Job, run store.Run) (work, error) {
	switch jobs.Kind(job.Kind) {
	case jobs.PurgeHistory:
		return w.newPurgeHistory(ctx, job, run)
	case jobs.DeleteRoom:
		return w.newDeleteRoom(ctx, job, run)
	case jobs.RetentionSweep:
		return w.newRetentionSweep(job, run)
	case jobs.AbandonedSweep:
		return w.newAbandonedSweep(job, run)
	}
	return nil, fmt.Errorf("%q is not a kind of job", job.Kind)
}

// runSlice does batch after batch until the work is done, the slice is over or
// the job has failed. It returns nil when the work is done, an errYield when
// there is more, [store.ErrSuperseded] when the job is another's, and otherwise
// why the job failed. [store.ErrHeld] says that it has to wait for a hold's end.
func (w *Worker) runSlice(ctx context.Context, job store.Job, run store.Run, log *slog.Logger) error {
	log.InfoContext(ctx, "job runs", "generation", run.Generation, "attempt", run.Attempt)
	var mu sync.Mutex
	status := jobs.StatusOf(job)
	post := func(ctx context.Context) {
		mu.Lock()
		defer mu.Unlock()
		w.board.Post(observe.About(ctx, about(job)...), status) // a heartbeat's context is about no job
	}
	// Nobody waits for a job of the low queue, and the most of them end before the
	// first heartbeat, which would post it.
	if job.Queue != queueLow {
		post(ctx)
	}
	ctx, stop := w.heart.Watch(ctx, run, post)
	defer stop()

	deadline := time.Now().Add(w.options.TimeSlice)
	backoff := leastBackoff
	var work work
	claimed := true // the job is as it was claimed, for nobody else can have moved it
	for {
		if w.drain.Err() != nil {
			return errYield{reason: yieldDrain}
		}
		if time.Now().After(deadline) {
			return errYield{reason: yieldSlice}
		}

		var done bool
		var err error
		if work == nil && claimed {
			work, err = w.workOf(ctx, job, run)
		} else if work == nil {
			work, err = w.newWork(ctx, run)
		} else if done, err = step(ctx, work, log); err == nil {
			backoff = leastBackoff // only a batch is progress: a work that was made anew may fail again
		}
		if err == nil {
			mu.Lock()
			status.Progress = encode(work.progress())
			mu.Unlock()
			if done {
				return nil
			}
			continue
		}

		if err := w.judge(ctx, run, err, log); err != nil {
			return err
		}
		w.metrics.JobRetries.WithLabelValues(job.Kind).Inc()
		// Begin from the row again: a commit whose answer was lost has moved it.
		work, claimed = nil, false
		select {
		case <-time.After(jitter(backoff)):
		case <-w.drain.Done():
		case <-ctx.Done():
		}
		backoff = min(2*backoff, mostBackoff)
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

// judge decides about a failed batch: nil to try again, else what [runSlice]
// returns.
func (w *Worker) judge(ctx context.Context, run store.Run, err error, log *slog.Logger) error {
	var yield errYield
	switch {
	case errors.Is(err, store.ErrSuperseded), errors.Is(context.Cause(ctx), store.ErrSuperseded):
		return store.ErrSuperseded
	case errors.As(err, &yield), errors.Is(err, store.ErrHeld):
		return err
	case errors.Is(err, errDraining):
		return nil // the loop sees it
	case ctx.Err() != nil: // asynq gave the task up
		return errYield{reason: yieldTimeout}
	case errors.Is(err, lock.ErrTaken):
		return errYield{reason: yieldRoomLocked, after: jitter(busyWait)}
	case errors.Is(err, store.ErrFenced), errors.Is(err, lock.ErrLockLost):
		if errors.Is(err, store.ErrFenced) {
			w.metrics.FenceRejections.Inc()
		} else {
			w.metrics.LockLosses.Inc()
		}
		log.WarnContext(ctx, "lock lost: the batch was rolled back", "error", err)
		return nil
	case errors.Is(err, lock.ErrUnavailable), errors.Is(err, shutdown.ErrHomeserver), store.Unreachable(err):
		// No fault of the job's, so it does not count, however long it lasts.
		log.WarnContext(ctx, "server unreachable: the batch will be tried again", "error", err)
		return nil
	case store.Transient(err):
		failures, countErr := w.store.FailBatch(ctx, run, err.Error())
		switch {
		case errors.Is(countErr, store.ErrSuperseded):
			return store.ErrSuperseded
		case countErr == nil && failures >= mostFailures:
			return fmt.Errorf("gave up after %d failures without progress: %w", failures, err)
		}
		log.WarnContext(ctx, "batch failed: it will be tried again", "failures", failures, "error", err)
		return nil
	}
	return err
}

// settle writes how a slice ended, and tells asynq.
func (w *Worker) settle(ctx context.Context, job store.Job, run store.Run, err error, log *slog.Logger) error {
	// Whatever ended the slice must not keep its end from being written.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), bookkeepingTime)
	defer cancel()

	var yield errYield
	switch {
	case errors.Is(err, store.ErrSuperseded):
		log.WarnContext(ctx, "job is another run's now", "attempt", run.Attempt)
		return nil
	case errors.As(err, &yield):
		if err := w.insist(ctx, func() error { return w.store.YieldJob(ctx, run) }); err != nil {
			log.WarnContext(ctx, "job not yielded: left to the reconciler", "error", err)
			return nil
		}
		log.InfoContext(ctx, "job yields", "reason", yield.reason)
		w.post(ctx, job.ID) // what the slice has done, which no heartbeat may have told
		return w.yield(job.Kind, yield)
	case errors.Is(err, store.ErrHeld):
		if err := w.insist(ctx, func() error { return w.store.HoldJob(ctx, run) }); err != nil {
			log.WarnContext(ctx, "job not held: left to the reconciler", "error", err)
			return nil
		}
		// Its task is done: when the hold ends, the reconciler makes another.
		w.metrics.JobYields.WithLabelValues(job.Kind, "held").Inc()
		log.InfoContext(ctx, "job waits for the end of a hold", "error", err)
		w.post(ctx, job.ID)
		return nil
	}

	state, reason := jobs.Complete, ""
	switch {
	case errors.Is(err, store.ErrNotAbandoned):
		// Nothing was done, and nothing is wrong.
		state = jobs.Cancelled
		log.InfoContext(ctx, "room not deleted", "reason", err)
	case err != nil:
		state, reason = jobs.Failed, reasonFor(err)
	}
	if err := w.insist(ctx, func() error { return w.store.EndJob(ctx, run, string(state), reason) }); err != nil {
		// The work is done or refused for good; whoever takes the job over comes
		// to the same end.
		log.WarnContext(ctx, "the job's end was not written: left to the reconciler", "error", err)
		return nil
	}
	w.metrics.JobsEnded.WithLabelValues(job.Kind, string(state)).Inc()
	log.InfoContext(ctx, "job ended", "state", state, "error", reason)
	w.post(ctx, job.ID)
	return nil
}

// post posts the status of a job as its row has it. If that cannot be read, those
// who ask will look at the row.
func (w *Worker) post(ctx context.Context, id string) {
	if job, err := w.store.Job(ctx, id); err == nil {
		w.board.Post(ctx, jobs.StatusOf(job))
	}
}

// reasonFor is the text that a failed job's status gives for the error. What an
// API would have refused begins with the status that it would have answered.
func reasonFor(err error) string {
	return cmp.Or(refusal(err), err.Error())
}

// insist repeats an operation of the bookkeeping while the database cannot be
// reached, until the context ends.
func (w *Worker) insist(ctx context.Context, do func() error) error {
	for {
		err := do()
		if err == nil || errors.Is(err, store.ErrSuperseded) || !store.Transient(err) {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(jitter(leastBackoff * 4)):
		}
	}
}

func (w *Worker) yield(kind string, yield errYield) error {
	w.metrics.JobYields.WithLabelValues(kind, yield.reason).Inc()
	return yield
}

// errDraining is the cause that ends a wait for a lock when the worker drains.
var errDraining = errors.New("the worker is draining")

// inRoom runs do under the room's write lock. The context that do gets ends with
// the lock.
func (w *Worker) inRoom(ctx context.Context, kind jobs.Kind, room string, run store.Run,
	do func(context.Context, store.Batch) error,
) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	// Draining ends the wait for the lock, but not the batch.
	drained := context.AfterFunc(w.drain, func() { cancel(errDraining) })
	started := time.Now()
	_, waitSpan := observe.StartSpan(ctx, "lock room")
	held, err := w.rooms.Lock(ctx, room)
	drained()
	waitSpan.End(err)
	w.metrics.LockWaitSeconds.WithLabelValues(modeWrite).Observe(time.Since(started).Seconds())
	if err != nil {
		return err
	}
	locked := time.Now()
	batch, batchSpan := observe.StartSpan(held.Context(), "batch", slog.Int64("fence", held.Fence()))
	err = do(batch, store.Batch{Run: run, Room: room, Fence: held.Fence(), Lease: lockLease})
	batchSpan.End(err)
	if err == nil {
		w.metrics.JobBatches.WithLabelValues(string(kind)).Inc()
		w.metrics.JobBatchSeconds.WithLabelValues(string(kind)).Observe(time.Since(locked).Seconds())
	}
	if cause := context.Cause(held.Context()); err != nil && cause != nil {
		err = fmt.Errorf("%w: %w", cause, err)
	}
	// What was committed stays so, whatever becomes of the lock: the fence saw
	// to that. At worst the room is free only after the lease.
	if err := held.Unlock(ctx); err != nil {
		w.log.WarnContext(ctx, "room not unlocked", "error", err)
	}
	w.metrics.LockHoldSeconds.WithLabelValues(modeWrite).Observe(time.Since(locked).Seconds())
	return err
}

// firstBatch is the size of a job's first batch, from which it finds the size
// that takes the time that a batch should.
func (w *Worker) firstBatch() int { return min(200, w.options.BatchEvents) }

// firstRows is the size of a delete's first batch of rows.
func (w *Worker) firstRows() int { return min(firstRows, w.options.BatchEvents) }

// nextBatch is the size of the batch after one of the given size that took so
// long. It at most doubles, since a quick batch may have met little, and does not
// fall below least: where that is slow, it is not for its size.
func (w *Worker) nextBatch(size, least int, took time.Duration) int {
	factor := min(max(w.options.BatchTime.Seconds()/max(took.Seconds(), 1e-6), 0.25), 2)
	return min(max(int(float64(size)*factor), least), w.options.BatchEvents)
}

// encode writes a checkpoint as JSON; one that cannot be written is empty.
func encode(v any) string {
	encoded, err := json.Marshal(v)
	if err != nil {
		return ""
	}
	return string(encoded)
}

// jitter varies a wait by up to a quarter, so that those who wait for the same
// thing do not all come back together.
func jitter(d time.Duration) time.Duration {
	return d + time.Duration((rand.Float64()-0.5)*0.5*float64(d))
}
