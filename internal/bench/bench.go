package bench

import (
	"context"
	"errors"
	"flag"
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

	// Case is the cases to run, separated by commas: see [Cases]. Defaults to "", all
	// cases.
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

	// Events is the number of events of the room that is purged. The numbers have no
	// defaults but those of [Options.RegisterFlags].
	Events int

	// Jobs is the number of tiny purges.
	Jobs int

	// LargeEvents is the number of events of the large room for which the memory of
	// a worker is measured.
	LargeEvents int

	// SmallEvents is the number of events of the small room for which the memory of
	// a worker is measured.
	SmallEvents int

	// Progress gets messages about the progress, and the warnings of the workers. It
	// must be safe for concurrent use, as an [os.File] is. Defaults to [io.Discard].
	Progress io.Writer

	// Rooms is the number of small rooms that are deleted.
	Rooms int

	// Runs is how often everything is measured.
	Runs int

	// Scheduler is the path of the program cmd/scheduler. It has no default.
	Scheduler string

	// SweepRooms is the number of rooms of a retention sweep. A tenth of them has
	// expired events. It is at least 100.
	SweepRooms int

	// Synapse is the URL of a Synapse. Defaults to "", no Synapse.
	Synapse string

	// SynapseCommand is a command of the shell that runs a Synapse at that URL, on the
	// database that PGHOST, PGPORT, PGUSER, PGPASSWORD and PGDATABASE name, until it gets
	// SIGTERM. It is run on copies of Database or Dump, whose rooms it purges and deletes
	// as Lethe does. Defaults to "", no such comparison.
	SynapseCommand string

	// SynapseDatabase is the URL of the database of a Synapse that is running already,
	// whose pages are measured. It is only read. Defaults to "", no such comparison.
	SynapseDatabase string

	// SynapseToken is the access token of a server admin on that Synapse. The pages
	// are those of the largest room of the admin. It has no default if Synapse is
	// set.
	SynapseToken string

	// Worker is the path of the program cmd/worker. It has no default.
	Worker string
}

// RegisterFlags adds a flag for each option, with its default, but none for the programs.
func (o *Options) RegisterFlags(flags *flag.FlagSet) {
	flags.StringVar(&o.Case, "case", "", "run these cases only, separated by commas: "+strings.Join(Cases(), ", "))
	flags.StringVar(&o.Database, "database", "", "URL of a database to copy, as a superuser")
	flags.StringVar(&o.Dir, "dir", "", "directory for the data of the server that the benchmark starts")
	flags.StringVar(&o.Dump, "dump", "", "file of pg_dump -Fc to restore and copy")
	flags.IntVar(&o.Events, "events", 200_000, "number of events of the room that is purged")
	flags.IntVar(&o.Jobs, "jobs", 2000, "number of tiny purges")
	flags.IntVar(&o.LargeEvents, "large", 500_000, "number of events of the large room for the memory of a worker")
	flags.IntVar(&o.SmallEvents, "small", 20_000, "number of events of the small room for the memory of a worker")
	flags.IntVar(&o.Rooms, "rooms", 10_000, "number of small rooms that are deleted")
	flags.IntVar(&o.Runs, "runs", 3, "how often everything is measured")
	flags.IntVar(&o.SweepRooms, "sweep-rooms", 100_000, "number of rooms of a retention sweep, at least 100")
	flags.StringVar(&o.Synapse, "synapse", "", "URL of a Synapse to compare with")
	flags.StringVar(&o.SynapseCommand, "synapse-command", "", "command that runs that Synapse on the database of PGHOST, PGPORT, PGUSER, PGPASSWORD and PGDATABASE until SIGTERM; it purges and deletes too")
	flags.StringVar(&o.SynapseDatabase, "synapse-database", "", "URL of the database of a Synapse that runs already, whose pages are measured; it is only read")
	flags.StringVar(&o.SynapseToken, "synapse-token", "", "access token of a server admin on that Synapse; the pages are of the largest room of the admin")
}

// check returns what is wrong with the options, or nil.
func (o Options) check() error {
	switch "" {
	case o.API:
		return errors.New("API is not set")
	case o.Worker:
		return errors.New("Worker is not set")
	case o.Scheduler:
		return errors.New("Scheduler is not set")
	}
	for name := range strings.SplitSeq(o.Case, ",") {
		if o.Case != "" && !slices.Contains(Cases(), name) {
			return fmt.Errorf("there is no case %q: use one of %s", name, strings.Join(Cases(), ", "))
		}
	}
	switch {
	case min(o.Events, o.Jobs, o.LargeEvents, o.SmallEvents, o.Rooms, o.Runs, o.SweepRooms) < 1:
		return errors.New("numbers must be positive")
	case o.Synapse != "" && (o.SynapseToken == "" || o.SynapseDatabase == "" && o.SynapseCommand == ""):
		return errors.New("with Synapse, SynapseToken and SynapseDatabase or SynapseCommand must be set")
	case o.Synapse == "" && o.SynapseCommand+o.SynapseDatabase != "":
		return errors.New("with SynapseCommand or SynapseDatabase, Synapse must be set")
	case o.Database != "" && o.Dump != "":
		return errors.New("set a database or a dump, not both")
	}
	return nil
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
	{"edge", measureEdge},
	{"jobs", measureJobs},
	{"rooms", measureRooms},
	{"sweep", measureSweep},
	{"beside", measureBeside},
	{"synapse", measureAgainstSynapse},
	{"growth", measureGrowth},
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
	rig, err := newRig(ctx, options)
	if err != nil {
		return Table{}, fmt.Errorf("prepare the benchmark: %w", err)
	}
	defer rig.close(ctx, &err)
	table = Table{Schema: rig.schema, PostgreSQL: rig.version, Runs: options.Runs, Sizes: map[string]int{
		"events": options.Events, "jobs": options.Jobs, "large": options.LargeEvents, "small": options.SmallEvents,
		"rooms": options.Rooms, "sweep-rooms": options.SweepRooms,
	}}
	for _, c := range cases {
		if options.Case != "" && !slices.Contains(strings.Split(options.Case, ","), c.name) {
			continue
		}
		ctx, cancel := context.WithTimeout(ctx, caseTimeout)
		rows, err := c.measure(ctx, rig)
		cancel()
		if err != nil {
			return Table{}, fmt.Errorf("case %s: %w", c.name, err)
		}
		for _, row := range rows {
			row.Case = c.name
			table.Rows = append(table.Rows, row)
		}
	}
	return table, nil
}
