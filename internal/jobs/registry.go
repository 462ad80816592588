package jobs

import (
	"slices"

	"lethe/internal/store/journal"
)

// The kinds of jobs. [Registry] describes them.
const (
	PurgeHistory   journal.Kind = "purge_history"
	DeleteRoom     journal.Kind = "delete_room"
	RetentionSweep journal.Kind = "retention_sweep"
	AbandonedSweep journal.Kind = "abandoned_sweep"
)

// The queues of tasks. Critical is for jobs that an operator watches, Default for
// other jobs that an operator has requested, and Low for jobs that sweeps make.
const (
	Critical journal.Queue = "critical"
	Default  journal.Queue = "default"
	Low                    = journal.LowQueue
)

// Queues returns all queues, the most urgent first.
func Queues() []journal.Queue { return []journal.Queue{Critical, Default, Low} }

// A Yield is a reason why a run gives its job back without a failure.
type Yield string

// The reasons. docs/metrics.md describes them.
const (
	YieldAbsorbed     Yield = "absorbed"
	YieldBrake        Yield = "brake"
	YieldDeletes      Yield = "deletes"
	YieldDiskFull     Yield = "disk full"
	YieldDrain        Yield = "drain"
	YieldFederation   Yield = "federation"
	YieldFleet        Yield = "fleet"
	YieldHeld         Yield = "held"
	YieldLowQueue     Yield = "low queue"
	YieldMappings     Yield = "mappings"
	YieldPaused       Yield = "paused"
	YieldPurgeDelay   Yield = "purge delay"
	YieldQueueFull    Yield = "queue full"
	YieldRate         Yield = "rate"
	YieldRedisRefuses Yield = "redis refuses"
	YieldRoomBusy     Yield = "room busy"
	YieldRoomLocked   Yield = "room locked"
	YieldRowLocked    Yield = "row locked"
	YieldSlice        Yield = "slice"
	YieldSynapse      Yield = "synapse"
	YieldTimeout      Yield = "timeout"
	YieldUnreachable  Yield = "database unreachable"
)

// An Action is what the reconciler does with a job.
type Action string

// The actions. docs/metrics.md describes them.
const (
	ActionReleased Action = "released"
	ActionMissed   Action = "missed"
	ActionEnqueued Action = "enqueued"
	ActionDue      Action = "due"
	ActionPaused   Action = "paused"
	ActionReopened Action = "reopened"
	ActionResumed  Action = "resumed"
	ActionSettled  Action = "settled"
)

// Actions returns all actions of the reconciler.
func Actions() []Action {
	return []Action{ActionReleased, ActionMissed, ActionEnqueued, ActionDue, ActionPaused, ActionReopened, ActionResumed, ActionSettled}
}

// A Definition describes a kind of job, except for the work itself. docs/metrics.md
// describes the values.
type Definition struct {
	Kind journal.Kind

	// Queue is the queue of the kind's tasks, unless a job names another.
	Queue journal.Queue

	// TaskAction is the name of the kind in the admin API's list of tasks.
	TaskAction string

	// Ends are the states in which a job of this kind may end.
	Ends []journal.State

	// Yields are the reasons why a run may give a job of this kind back.
	Yields []Yield

	// Sweep are the outcomes by which a sweep counts rooms, nil for other kinds.
	Sweep []string
}

var (
	registry = []Definition{
		{PurgeHistory, Default, "purge_history", anyEnd, yieldsOfRooms(YieldAbsorbed, YieldMappings), nil},
		{DeleteRoom, Critical, "shutdown_and_purge_room", append(slices.Clone(anyEnd), journal.Cancelled), yieldsOfRooms(YieldFederation, YieldPurgeDelay), nil},
		{RetentionSweep, Default, "retention_sweep", anyEnd, yieldsOfAll(YieldQueueFull), []string{
			"enqueued", "deleting", "purging", "held", "nothing_expired", "no_limit", "other_job", "failed",
		}},
		{AbandonedSweep, Default, "abandoned_sweep", anyEnd, yieldsOfAll(YieldDeletes, YieldQueueFull), []string{
			"enqueued", "deleting", "held", "excluded", "members", "recent", "undated", "cooling_off", "capped", "failed",
		}},
	}

	anyEnd = []journal.State{journal.Complete, journal.Failed}
)

// yieldsOfAll returns the reasons that every kind has, and further ones.
func yieldsOfAll(further ...Yield) []Yield {
	return append([]Yield{YieldDiskFull, YieldDrain, YieldFleet, YieldPaused, YieldRoomBusy, YieldRowLocked, YieldSlice, YieldTimeout, YieldUnreachable}, further...)
}

// yieldsOfRooms returns the reasons of every kind with a room, and further ones.
func yieldsOfRooms(further ...Yield) []Yield {
	return append(yieldsOfAll(YieldBrake, YieldHeld, YieldLowQueue, YieldRate, YieldRedisRefuses, YieldRoomLocked, YieldSynapse), further...)
}

// Registry returns the definitions of all kinds of jobs.
func Registry() []Definition { return slices.Clone(registry) }

// QueueOf returns the queue of a job's tasks: the one that the job names, or the
// default of its kind. A sweep is not in the queue of its purges: there it would
// have to wait for these before it could make the next ones.
func QueueOf(job journal.Job) journal.Queue {
	if job.Queue != "" {
		return job.Queue
	}
	for _, definition := range registry {
		if definition.Kind == job.Kind {
			return definition.Queue
		}
	}
	return Default
}
