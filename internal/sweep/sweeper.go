package sweep

import (
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"lethe/internal/dispatch"
	"lethe/internal/jobs"
	"lethe/internal/matrix"
	"lethe/internal/observe"
	"lethe/internal/retention"
	"lethe/internal/selfcheck"
	"lethe/internal/store/expiry"
	"lethe/internal/store/journal"
	"lethe/internal/store/postgres"
	"lethe/internal/store/purge"
)

// Services are what a [Sweeper] uses of the worker that runs its sweeps.
type Services struct {
	DB *postgres.DB

	// Dispatcher enqueues the jobs that sweeps make.
	Dispatcher *dispatch.Dispatcher

	// Purger refuses a sweep on a database on which its jobs would all fail.
	Purger *purge.Purger

	// Check checks what the deletes of a sweep have left.
	Check *selfcheck.Checker

	Log     *slog.Logger
	Metrics *observe.Metrics
}

// Options are the options of a [Sweeper].
type Options struct {
	// MaxQueued is the maximum number of open jobs that sweeps have made. A sweep yields
	// until there are fewer. Defaults to 1000.
	MaxQueued int

	// PageRooms is the number of rooms that a sweep decides at a time, up to
	// [expiry.MaxRooms]. Defaults to 500.
	PageRooms int

	// Retention configures what sweeps purge and delete. Defaults to nothing, with which
	// sweeps fail.
	Retention retention.Config

	// ServerName is the homeserver's name. It has no default.
	ServerName string

	// PurgeParameters and DeleteParameters return the parameters of the jobs that sweeps
	// make, as the kinds of these jobs read them from their rows in JSON. They have no
	// default.
	PurgeParameters  func(Purge) any
	DeleteParameters func(Delete) any
}

// A Purge is what a retention sweep has decided about a room.
type Purge struct {
	// Token is the page token of the first event that stays.
	Token matrix.Token

	// RetentionJob is the name of the retention job that the sweep is a run of.
	RetentionJob string

	// ExpiredBefore is the moment that the sweep has used, in Unix milliseconds: events
	// that arrived before it had expired.
	ExpiredBefore int64
}

// A Delete is what a sweep for abandoned rooms has decided about a room.
type Delete struct {
	// Sweep is the id of the sweep's job. The sweep checks what the delete has left.
	Sweep string
}

const (
	// batchLease is how long the transaction of a page may be idle.
	batchLease = 10 * time.Second

	// sweepWait is about how long a sweep waits in the queue for its jobs to end.
	sweepWait = time.Second

	// maxEnqueuers bounds how many tasks are enqueued at a time.
	maxEnqueuers = 16

	// enqueueAllTime bounds the enqueueing of a page's tasks.
	enqueueAllTime = 10 * time.Second
)

// A Sweeper makes sweeps. It is safe for concurrent use.
type Sweeper struct {
	options    Options
	db         *postgres.DB
	journal    *journal.Journal
	expiry     *expiry.Queries
	purger     *purge.Purger
	check      *selfcheck.Checker
	dispatcher *dispatch.Dispatcher
	log        *slog.Logger
	metrics    *observe.Metrics
}

// New returns a Sweeper. It shows the counters of sweeps at 0.
func New(services Services, options Options) *Sweeper {
	if options.MaxQueued == 0 {
		options.MaxQueued = 1000
	}
	if options.PageRooms == 0 {
		options.PageRooms = 500
	}
	for _, definition := range jobs.Registry() {
		for _, outcome := range definition.Sweep {
			counter(services.Metrics, definition.Kind).WithLabelValues(outcome)
		}
	}
	return &Sweeper{
		options:    options,
		db:         services.DB,
		journal:    journal.New(services.DB),
		expiry:     expiry.New(services.DB),
		purger:     services.Purger,
		check:      services.Check,
		dispatcher: services.Dispatcher,
		log:        services.Log,
		metrics:    services.Metrics,
	}
}

// counter returns the counter of the rooms that sweeps of the kind have decided.
func counter(metrics *observe.Metrics, kind journal.Kind) *prometheus.CounterVec {
	if kind == jobs.AbandonedSweep {
		return metrics.AbandonedRooms
	}
	return metrics.SweepRooms
}
