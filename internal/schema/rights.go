package schema

import (
	"fmt"
	"slices"
	"strings"
)

// A Process is one of Lethe's processes. Each may have a role of its own in the
// database.
type Process string

const (
	// API serves requests and accepts jobs.
	API Process = "api"

	// Worker runs jobs.
	Worker Process = "worker"

	// Scheduler enqueues jobs, and deletes those that ended long ago.
	Scheduler Process = "scheduler"

	// Asynqmon shows the queues. It reads access tokens, unless a homeserver checks them.
	Asynqmon Process = "asynqmon"
)

// Processes returns all processes.
func Processes() []Process { return []Process{API, Worker, Scheduler, Asynqmon} }

// ParseProcess returns the process of the name. An error names all of them.
func ParseProcess(name string) (Process, error) {
	if p := Process(name); slices.Contains(Processes(), p) {
		return p, nil
	}
	return "", fmt.Errorf("%q is not one of %s, %s, %s and %s", name, API, Worker, Scheduler, Asynqmon)
}

// Uses returns the uses of Synapse's columns that are the process's.
func (p Process) Uses() Use {
	switch p {
	case API:
		return UseRead | UseAccess | UsePlan
	case Worker:
		return UsePurge | UseDelete | UseShutdown | UseSweep | UsePlan
	case Scheduler:
		return UseSchedule
	case Asynqmon:
		return UseAccess
	}
	return 0
}

// sequences are the sequences from which new rows take numbers, sorted by name, with the
// privilege that each process needs: USAGE to take one, SELECT to read the last.
var sequences = []struct {
	name   string
	rights map[Process]string
}{
	{"cache_invalidation_stream_seq", map[Process]string{API: "USAGE", Worker: "USAGE"}},
	{"event_auth_chain_id", map[Process]string{Worker: "USAGE"}},
	{"events_stream_seq", map[Process]string{API: "SELECT", Worker: "USAGE"}},
	{"state_group_id_seq", map[Process]string{Worker: "USAGE"}},
}

// An ownTable is a table of the schema lethe.
type ownTable struct {
	name string

	// rights are the privileges that the processes need on the table, separated by spaces.
	rights map[Process]string
}

// ownTables are all tables of the schema lethe, sorted by name.
var ownTables = []ownTable{
	{"abandoned_rooms", map[Process]string{API: "SELECT", Worker: "SELECT INSERT DELETE"}},
	{"audit", map[Process]string{API: "SELECT INSERT", Scheduler: "SELECT DELETE"}},
	{"brake", map[Process]string{API: "SELECT INSERT UPDATE DELETE", Worker: "SELECT"}},
	{"delayed_mappings", map[Process]string{Worker: "SELECT INSERT UPDATE DELETE"}},
	{"deployment", map[Process]string{API: "SELECT", Worker: "SELECT", Scheduler: "SELECT"}},
	{"fleet", map[Process]string{API: "SELECT INSERT UPDATE DELETE", Worker: "SELECT"}},
	{"holds", map[Process]string{API: "SELECT INSERT UPDATE", Worker: "SELECT", Scheduler: "SELECT"}},
	{"job_events", map[Process]string{API: "SELECT INSERT", Worker: "SELECT INSERT", Scheduler: "SELECT INSERT"}},
	{"jobs", map[Process]string{API: "SELECT INSERT UPDATE", Worker: "SELECT INSERT UPDATE", Scheduler: "SELECT INSERT UPDATE DELETE"}},
	{"migrations_embedded", map[Process]string{API: "SELECT", Worker: "SELECT", Scheduler: "SELECT"}},
	{"migrations_lethe", map[Process]string{API: "SELECT", Worker: "SELECT", Scheduler: "SELECT"}},
	{"pauses", map[Process]string{API: "SELECT INSERT UPDATE DELETE", Worker: "SELECT", Scheduler: "SELECT"}},
	{"room_fences", map[Process]string{API: "SELECT INSERT UPDATE", Worker: "SELECT INSERT UPDATE"}},
	{"schedules", map[Process]string{API: "SELECT", Scheduler: "SELECT INSERT UPDATE"}},
	{"state_group_candidates", map[Process]string{API: "SELECT", Worker: "SELECT INSERT UPDATE DELETE"}},
	{"swept_mappings", map[Process]string{API: "SELECT", Worker: "SELECT INSERT UPDATE"}},
}

// OwnTables returns the names of the tables of the schema lethe, sorted.
func OwnTables() []string {
	var names []string
	for _, t := range ownTables {
		names = append(names, t.name)
	}
	return names
}

// A Need is a privilege that processes need on a table, or on a sequence.
type Need struct {
	// Own says that the table is in the schema lethe, and not one of Synapse's.
	Own bool

	// Name is the name of the table or sequence, which needs no quotes.
	Name string

	// Sequence says that it is a sequence.
	Sequence bool

	// Privilege is SELECT, INSERT, UPDATE or DELETE, and of a sequence SELECT or USAGE.
	Privilege string

	// Columns are the columns to which the privilege is limited, nil for all columns. The
	// database may be without some of them.
	Columns []string
}

// Needs returns what the processes need together. Nothing is listed twice: the need of
// a whole table includes that of its columns. Tables of the operator's rules are not
// among them.
func Needs(processes ...Process) []Need {
	var needs []Need
	add := func(need Need) {
		i := slices.IndexFunc(needs, func(n Need) bool {
			return n.Own == need.Own && n.Name == need.Name && n.Privilege == need.Privilege
		})
		switch {
		case i < 0:
			needs = append(needs, need)
		case need.Columns == nil || needs[i].Columns == nil:
			needs[i].Columns = nil
		default:
			columns := slices.Concat(needs[i].Columns, need.Columns)
			slices.Sort(columns)
			needs[i].Columns = slices.Compact(columns)
		}
	}
	for _, process := range processes {
		for _, t := range ownTables {
			for privilege := range strings.FieldsSeq(t.rights[process]) {
				add(Need{Own: true, Name: t.name, Privilege: privilege})
			}
		}
		for i := range tables {
			for _, need := range tables[i].needs(process) {
				add(need)
			}
		}
		for _, s := range sequences {
			if s.rights[process] != "" {
				add(Need{Name: s.name, Sequence: true, Privilege: s.rights[process]})
			}
		}
	}
	return needs
}

// needs returns what a process needs on the table.
func (t *Table) needs(process Process) []Need {
	used := t.Used(process.Uses())
	if len(used) == 0 {
		return nil
	}
	rights := t.Rights
	switch {
	case process == API:
		rights = "SELECT " + t.API
	case process != Worker:
		rights = "SELECT"
	}
	var needs []Need
	for right := range strings.FieldsSeq(rights) {
		need := Need{Name: t.Name, Privilege: right}
		if privilege, column, ok := strings.Cut(strings.TrimSuffix(right, ")"), "("); ok {
			need.Privilege, need.Columns = privilege, []string{column}
		} else if right == "SELECT" && (t.ByColumn || process == API && len(t.Used(UseRead|UseAccess)) == 0) {
			// The api counts rows of tables that hold data of users. It must not read that.
			for _, c := range used {
				need.Columns = append(need.Columns, c.Name)
			}
		}
		needs = append(needs, need)
	}
	return needs
}
