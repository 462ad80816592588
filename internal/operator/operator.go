package operator

import (
	"cmp"
	"context"
	"log/slog"
	"time"

	"lethe/internal/brake"
	"lethe/internal/plan"
	"lethe/internal/schedule"
	"lethe/internal/store/admin"
	"lethe/internal/store/audit"
	"lethe/internal/store/control"
	"lethe/internal/store/footprint"
	"lethe/internal/store/journal"
	"lethe/internal/store/postgres"
	"lethe/internal/store/scheduledtasks"
	"lethe/internal/synapse"
	"lethe/internal/tasks"
)

// Options are the options of [New].
type Options struct {
	// Brakes returns what the workers' brakes do, by worker. Defaults to nil, which is not
	// known.
	Brakes func(ctx context.Context) (map[string]brake.State, error)

	// Changed is called for each job that a verb has changed, so that its status follows.
	// Defaults to nothing.
	Changed func(ctx context.Context, job journal.Job)

	// Grace is the grace of jobs whose request names none. Defaults to 0, no grace.
	Grace time.Duration

	// Log is the logger of sweeps that are accepted. Defaults to slog.Default().
	Log *slog.Logger

	// PurgeDelay is the pause between the shutdown and the purge of a room that is
	// deleted. Defaults to 0, no pause.
	PurgeDelay time.Duration

	// RetentionJobs are the names of the retention jobs of which a sweep can be requested,
	// and AbandonedJob that of the job for abandoned rooms. Default to none.
	RetentionJobs []string
	AbandonedJob  string

	// Schedulers lists the schedulers that are alive. Defaults to nil, which is not known.
	Schedulers func(ctx context.Context) ([]schedule.Replica, error)

	// ServerName is the homeserver's name. It has no default.
	ServerName string

	// Synapse is told of blocks of rooms. Defaults to nil, no Synapse.
	Synapse *synapse.Synapse

	// Workers lists the processes that take jobs. Defaults to nil, which is not known.
	Workers func(ctx context.Context) ([]FleetWorker, error)
}

// An Operator answers the requests of the API. It is safe for concurrent use.
type Operator struct {
	options    Options
	control    *control.Control
	audit      *audit.Log
	held       *journal.Holds
	decisions  *journal.Schedules
	runner     *schedule.Runner
	others     *scheduledtasks.Queue
	queries    *admin.Queries
	planner    *plan.Planner
	footprints *footprint.Queries
	tasks      *tasks.Client
	streams    chan struct{}
}

// New returns an Operator that reads from db, and submits jobs to the client.
func New(db *postgres.DB, client *tasks.Client, planner *plan.Planner, footprints *footprint.Queries, options Options) *Operator {
	options.Log = cmp.Or(options.Log, slog.Default())
	if options.Changed == nil {
		options.Changed = func(context.Context, journal.Job) {}
	}
	return &Operator{
		options: options, audit: audit.NewLog(db), control: control.New(db), held: journal.NewHolds(db), decisions: journal.NewSchedules(db),
		runner: schedule.NewRunner(db, client, options.Log),
		others: scheduledtasks.New(db), queries: admin.New(db), planner: planner, footprints: footprints, tasks: client,
		streams: make(chan struct{}, maxStreams),
	}
}

// NoWorker is what a job waits for while no worker takes jobs.
const NoWorker = "no worker"

// Alive reports whether a worker takes jobs. It does so too if that is not known.
func (o *Operator) Alive(ctx context.Context) bool {
	if o.options.Workers == nil {
		return true
	}
	workers, err := o.options.Workers(ctx)
	return err != nil || len(workers) > 0
}
