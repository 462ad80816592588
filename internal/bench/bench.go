package bench

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"
)

// Options say what to measure, and on what.
type Options struct {
	// API is the program that is run as an api process, cmd/api. It has no default.
	API string

	// Case is the only case to run; see [Cases]. Defaults to all.
	Case string

	// Database is the URL of a database whose copies are worked on, such as one
	// with a real Synapse's tables. Its role must be a superuser, and nobody may
	// be connected to it. Defaults to a new one with Lethe's embedded schema, on
	// a server of our own.
	Database string

	// Dir is the directory below which our own server keeps its data: on a disk,
	// so that a commit costs what it costs. Defaults to the system's for
	// temporary files.
	Dir string

	// Dump is a file of pg_dump's custom format that is restored into our own
	// server and used like Database. Defaults to none.
	Dump string

	// Events is how many events the room of the purge has. Defaults to 200,000.
	Events int

	// Jobs is how many tiny purges there are. Defaults to 2,000.
	Jobs int

	// LargeEvents and SmallEvents are the sizes of the rooms that a worker's
	// memory is compared for. They default to 500,000 and 20,000.
	LargeEvents, SmallEvents int

	// Progress is told what is being done, and what workers warn of. Several may
	// write at a time, as to an [os.File]. Defaults to nobody.
	Progress io.Writer

	// Rooms is how many small rooms are deleted. Defaults to 10,000.
	Rooms int

	// Runs is how often everything is measured. Defaults to 3.
	Runs int

	// Scheduler is the program that runs beside the workers of a sweep,
	// cmd/scheduler. It has no default.
	Scheduler string

	// SweepRooms is how many rooms a retention sweep goes through, a tenth of which
	// has something to purge; at least 100. Defaults to 100,000.
	SweepRooms int

	// Synapse is the URL of a Synapse that pages are read from too: of the newest
	// Events of a room. Defaults to none.
	Synapse string

	// SynapseDatabase is the URL of its database, which is only read, and by an api
	// of our own too; SynapseToken the access token of a server admin who is in the
	// room of which the pages are: the largest of the admin's. They have no default
	// where Synapse is set.
	SynapseDatabase, SynapseToken string

	// Worker is the program that is run as a worker process, cmd/worker. It has
	// no default.
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

// cases are what there is to measure.
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

// caseTime bounds a case, which takes minutes with the default options.
const caseTime = 6 * time.Hour

// Run measures. When it returns, its servers, databases and processes are gone.
func Run(ctx context.Context, options Options) (table Table, err error) {
	options = options.withDefaults()
	if options.Case != "" && !slices.Contains(Cases(), options.Case) {
		return Table{}, fmt.Errorf("there is no case %q, but %s", options.Case, strings.Join(Cases(), ", "))
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
		ctx, cancel := context.WithTimeout(ctx, caseTime)
		rows, err := c.measure(ctx, rig)
		cancel()
		if err != nil {
			return Table{}, fmt.Errorf("case %s: %w", c.name, err)
		}
		table.Rows = append(table.Rows, rows...)
	}
	return table, nil
}
