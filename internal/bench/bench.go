package bench

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"
)

// Options are what to measure, and where.
type Options struct {
	// API is the path of the program cmd/api. It has no default.
	API string

	// Case is the only case to run: see [Cases]. Defaults to "", all cases.
	Case string

	// Database is the URL of a database to copy, such as one with the tables of a
	// real Synapse. The role must be a superuser, and the database must have no
	// other connections. Defaults to a new database with Lethe's embedded schema, on
	// a server that the benchmark starts.
	Database string

	// Dir is the directory for the data of that server. It should be on a disk,
	// because a commit in memory costs nothing. Defaults to the system's directory
	// for temporary files.
	Dir string

	// Dump is the path of a file in pg_dump's custom format. The benchmark restores
	// it on its own server, and uses it like Database. Defaults to "", no file.
	Dump string

	// Events is the number of events of the room that is purged. Defaults to
	// 200,000.
	Events int

	// Jobs is the number of tiny purges. Defaults to 2,000.
	Jobs int

	// LargeEvents is the number of events of the large room for which the memory of
	// a worker is measured. Defaults to 500,000.
	LargeEvents int

	// SmallEvents is the number of events of the small room for which the memory of
	// a worker is measured. Defaults to 20,000.
	SmallEvents int

	// Progress gets messages about the progress, and the warnings of the workers. It
	// must be safe for concurrent use, as an [os.File] is. Defaults to [io.Discard].
	Progress io.Writer

	// Rooms is the number of small rooms that are deleted. Defaults to 10,000.
	Rooms int

	// Runs is how often everything is measured. Defaults to 3.
	Runs int

	// Scheduler is the path of the program cmd/scheduler. It has no default.
	Scheduler string

	// SweepRooms is the number of rooms of a retention sweep. A tenth of them has
	// expired events. It is at least 100. Defaults to 100,000.
	SweepRooms int

	// Synapse is the URL of a Synapse, whose pages are measured too. Defaults to "",
	// no Synapse.
	Synapse string

	// SynapseDatabase is the URL of the database of that Synapse. It is only read.
	// It has no default if Synapse is set.
	SynapseDatabase string

	// SynapseToken is the access token of a server admin on that Synapse. The pages
	// are those of the largest room of the admin. It has no default if Synapse is
	// set.
	SynapseToken string

	// Worker is the path of the program cmd/worker. It has no default.
	Worker string
}

func (o Options) withDefaults() Options {
	set := func(field *int, value int) {
		if *field == 0 {
			*field = value
		}
	}
	set(&o.Events, 200_000)
	set(&o.Jobs, 2000)
	set(&o.LargeEvents, 500_000)
	set(&o.SmallEvents, 20_000)
	set(&o.Rooms, 10_000)
	set(&o.Runs, 3)
	set(&o.SweepRooms, 100_000)
	o.SweepRooms = max(o.SweepRooms, 100)
	if o.Progress == nil {
		o.Progress = io.Discard
	}
	return o
}

// cases are the things to measure, in this order.
var cases = []struct {
	name    string
	measure func(context.Context, *rig) ([]Row, error)
}{
	{"purge", measurePurge},
	{"memory", measureMemory},
	{"readers", measureReaders},
	{"pages", measurePages},
	{"jobs", measureJobs},
	{"rooms", measureRooms},
	{"sweep", measureSweep},
}

// Cases returns the names of the cases.
func Cases() []string {
	var names []string
	for _, c := range cases {
		names = append(names, c.name)
	}
	return names
}

// caseTimeout is the longest time of a case. With the default options, a case takes
// minutes.
const caseTimeout = 6 * time.Hour

// Run runs the benchmark. When it returns, its servers, databases and processes are
// gone.
func Run(ctx context.Context, options Options) (table Table, err error) {
	options = options.withDefaults()
	if options.Case != "" && !slices.Contains(Cases(), options.Case) {
		return Table{}, fmt.Errorf("there is no case %q: use one of %s", options.Case, strings.Join(Cases(), ", "))
	}
	rig, err := newRig(ctx, options)
	if err != nil {
		return Table{}, fmt.Errorf("prepare the benchmark: %w", err)
	}
	defer rig.close(ctx, &err)
	table = Table{Schema: rig.schema, PostgreSQL: rig.version, Runs: options.Runs}
	for _, c := range cases {
		if options.Case != "" && options.Case != c.name {
			continue
		}
		ctx, cancel := context.WithTimeout(ctx, caseTimeout)
		rows, err := c.measure(ctx, rig)
		cancel()
		if err != nil {
			return Table{}, fmt.Errorf("case %s: %w", c.name, err)
		}
		table.Rows = append(table.Rows, rows...)
	}
	return table, nil
}
