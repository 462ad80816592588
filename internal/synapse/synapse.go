package synapse

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"

	"lethe/internal/observe"
	"lethe/internal/store/beside"
	"lethe/internal/store/migrate"
	"lethe/internal/store/postgres"
)

// A Mode says whether a Synapse may run on the database at the same time.
type Mode string

const (
	// Auto is for both cases. Jobs do all that a running Synapse needs, whether one is
	// seen or not.
	Auto Mode = "auto"

	// Runs says that one runs, so that jobs wait if it cannot be told of purges, even
	// while it is not seen.
	Runs Mode = "true"

	// Stopped says that none runs. Jobs leave out all that only a running one needs,
	// and wait while one is seen.
	Stopped Mode = "false"
)

// Options are the options of a [Synapse].
type Options struct {
	// Mode says whether a Synapse may run. Defaults to [Auto].
	Mode Mode

	// Redis is the server through which the processes of Synapse talk to each other.
	// Defaults to nil, none: then Synapse is told of a purge by a task of its own.
	Redis redis.UniversalClient

	// ServerName is the homeserver's name. It has no default.
	ServerName string

	// Alive asks the homeserver whether it runs, and returns an error if it does not
	// answer. Defaults to nil, never asked.
	Alive func(context.Context) error

	// Log gets what the operator should know. Defaults to nothing.
	Log *slog.Logger

	// Metrics counts what Synapse is told. Defaults to metrics that are not served.
	Metrics *observe.Metrics

	// Pace is the shortest time between two invalidations that may wait. Each clears
	// caches of all rooms. Defaults to 2 s.
	Pace time.Duration

	// LookAge is how old the last look at the database may be. Defaults to 200 ms.
	LookAge time.Duration
}

// A Synapse is the Synapse that may be running on the database. It is safe for
// concurrent use.
type Synapse struct {
	options Options
	db      *postgres.DB
	channel *channel // nil without Redis

	// made says that Synapse has made the tables of the database, and found that this
	// has been found out.
	made, found atomic.Bool

	looking sync.Mutex
	look    beside.Presence
	lookAt  time.Time

	aliveMu  sync.Mutex
	alive    bool
	askAgain time.Time

	mayTask sync.Mutex
	tasks   *bool

	releases   sync.WaitGroup
	renewEvery time.Duration
}

// New returns a Synapse. It sends nothing before its first use. With Redis the caller
// must call [Synapse.Run].
func New(db *postgres.DB, options Options) *Synapse {
	options.Mode = cmp.Or(options.Mode, Auto)
	options.Pace = cmp.Or(options.Pace, 2*time.Second)
	options.LookAge = cmp.Or(options.LookAge, 200*time.Millisecond)
	if options.Metrics == nil {
		options.Metrics = observe.NewMetrics(observe.NewRegistry())
	}
	exportAtZero(options.Metrics)
	if options.Log == nil {
		options.Log = slog.New(slog.DiscardHandler)
	}
	s := &Synapse{options: options, db: db, renewEvery: renewInterval}
	if options.Redis != nil {
		s.channel = newChannel(db, options)
	}
	return s
}

// Run listens to Synapse's Redis and tells its processes of invalidations, until the
// context ends. Then it publishes what is left, and waits for locks that are about to
// be released. Call it once.
func (s *Synapse) Run(ctx context.Context) {
	if s.channel != nil {
		s.channel.run(ctx)
	} else {
		<-ctx.Done()
	}
	s.releases.Wait()
}

var (
	// ErrTooOld is returned for the database of a Synapse before 1.91, which locks rooms
	// in another way.
	ErrTooOld = errors.New("this Synapse is too old to purge beside it: it has no table worker_read_write_locks, " +
		"which Synapse 1.91 has; stop it, and set synapse_beside to false")

	// ErrStateElsewhere is returned for a Synapse that keeps its tables in two databases.
	ErrStateElsewhere = errors.New("this Synapse keeps the states of rooms in another database, which Lethe does not support: " +
		"it cannot delete from two databases in one transaction")
)

// Find finds out whether the database is a Synapse's. Before it has succeeded, jobs do
// nothing for Synapse. It fails with [ErrTooOld] or [ErrStateElsewhere]. A second call
// looks again.
func (s *Synapse) Find(ctx context.Context) error {
	made, err := migrate.MadeBySynapse(ctx, s.db)
	if err != nil {
		return err
	}
	if !made {
		s.found.Store(true)
		return nil
	}
	elsewhere, err := beside.StateElsewhere(ctx, s.db)
	if err == nil && elsewhere {
		err = ErrStateElsewhere
	}
	if err != nil {
		return err
	}
	if s.options.Mode != Stopped {
		locks, err := s.db.HasTable(ctx, "worker_read_write_locks")
		if err == nil && !locks {
			err = ErrTooOld
		}
		if err != nil {
			return err
		}
	}
	s.made.Store(true)
	s.found.Store(true)
	return nil
}

// Unsupported reports whether an error of [Synapse.Find] says that Lethe does not
// support this Synapse. A second call of Find would not help.
func Unsupported(err error) bool {
	return errors.Is(err, ErrTooOld) || errors.Is(err, ErrStateElsewhere)
}

// Listen only hears whether a Synapse is there, until the context ends. It sends what
// [Synapse.Ready] needs, and nothing else.
func (s *Synapse) Listen(ctx context.Context) {
	if s.channel != nil {
		s.channel.listen(ctx)
	}
}

// Beside reports whether jobs must do what a running Synapse needs.
func (s *Synapse) Beside() bool { return s != nil && s.options.Mode != Stopped && s.made.Load() }

// A Waiting is the reason why a job must wait for Synapse.
type Waiting struct{ Reason string }

// Error implements error.
func (w *Waiting) Error() string { return "waiting: " + w.Reason }

func waiting(format string, args ...any) error { return &Waiting{fmt.Sprintf(format, args...)} }

// Present reports whether a Synapse is at work, and how that is known. The answer may be
// a fifth of a second old.
func (s *Synapse) Present(ctx context.Context) (present bool, why string, err error) {
	if s == nil || !s.made.Load() {
		return false, "Lethe made the tables of this database, and no Synapse can run on it", nil
	}
	seen, err := s.lookAtDatabase(ctx)
	if err != nil {
		return false, "", err
	}
	switch {
	case seen.Seen():
		return true, seen.String(), nil
	case s.answers(ctx):
		return true, "the homeserver answers at homeserver.url", nil
	case s.channel != nil && s.channel.heardWithin(recentlyHeard):
		return true, "it was heard at homeserver.redis_url", nil
	}
	return false, seen.String(), nil
}

func (s *Synapse) lookAtDatabase(ctx context.Context) (beside.Presence, error) {
	s.looking.Lock()
	defer s.looking.Unlock()
	if !s.lookAt.IsZero() && time.Since(s.lookAt) < s.options.LookAge {
		return s.look, nil
	}
	at := time.Now()
	seen, err := beside.LookForHomeserver(ctx, s.db)
	if err != nil {
		return beside.Presence{}, err
	}
	s.look, s.lookAt = seen, at
	return seen, nil
}

const (
	// aliveAge is how old an answer of the homeserver may be, and aliveTime bounds the
	// wait for one. Batches wait for it, so the next question is only after alivePause
	// times as long as the last one took.
	aliveAge   = 5 * time.Second
	aliveTime  = 2 * time.Second
	alivePause = 20
)

// answers reports whether the homeserver answers.
func (s *Synapse) answers(ctx context.Context) bool {
	if s.options.Alive == nil {
		return false
	}
	s.aliveMu.Lock()
	defer s.aliveMu.Unlock()
	asked := time.Now()
	if asked.Before(s.askAgain) {
		return s.alive
	}
	ctx, cancel := context.WithTimeout(ctx, aliveTime)
	defer cancel()
	s.alive = s.options.Alive(ctx) == nil
	s.askAgain = time.Now().Add(max(aliveAge, alivePause*time.Since(asked)))
	return s.alive
}

// A Way is how Synapse learns that rows are gone which it has in its caches.
type Way int

const (
	// Nothing says that there is no Synapse to tell.
	Nothing Way = iota

	// ByStream tells it through its Redis.
	ByStream

	// ByTask lets it clear its caches itself, by a task of its own.
	ByTask
)

// Ready returns how Synapse learns of a batch. It fails with a [Waiting] if a job must
// not delete anything now. Call it before each batch.
func (s *Synapse) Ready(ctx context.Context) (Way, error) {
	if s == nil || !s.made.Load() {
		return Nothing, nil
	}
	present, why, err := s.Present(ctx)
	switch {
	case err != nil:
		return Nothing, err
	case s.options.Mode == Stopped && present:
		return Nothing, waiting("synapse_beside says that no Synapse runs, but %s: stop it, or set synapse_beside to auto", why)
	case s.options.Mode == Stopped:
		return Nothing, nil
	case s.channel != nil:
		return ByStream, s.channel.ready(ctx, present)
	}
	may, err := s.mayRequestTasks(ctx)
	switch {
	case err != nil:
		return Nothing, err
	case may:
		return ByTask, nil
	case !present && s.options.Mode == Auto:
		return Nothing, nil
	}
	if !present {
		why = "synapse_beside says so"
	}
	return Nothing, waiting("Synapse runs (%s), and there is no way to tell it of purges: set homeserver.redis_url, "+
		"or, if Synapse has no Redis, let Lethe's role INSERT into scheduled_tasks", why)
}

// mayRequestTasks remembers that the role may request tasks, and asks again as long as
// it may not.
func (s *Synapse) mayRequestTasks(ctx context.Context) (bool, error) {
	s.mayTask.Lock()
	defer s.mayTask.Unlock()
	if s.tasks != nil && *s.tasks {
		return true, nil
	}
	may, err := beside.MayRequestTasks(ctx, s.db)
	if err == nil {
		s.tasks = &may
	}
	return may, err
}

// Tell tells Synapse that an invalidation with the id was committed. Unless it is urgent, it may
// be told up to two seconds later, together with others. Without Redis it does
// nothing.
func (s *Synapse) Tell(ctx context.Context, id int64, urgent bool) {
	if s != nil && s.channel != nil && id > 0 {
		s.channel.tell(ctx, id, urgent)
	}
}

// An Invalidation is what a transaction outside of jobs does, so that Synapse learns what
// it has made stale.
type Invalidation struct {
	synapse *Synapse
	id      int64
	rows    []postgres.Statement
}

// Invalidation returns the invalidation of caches of a room. Without a Synapse, or with
// one that Lethe does not support, it does nothing. It calls [Synapse.Find] until that
// has succeeded.
func (s *Synapse) Invalidation(ctx context.Context, caches beside.CacheFunc, room string) (*Invalidation, error) {
	i := &Invalidation{synapse: s}
	if s == nil {
		return i, nil
	}
	if !s.found.Load() {
		if err := s.Find(ctx); err != nil && !Unsupported(err) {
			return nil, fmt.Errorf("look for a Synapse: %w", err)
		}
	}
	if s.Beside() {
		i.rows = beside.Invalidate(caches, room, &i.id)
	}
	return i, nil
}

// Statements are the last statements of the transaction.
func (i *Invalidation) Statements() []postgres.Statement { return i.rows }

// Tell tells Synapse, after the commit.
func (i *Invalidation) Tell(ctx context.Context) { i.synapse.Tell(ctx, i.id, true) }
